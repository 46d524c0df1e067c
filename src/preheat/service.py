"""One core behind every door: request -> admission -> engine -> outcome. It knows no transport.

Requests that arrive before readiness wait for it; at most ``concurrency`` run at once; at most ``queue`` more
wait for a turn, and one more than that is shed before any work is done for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from enum import Enum
from threading import Condition
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
        self._waiting = 0
        self._answered = False
        self._changed = Condition()

    def ready(self, loaded: Loaded) -> None:
        """The start is over: let what waits run, as many at a time as the session allows."""
        with self._changed:
            self._loaded = loaded
            self.max_bytes = loaded.max_bytes
            if self.state is State.STARTING:
                self.state = State.READY
            self._changed.notify_all()

    def fail(self, error: PreheatError) -> None:
        """The start failed: tell everyone who waits."""
        with self._changed:
            self.state, self._failure = State.FAILED, str(error)
            self._changed.notify_all()

    def drain(self) -> None:
        """Take nothing new, and finish what was accepted; after a failed start there is nothing to finish."""
        with self._changed:
            if self.state is not State.FAILED:
                self.state = State.DRAINING
            self._changed.notify_all()

    @property
    def current(self) -> Loaded | None:
        """What was loaded, without waiting for it."""
        return self._loaded

    def loaded(self, arrived_ns: int) -> Loaded:
        """What was loaded, waiting for it as a request would. Raises UnavailableError."""
        with self._changed:
            self._wait(lambda: self._loaded is not None, arrived_ns)
            assert self._loaded is not None  # noqa: S101 - what was waited for
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
            with self._changed:
                self._running -= 1
                self._changed.notify()
        ended = time.perf_counter_ns()
        cold = request.arrived_ns < loaded.report.ready_ns
        with self._changed:
            first, self._answered = not self._answered, True
        if first:
            loaded.report.first_request(request.arrived_ns)
        return Outcome(answer, cold or first, began - request.arrived_ns, ended - began)

    def _enter(self, arrived_ns: int) -> Loaded:
        with self._changed:
            if self.state is State.DRAINING:
                raise ShedError("the server is shutting down")
            if not self._may_run():
                if self._waiting >= self.queue:
                    raise ShedError(f"{self._waiting} requests are waiting already")
                self._wait(self._may_run, arrived_ns)
            self._running += 1
            assert self._loaded is not None  # noqa: S101 - _may_run
            return self._loaded

    def _may_run(self) -> bool:
        return self._loaded is not None and self._running < self._loaded.concurrency

    def _wait(self, condition: Callable[[], bool], arrived_ns: int) -> None:
        """Wait under the lock until a condition holds, the start fails or the deadline passes."""
        deadline = arrived_ns / 1e9 + self.timeout
        self._waiting += 1
        try:
            while not condition():
                if self.state is State.FAILED:
                    raise FailedStartError(f"the model did not start: {self._failure}")
                left = deadline - time.perf_counter()
                if left <= 0:
                    raise TimedOutError(f"no turn came within {self.timeout:g} s")
                self._changed.wait(left)
        finally:
            self._waiting -= 1
