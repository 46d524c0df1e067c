"""A second session, opened beside the first one's answers, that takes over from it.

For a large model the variant that opens soonest answers first, and the one that runs fastest takes over; a
clone of a one-thread template answers with what it inherited, and a session of more threads takes over. The
second one is proved by the golden inferences before it answers anything. Whatever fails, the first one stays.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .errors import EngineError, PreheatError
from .manifest import Variant

if TYPE_CHECKING:
    from .engine import Engine
    from .service import Service
    from .settings import Settings

ALONE_S = 1.0
"""Seconds for which a first answer is waited for: nobody may ask."""
SETTLE_S = 0.1
"""Seconds after the first answer in which it is left to reach its client."""
BUSY_S = 0.5
"""Seconds for which a moment is waited for in which nothing runs."""
LOOK_S = 0.02
CLOSE_S = 5.0
"""Seconds that closing waits for a session that is being opened, which nothing can interrupt."""

PACK_IN_PARALLEL = "session.prepack.enable_parallel"

Tell = Callable[[Mapping[str, Any]], None]


class Takeover:
    """Waits for its moment in a thread of its own, then does it. ``tell``: hears how it ended.

    The thread is no daemon: an interpreter that ends must not pull onnxruntime away under it. It gives up as
    soon as the main thread has ended.
    """

    def __init__(
        self, service: Service, variant: Variant, threads: int, settings: Settings, tell: Tell
    ) -> None:
        self._service = service
        self._variant = variant
        self._threads = threads
        self._settings = settings
        self._tell = tell
        self._now = threading.Event()
        self._left = False
        self._thread = threading.Thread(target=self._run, name="preheat-takeover")

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Do not wait for the moment, and return when it is done: a snapshot follows."""
        self._now.set()
        self._thread.join()

    def leave(self) -> None:
        """Do not begin any more; what has begun goes on."""
        self._left = True
        self._now.set()

    def close(self) -> None:
        """Leave, and wait until nothing of it runs, CLOSE_S at most."""
        self.leave()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        self._wait()
        if not self._left and (self._now.is_set() or threading.main_thread().is_alive()):
            with suppress(PreheatError):  # told already
                take_over(self._service, self._variant, self._threads, self._settings, tell=self._tell)

    def _wait(self) -> None:
        service = self._service
        if self._until(service.answered.is_set, ALONE_S) and not self._now.wait(SETTLE_S):
            self._until(lambda: not service.admission.running, BUSY_S)

    def _until(self, reached: Callable[[], bool], seconds: float) -> bool:
        """Whether that was reached in time, and nobody said otherwise meanwhile."""
        until = time.monotonic() + seconds
        while not reached():
            if self._now.wait(LOOK_S) or time.monotonic() > until or not threading.main_thread().is_alive():
                return False
        return True


def take_over(
    service: Service,
    variant: Variant,
    threads: int,
    settings: Settings,
    *,
    tell: Tell | None = None,
    keep: Callable[[Engine], None] | None = None,
) -> None:
    """Open a variant, prove it, let it answer from now on; return when the session before it is freed.

    Requests that run end on the session on which they began. ``keep``: takes the engine from before, for one
    that must not be freed. Raises EngineError or ArtifactError, after ``tell`` heard of it; the session from
    before then answers on.
    """
    from . import arena  # all four are loaded: bootstrap needed them
    from .batching import batcher
    from .compile import compile
    from .warmup import warm

    loaded = service.current
    assert loaded is not None  # noqa: S101 - there is something to take over from
    assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it

    def state(name: str, **more: Any) -> None:
        now = service.current
        assert now is not None  # noqa: S101 - see above
        facts = {"variant": variant.name, "state": name, **more}
        now.report.facts = {**now.report.facts, "takeover": facts}
        if tell is not None and name != "opening":
            tell(facts)

    began_ns = time.perf_counter_ns()
    state("opening")
    try:
        manifest = loaded.artifact.manifest
        # Both sessions' weights are there for a while, a clone's for good.
        weights = manifest.weight_bytes(loaded.engine.variant) + manifest.weight_bytes(variant)
        arena.hold(settings.memory_bytes, weights)
        # On one thread: packing in parallel would take every CPU from the requests that run meanwhile.
        config = {key: value for key, value in variant.config.items() if key != PACK_IN_PARALLEL}
        engine = compile(loaded.artifact, variant._replace(config=config), threads=threads)
        opened_ns = time.perf_counter_ns()
        proof = warm(engine, loaded.artifact)
        joins = batcher(engine, settings)
    except PreheatError as error:
        state("failed", error=str(error))
        raise
    except Exception as error:  # of a library, in a thread that nobody watches
        state("failed", error=f"{type(error).__name__}: {error}")
        raise EngineError(f"variant {variant.name!r} cannot take over: {error}") from error
    before = [service.take_over(engine, joins, threads)]  # in a list: no name of this frame holds it
    swapped_ns = time.perf_counter_ns()
    state(
        "done",
        at_ms=round((swapped_ns - loaded.report.origin_ns) / 1e6, 3),
        session_ms=round((opened_ns - began_ns) / 1e6, 3),
        warmup_ms=round((swapped_ns - opened_ns) / 1e6, 3),
        **proof,
    )
    del loaded, joins
    if keep is not None:
        keep(before.pop())
    free(before, service.timeout)
    give_back()


def free(engines: list[Engine], seconds: float) -> None:
    """Drop a session when its last run has ended: here, and not in the thread of that run's request."""
    until = time.monotonic() + seconds
    while engines and sys.getrefcount(engines[0]) > 2:  # the list's own, and the call's
        if time.monotonic() > until or not threading.main_thread().is_alive():
            break
        time.sleep(LOOK_S)
    engines.clear()


def give_back() -> None:
    """Return to the system what opening a session allocated and freed, where libc can (glibc's
    malloc_trim)."""
    import ctypes  # no start needs it

    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
