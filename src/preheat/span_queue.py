"""What waits to become spans: bounded, emptied by a thread of its own, which no request waits for.

The thread begins at readiness and imports OpenTelemetry (a tenth of a second) when the first answer is out.
What was observed before is told then, with its own times.
"""

from __future__ import annotations

import sys
from collections import deque
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from .errors import PreheatError
from .trace_context import Trace

if TYPE_CHECKING:
    from .metrics import Metrics
    from .phases import ColdStartReport
    from .telemetry import Observation
    from .tracing import Tracing

LIMIT = 10_000
"""Requests whose spans wait; the oldest are dropped."""
PATIENCE_S = 2.0
"""Seconds after readiness that a first request is waited for, before the import begins without it."""
PERIOD_S = 0.25


class SpanQueue:
    def __init__(self) -> None:
        self._waiting: deque[Observation] = deque(maxlen=LIMIT)
        self._answered = Event()
        self._wake = Event()
        self._stop = False
        self._flush: Event | None = None
        self._flushing = Lock()
        self._thread: Thread | None = None
        self._tracing: Tracing | None = None
        self._report: ColdStartReport | None = None
        self._metrics: Metrics | None = None
        self._closed = False

    def open(self, report: ColdStartReport, metrics: Metrics) -> None:
        """The start is over; begin to send."""
        self._report, self._metrics = report, metrics
        if self._thread is None:
            self._thread = Thread(target=self._work, name="preheat-spans", daemon=True)
            self._thread.start()

    def decide(self, trace: Trace, name: str) -> Trace:
        """Ask the sampler; before it is there a trace counts as sampled unless the client said otherwise."""
        tracing = self._tracing
        return trace if tracing is None else trace._replace(sampled=tracing.samples(trace, name))

    def put(self, observation: Observation) -> None:
        """Tell of a request that was answered. Never waits."""
        self._answered.set()
        if self._closed or observation.trace is None or not observation.traced:
            return
        if self._tracing is not None and not observation.trace.sampled:
            return
        if len(self._waiting) == LIMIT and self._metrics is not None:
            self._metrics.untraced.add()
        self._waiting.append(observation)

    def flush(self, timeout_s: float) -> None:
        """Send what is there, and wait for that; returns at once while another flush waits."""
        if self._thread is None or self._closed or not self._flushing.acquire(blocking=False):
            return
        done = _Released(self._flushing)
        self._flush = done
        self._answered.set()
        self._wake.set()
        done.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Send what is there, and end; what is not gone in time is lost."""
        self._stop = True
        self._answered.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._closed = True

    def _work(self) -> None:
        self._answered.wait(PATIENCE_S)
        tracing = self._open()
        if tracing is None:
            self._closed = True
            self._waiting.clear()
            if self._flush is not None:
                self._flush.set()
            return
        self._tracing = tracing
        while True:
            self._wake.wait(PERIOD_S)
            self._wake.clear()
            stop, flush = self._stop, self._flush
            while self._waiting:
                tracing.request(self._waiting.popleft())
            if flush is not None:
                self._flush = None
                tracing.flush()
                flush.set()
            if stop:
                tracing.close()
                return

    def _open(self) -> Tracing | None:
        assert self._report is not None  # noqa: S101 - the thread begins with it
        try:
            from .tracing import Tracing

            return Tracing(self._report)
        except PreheatError as error:
            print(f"warning: {error}; nothing is traced", file=sys.stderr, flush=True)  # noqa: T201
            return None


class _Released(Event):
    """An event that lets the next flush begin when it is set, however long its own caller waited."""

    def __init__(self, lock: Lock) -> None:
        super().__init__()
        self._lock = lock

    def set(self) -> None:
        super().set()
        self._lock.release()
