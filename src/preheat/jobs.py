"""Deferred requests: recorded with their key, answered later, by this instance or by another.

The ledger is the queue. A request is recorded as claimed and runs in a thread of this instance; if the
instance dies, its lease lapses, and any instance on the same ledger finds it among what is pending.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, NamedTuple

from .answer import pack, unpack
from .errors import (
    CancelledError,
    EngineError,
    FailedStartError,
    InProgressError,
    LedgerError,
    PreheatError,
    RequestError,
    ShedError,
    UnavailableError,
    UnprocessableError,
)
from .idempotency import mismatch
from .ledger import Claimed, InProgress, Replay, new_fence
from .workers import Workers

if TYPE_CHECKING:
    from .answer import Answer
    from .calls import Request
    from .service import Service

ATTEMPTS = 3
"""Executions of a request that meets a defect, before that is its outcome."""
LOOK_S = 1.0
"""Seconds between two looks for what other instances left behind."""
LONGEST_LOOK_S = 30.0
"""The same, while the ledger cannot be reached."""
LOOKED_AT = 1000
"""Records that an instance looks at for those of its own models, and tenant."""


class _Job(NamedTuple):
    name: str
    fence: str
    attempt: int
    request: bytes


class Jobs:
    """``rebuild`` makes a request of its recorded bytes; its key is not looked at. ``prefix``: of the records
    that may be taken over from other instances."""

    def __init__(self, service: Service, rebuild: Callable[[bytes], Request], prefix: str = "") -> None:
        self._service = service
        self._prefix = prefix
        self._rebuild = rebuild
        self._queue: deque[_Job] = deque()
        self._workers = Workers("preheat-deferred", lambda: service.admission.turns)
        self._held = 0
        self._looking = False
        self._stop = Event()
        self._lock = Lock()

    def accept(self, name: str, fingerprint: str, request: bytes) -> Answer | PreheatError | None:
        """Record a request and answer it later; its outcome where it has one already, None where it will.

        Raises ShedError where this instance has too many, UnprocessableError for a key that was used with
        another request, LedgerError.
        """
        with self._lock:
            if self._held >= self._service.admission.queue:
                raise ShedError(f"{self._held} deferred requests wait already")
            self._held += 1
        taken = False
        idempotency, fence = self._service.idempotency, new_fence()
        try:
            claim = idempotency.claim(name, fingerprint, fence, request)
            if isinstance(claim, Claimed):
                taken = True
                self._run_later(_Job(name, fence, claim.attempt, claim.request or request))
            elif isinstance(claim, Replay):
                return unpack(claim.outcome)
            elif not isinstance(claim, InProgress):
                raise mismatch()
        finally:
            if not taken:
                self._less()
        self.look_after()
        return None

    @property
    def held(self) -> int:
        """Deferred requests that wait or run in this instance."""
        return self._held

    def look_after(self) -> None:
        """Look for what other instances left behind, from now on, in a thread."""
        with self._lock:
            if self._looking or self._stop.is_set():
                return
            self._looking = True
        Thread(target=self._look, name="preheat-pending", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Begin nothing more, and wait for what runs; what was not begun is given up for others to find."""
        self._stop.set()
        with contextlib.suppress(IndexError):
            while True:
                job = self._queue.popleft()
                self._service.idempotency.give_up(job.name, job.fence)
                self._less()
        until = time.monotonic() + grace_s
        while self._held and time.monotonic() < until:
            time.sleep(0.01)

    def _run_later(self, job: _Job) -> None:
        self._service.idempotency.hold(job.name, job.fence)
        self._queue.append(job)
        self._workers.put(self._next)

    def _next(self) -> None:
        """Run the job that waits longest; none is left where ``stop`` was faster."""
        try:
            job = self._queue.popleft()
        except IndexError:
            return
        with self._service.telemetry.deferred() as seen:
            seen.outcome = self._finish(job)

    def _finish(self, job: _Job) -> str:
        """Run a request and record what came of it; in a word."""
        work = partial(self._outcome, job)
        try:
            result = self._service.idempotency.finish(job.name, job.fence, job.attempt, work)
        except (InProgressError, LedgerError, ShedError) as error:
            print(f"warning: a deferred request is left to others: {error}", file=sys.stderr)  # noqa: T201
            return "left"
        except Exception:  # a defect: the next execution may be luckier
            traceback.print_exc(file=sys.stderr)
            return "left"
        finally:
            self._less()
        outcome = unpack(result.outcome)
        if isinstance(outcome, PreheatError):
            return "failed" if isinstance(outcome, EngineError) else "rejected"
        return "ok"

    def _outcome(self, job: _Job) -> bytes:
        """Run a request until it has an outcome. Raises ShedError where this instance ends first, and
        whatever a defect raises, but for the last execution's."""
        try:
            request = self._rebuild(job.request)._replace(key=None, deadline_ns=0)
            self._service.telemetry.follow(request.link, request.tenant)
            while True:
                try:
                    arrived_ns = time.perf_counter_ns()
                    return pack(self._service.handle(request._replace(arrived_ns=arrived_ns)).answer)
                except FailedStartError:  # of a further model: a defect, which is not tried for ever
                    raise
                except UnavailableError as error:  # full for the moment, or too slow
                    if self._stop.wait(error.retry_after * random.uniform(0.5, 1.5)):  # noqa: S311
                        raise ShedError("the server is shutting down") from error
        except ShedError:
            raise
        except (UnprocessableError, CancelledError) as error:
            return pack(error)
        except RequestError as error:  # it fitted the artifact of the instance that took it
            return pack(UnprocessableError(str(error), code=error.code))
        except Exception:
            if job.attempt < ATTEMPTS:
                raise
            traceback.print_exc(file=sys.stderr)
            return pack(
                EngineError(f"it failed {job.attempt} times; the server's log has why", code="failed")
            )

    def _look(self) -> None:
        """Take over what is pending, as far as there is room; less often while the ledger is down."""
        pause, told = LOOK_S, ""
        while not self._stop.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - spreads the instances
            room, loaded = max(self._service.admission.turns - self._held, 0), self._service.current
            if not room or loaded is None:
                continue
            try:
                idempotency = self._service.idempotency
                scopes = (loaded.scope, *(self._service.models.scopes if self._service.models else ()))
                pending = idempotency.ledger.pending(max(room, LOOKED_AT))
                own = [
                    p for p in pending if p.key.startswith(self._prefix) and p.fingerprint.startswith(scopes)
                ]
                for name, fingerprint in own[:room]:
                    fence = new_fence()
                    claim = idempotency.claim(name, fingerprint, fence)
                    if isinstance(claim, Claimed) and claim.request:
                        with self._lock:
                            self._held += 1
                        self._run_later(_Job(name, fence, claim.attempt, claim.request))
                pause, told = LOOK_S, ""
            except LedgerError as error:
                pause = min(pause * 2, LONGEST_LOOK_S)
                if str(error) != told:
                    print(f"warning: {error}", file=sys.stderr, flush=True)  # noqa: T201
                told = str(error)

    def _less(self) -> None:
        with self._lock:
            self._held -= 1
