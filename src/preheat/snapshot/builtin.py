"""What every function does about a snapshot: nothing open when it is taken, nothing repeated after a restore.

Seeds come from the operating system, never from the time: clones of one snapshot may wake in the same tick.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..phases import ColdStartReport, Phase, PhaseClock, StartKind
from . import hooks

if TYPE_CHECKING:
    from ..adapters.aws_lambda import LambdaHandler
    from ..function import Function


def register(function: Function, handler: LambdaHandler) -> None:
    """Register the hooks of a function that was started on Lambda. They are there before those that its
    module registers after ``function.handler``: so they run last before a snapshot, and first after a
    restore."""
    renewal = Renewal("snapstart")
    renewal.adopt(function, handler.close)
    renewal.register()
    hooks.after(renewal.prove_session)


def reseed() -> None:
    """New seeds for the generators that modules share: ``random``, and numpy's where it was loaded."""
    if "random" in sys.modules:
        sys.modules["random"].seed(os.urandom(32))
    if "numpy.random" in sys.modules:
        words = [int.from_bytes(os.urandom(4), "little") for _ in range(8)]
        sys.modules["numpy.random"].seed(words)
    if getattr(sys.modules.get("tempfile"), "_name_sequence", None) is not None:
        # It renews its generator when the process's id changes, which a restore does not change.
        sys.modules["tempfile"]._name_sequence = None  # type: ignore[attr-defined]


class Renewal:
    """The hooks of one function, and the clock of its restore. ``kind``: what restores it, told in reports:
    ``snapstart``, ``fork`` or ``criu``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.facts: dict[str, object] = {"restore": kind}
        """What its report says beside what the snapshot's own said."""
        self.clock = PhaseClock()
        self.woken_ns = 0
        """``perf_counter_ns`` at which the restore began, where that is known from outside."""
        self.instance = ""
        """The instance's new id, where somebody has drawn it already."""
        self._function: Function | None = None
        self._close: Callable[[], None] = lambda: None
        self._taken_at = 0.0

    def adopt(self, function: Function, close: Callable[[], None]) -> None:
        """Say what is renewed. ``close``: closes all that it has open, to be opened again by who needs it."""
        self._function, self._close = function, close

    def register(self) -> None:
        """Register all hooks but the proof of the session."""
        hooks.before(self.close_clients)
        hooks.after(self.reseed)
        hooks.after(self.renew_instance)
        hooks.after(self.check_clock)

    @property
    def function(self) -> Function:
        assert self._function is not None  # noqa: S101 - it was started before the snapshot
        return self._function

    def close_clients(self) -> None:
        """Close the ledger's client, giving up its keys, and the event loop; the clock is read last. A
        session that is to take over does so first."""
        if self._function is not None and self._function.service.takeover is not None:
            self._function.service.takeover.finish()
        self._close()
        self._taken_at = time.time()

    def reseed(self) -> None:
        self.clock = PhaseClock(self.woken_ns or time.perf_counter_ns())
        with self.clock.phase(Phase.RESTORE) as attributes:
            attributes["of"] = "seeds"
            reseed()

    def renew_instance(self) -> None:
        self.function.service.instance = self.instance or os.urandom(8).hex()

    def check_clock(self) -> None:
        """Wait for a wall clock that still stands before the snapshot: whatever expires would seem valid."""
        with self.clock.phase(Phase.RESTORE) as attributes:
            deadline = time.monotonic() + 1.0
            while time.time() < self._taken_at and time.monotonic() < deadline:
                time.sleep(0.001)
            attributes.update(of="clock", age_s=round(time.time() - self._taken_at, 3))

    def prove_session(self) -> None:
        """One golden inference; and the report of this restore. Raises GoldenError."""
        from ..warmup import warm

        loaded = self.function.service.current
        assert loaded is not None  # noqa: S101 - the start was before the snapshot
        assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it
        with self.clock.phase(Phase.WARMUP) as attributes:
            attributes.update(warm(loaded.engine, loaded.artifact, once=True))
        self.report()

    def report(self) -> ColdStartReport:
        """End the restore: what comes now is the first of this instance."""
        loaded = self.function.service.current
        assert loaded is not None  # noqa: S101 - see prove_session
        report = ColdStartReport(
            self.clock,
            instance=self.function.service.instance,
            kind=StartKind.RESTORED,
            platform=loaded.report.platform,
            facts={**loaded.report.facts, **self.facts},
        )
        self.function.service.restored(report)
        return report
