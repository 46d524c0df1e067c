"""What every function does about a snapshot: nothing open when it is taken, nothing repeated after a restore.

Seeds come from the operating system, never from the time: clones of one snapshot may wake in the same tick.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from ..phases import ColdStartReport, Phase, PhaseClock, StartKind
from . import hooks

if TYPE_CHECKING:
    from ..adapters.aws_lambda import LambdaHandler
    from ..function import Function


def register(function: Function, handler: LambdaHandler) -> None:
    """Register the hooks of a function that was started. They are there before those that its module
    registers after ``function.handler``: so they run last before a snapshot, and first after a restore."""
    renewal = _Renewal(function, handler)
    hooks.before(renewal.close_clients)
    hooks.after(renewal.reseed)
    hooks.after(renewal.renew_instance)
    hooks.after(renewal.check_clock)
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


class _Renewal:
    def __init__(self, function: Function, handler: LambdaHandler) -> None:
        self._function = function
        self._handler = handler
        self._clock = PhaseClock()
        self._taken_at = 0.0

    def close_clients(self) -> None:
        """Close the ledger's client, giving up its keys, and the event loop; the clock is read last."""
        self._handler.close()
        self._taken_at = time.time()

    def reseed(self) -> None:
        self._clock = PhaseClock(time.perf_counter_ns())
        with self._clock.phase(Phase.RESTORE) as attributes:
            attributes["of"] = "seeds"
            reseed()

    def renew_instance(self) -> None:
        self._function.service.instance = os.urandom(8).hex()

    def check_clock(self) -> None:
        """Wait for a wall clock that still stands before the snapshot: whatever expires would seem valid."""
        with self._clock.phase(Phase.RESTORE) as attributes:
            deadline = time.monotonic() + 1.0
            while time.time() < self._taken_at and time.monotonic() < deadline:
                time.sleep(0.001)
            attributes.update(of="clock", age_s=round(time.time() - self._taken_at, 3))

    def prove_session(self) -> None:
        """One golden inference; and the report of this restore. Raises GoldenError."""
        from ..warmup import warm

        loaded = self._function.service.current
        assert loaded is not None  # noqa: S101 - the start was before the snapshot
        assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it
        with self._clock.phase(Phase.WARMUP) as attributes:
            attributes.update(warm(loaded.engine, loaded.artifact, once=True))
        before = loaded.report
        report = ColdStartReport(
            self._clock,
            instance=self._function.service.instance,
            kind=StartKind.RESTORED,
            platform=before.platform,
            facts=before.facts,
        )
        self._function.service.restored(report)
