"""One core behind every door: request -> admission -> engine -> outcome. It knows no transport.

Requests that arrive before readiness wait for it; at most ``concurrency`` run at once; at most ``queue`` more
wait for a turn, and one more than that is shed before any work is done for it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from threading import Event, Lock
from typing import TYPE_CHECKING, NamedTuple

from .errors import FailedStartError, PreheatError, ShedError, TimedOutError

if TYPE_CHECKING:
    from .bootstrap import Loaded

DEFAULT_MAX_BYTES = 16 * 1024 * 1024
"""Largest body until the artifact's own limit is known."""


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """The start failed; the reason is kept and told to every request."""
    DRAINING = "draining"
    """Finishing what was accepted; nothing new is taken."""


class Answer(NamedTuple):
    """What a piece of work gives back: bytes, ready to be sent by any door."""

    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Request(NamedTuple):
    """One piece of work, and when it came in."""

    work: Callable[[Loaded], Answer]
    """Decode, run, encode. Called at most once, when the request's turn has come."""
    arrived_ns: int
    """``perf_counter_ns`` at arrival; the deadline counts from here."""


class Outcome(NamedTuple):
    answer: Answer
    cold: bool
    """Whether the request waited for the start, or was the first after it."""
    waited_ns: int
    """From arrival to its turn."""
    ran_ns: int


class Service:
    def __init__(self, *, queue: int, timeout: float, max_bytes: int = 0) -> None:
        self.instance = os.urandom(8).hex()
        """Id of this instance, told with every answer."""
        self.max_bytes = max_bytes or DEFAULT_MAX_BYTES
        """Largest request body, in bytes, before and after decompression."""
        self.queue = queue
        self.timeout = timeout
        """Seconds that a request may wait for readiness and its turn."""
        self.state = State.STARTING
        self._loaded: Loaded | None = None
        self._failure = ""
        self._running = 0
        self._line: deque[_Turn] = deque()
        self._answered = False
        self._lock = Lock()
        self._settled = Event()

    def ready(self, loaded: Loaded) -> None:
        """The start is over: let what waits run, as many at a time as the session allows."""
        with self._lock:
            self._loaded = loaded
            self.max_bytes = loaded.max_bytes
            if self.state is State.STARTING:
                self.state = State.READY
            while self._line and self._running < loaded.concurrency:
                self._running += 1
                self._line.popleft().come()
        self._settled.set()

    def fail(self, error: PreheatError) -> None:
        """The start failed: tell everyone who waits."""
        with self._lock:
            self.state, self._failure = State.FAILED, str(error)
            while self._line:
                self._line.popleft().come()
        self._settled.set()

    def drain(self) -> None:
        """Take nothing new, and finish what was accepted; after a failed start there is nothing to finish."""
        with self._lock:
            if self.state is not State.FAILED:
                self.state = State.DRAINING

    @property
    def current(self) -> Loaded | None:
        """What was loaded, without waiting for it."""
        return self._loaded

    def loaded(self, arrived_ns: int) -> Loaded:
        """What was loaded, waiting for it as a request would. Raises UnavailableError."""
        if not self._settled.wait(self._left(arrived_ns)):
            raise self._timed_out()
        if self._loaded is None:
            raise self._failed()
        return self._loaded

    def handle(self, request: Request) -> Outcome:
        """Run a request when its turn has come.

        Raises ShedError where the queue is full or the server drains, TimedOutError where the deadline
        passed before the turn came, FailedStartError, and what the work itself raises.
        """
        loaded = self._enter(request.arrived_ns)
        began = time.perf_counter_ns()
        try:
            answer = request.work(loaded)
        finally:
            self._leave()
        ended = time.perf_counter_ns()
        cold = request.arrived_ns < loaded.report.ready_ns
        with self._lock:
            first, self._answered = not self._answered, True
        if first:
            loaded.report.first_request(request.arrived_ns)
        return Outcome(answer, cold or first, began - request.arrived_ns, ended - began)

    def _enter(self, arrived_ns: int) -> Loaded:
        """Return when the request's turn has come: first come, first served."""
        with self._lock:
            if self.state is State.FAILED:
                raise self._failed()
            if self.state is State.DRAINING:
                raise ShedError("the server is shutting down")
            if self._loaded is not None and self._running < self._loaded.concurrency:
                self._running += 1
                return self._loaded
            if len(self._line) >= self.queue:
                raise ShedError(f"{len(self._line)} requests are waiting already")
            turn = _Turn()
            self._line.append(turn)
        if not turn.wait(self._left(arrived_ns)):
            with self._lock:
                if turn in self._line:
                    self._line.remove(turn)
                    raise self._timed_out()
            # Its turn came in the very moment in which the wait ended.
        if self._loaded is None:
            raise self._failed()
        return self._loaded

    def _leave(self) -> None:
        """Hand the turn to the first in line, or give it back."""
        with self._lock:
            if self._line:
                self._line.popleft().come()
            else:
                self._running -= 1

    def _left(self, arrived_ns: int) -> float:
        """Seconds until the deadline of a request, at least 0."""
        return max(arrived_ns / 1e9 + self.timeout - time.perf_counter(), 0.0)

    def _timed_out(self) -> TimedOutError:
        return TimedOutError(f"no turn came within {self.timeout:g} s")

    def _failed(self) -> FailedStartError:
        return FailedStartError(f"the model did not start: {self._failure}")


class _Turn:
    """One request's place in line. A lock of its own wakes that request and no other."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lock.acquire()

    def come(self) -> None:
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Whether the turn came in time."""
        return self._lock.acquire(timeout=seconds)
