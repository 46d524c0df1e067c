"""One core behind every door: request -> admission -> ledger -> engine -> outcome. It knows no transport.

Requests that arrive before readiness wait for it. A request is decoded and checked first, so that what cannot
be answered claims nothing; then its key is claimed, if it has one; then it takes its turn at the engine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from enum import Enum
from threading import Event, Lock
from typing import TYPE_CHECKING

from .admission import Admission, Place
from .answer import Answer, pack, unpack
from .calls import Call, Outcome, Request
from .errors import FailedStartError, PreheatError, ShedError, TimedOutError, UnprocessableError
from .overrun import Preemptible
from .pauses import Pauses
from .principals import Principals
from .run import Run
from .telemetry import Telemetry

if TYPE_CHECKING:
    from .batching import Batcher
    from .bootstrap import Loaded
    from .engine import Engine
    from .idempotency import Idempotency
    from .jobs import Jobs
    from .models import Model, Models
    from .phases import ColdStartReport
    from .settings import Settings
    from .takeover import Takeover

DEFAULT_MAX_BYTES = 16 * 1024 * 1024
"""Largest body until the artifact's own limit is known."""


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """The start failed; the reason is kept and told to every request."""
    DRAINING = "draining"
    """Finishing what was accepted; nothing new is taken."""


class Service:
    """``idempotency``: opens the ledger when the first key comes."""

    def __init__(
        self,
        *,
        queue: int,
        timeout: float,
        max_bytes: int = 0,
        rate: float = 0.0,
        burst: int = 0,
        idempotency: Callable[[], Idempotency] | None = None,
        modes: Mapping[str, str] | None = None,
        principals: Principals | None = None,
        resumes: bool = False,
        shared: bool = True,
        telemetry: Telemetry | None = None,
        tenant: str = "",
    ) -> None:
        self.instance = os.urandom(8).hex()
        """Id of this instance, told with every answer."""
        self.max_bytes = max_bytes or DEFAULT_MAX_BYTES
        """Largest request body, in bytes, before and after decompression."""
        self.timeout = timeout
        """Seconds from arrival to the answer."""
        self.state = State.STARTING
        self.modes = modes or {"": "off"}
        """Per route, and under the empty name for all others: whether a request's key is ``off``,
        ``optional`` or ``required``."""
        self.principals = principals or Principals({}, None)
        """Tells whose a request is."""
        self.tenant = tenant
        """The one tenant that is served; empty for all."""
        self.admission = Admission(queue, rate=rate, burst=burst)
        self.telemetry = telemetry or Telemetry()
        self._open_idempotency = idempotency
        self._idempotency: Idempotency | None = None
        self._jobs: Jobs | None = None
        self.resumes = resumes
        """Whether other instances may have left deferred requests behind."""
        self._ledger_lacks = "" if shared else "ledger=local"
        """What is told with keyed answers: that no other instance would know of them."""
        self.defers = False
        """Whether this process goes on after an answer, so that a request may be answered later."""
        self._loaded: Loaded | None = None
        self._failure = ""
        self.answered = Event()
        """Set by the first answer of this start."""
        self.takeover: Takeover | None = None
        """What is to open another session beside the first answers."""
        self.models: Models | None = None
        """Models beside the function's own; None where there are none."""
        self._lock = Lock()
        self._settled = Event()
        """Set when the start is over, well or badly."""
        self._unproved: Loaded | None = None
        self._early = Preemptible(math.inf)
        """What ends a run on that."""
        self._at_hand = Event()
        """Set once there has been a session to run on, proved or not, or there will be none."""

    def early(self, loaded: Loaded | None) -> None:
        """A session is being proved: let the first that waits run on it. Whether that counts is known when
        the start is over. None: it was refused, and who runs on it is to let go of it."""
        with self._lock:
            self._unproved = loaded
        if loaded is not None:
            self._at_hand.set()
        else:
            self._early.preempt()

    def ready(self, loaded: Loaded) -> None:
        """The start is over: let what waits run, as many at a time as the session allows."""
        with self._lock:
            self._loaded, self._unproved = loaded, None
            self.max_bytes = loaded.max_bytes
            if self.state is State.STARTING:
                self.state = State.READY
        self.admission.open(loaded.concurrency)
        self._settle()
        self.telemetry.ready(loaded)

    def take_over(self, engine: Engine, batcher: Batcher | None, threads: int) -> Engine:
        """Let another session answer whatever takes its turn from now on; gives the one from before, on
        which requests may still run."""
        with self._lock:
            assert self._loaded is not None  # noqa: S101 - there is something to take over from
            before = self._loaded.engine
            self._loaded = self._loaded._replace(
                engine=engine, batcher=batcher, threads=threads, successor=None
            )
        return before

    def restored(self, report: ColdStartReport) -> None:
        """The process was restored from a snapshot: what comes now is the first of that start."""
        with self._lock:
            assert self._loaded is not None  # noqa: S101 - a snapshot is taken of what is ready
            loaded = self._loaded = self._loaded._replace(report=report)
            self.answered.clear()
        self.telemetry.restored(loaded)

    def fail(self, error: PreheatError) -> None:
        """The start failed: tell everyone who waits."""
        with self._lock:
            self.state, self._failure = State.FAILED, str(error)
        self.admission.close(self._failed(), waiting=True)
        self.early(None)
        self._settle()

    def drain(self) -> None:
        """Take nothing new, and finish what was accepted; after a failed start there is nothing to finish."""
        with self._lock:
            if self.state is State.FAILED:
                return
            self.state = State.DRAINING
        if self.takeover is not None:
            self.takeover.leave()
        self.admission.close(shutting_down(), waiting=False)

    def stop_starting(self) -> None:
        """Drain although the start is not over: it will never be, and whoever waits for it is shed."""
        self.early(None)
        self.drain()
        self.shed_waiting()
        self._settle()

    def _settle(self) -> None:
        self._settled.set()
        self._at_hand.set()

    def shed_waiting(self) -> None:
        """After ``drain``: send away whoever waits for a turn still."""
        self.admission.close(shutting_down(), waiting=True)

    def close(self, grace_s: float = 0.0) -> None:
        """Let deferred requests that run end, give up the keys that are held, close the ledger's client, send
        what telemetry is left; then wait for a session that is being opened, and watch no runs."""
        if self._jobs is not None:
            self._jobs.stop(grace_s)
        with self._lock:
            idempotency, self._idempotency = self._idempotency, None  # the next key opens another
        if idempotency is not None:
            idempotency.close()
        self.telemetry.close()
        if self.takeover is not None:
            self.takeover.close()
        if self.models is not None:
            self.models.close()
        if self._loaded is not None:
            self._loaded.engine.rest()

    def settled(self, timeout_s: float) -> bool:
        """Wait until the start is over, well or badly; whether it is."""
        return self._settled.wait(timeout_s)

    @property
    def held(self) -> int:
        """Deferred requests that this instance holds."""
        return self._jobs.held if self._jobs is not None else 0

    @property
    def current(self) -> Loaded | None:
        """What was loaded, without waiting for it."""
        return self._loaded

    def loaded(self, arrived_ns: int, deadline_ns: int = 0) -> Loaded:
        """What was loaded, waiting for it as a request would. Raises UnavailableError."""
        return self._loaded_by(self.until(arrived_ns, deadline_ns))

    def _loaded_by(self, until: float) -> Loaded:
        if not self._settled.wait(max(until - time.perf_counter(), 0.0)):
            raise TimedOutError("its deadline passed before the model was there")
        if self._loaded is None:
            raise shutting_down() if self.state is State.DRAINING else self._failed()
        return self._loaded

    @property
    def idempotency(self) -> Idempotency:
        """The ledger's side of keyed requests, opened when it is first asked for."""
        with self._lock:
            if self._idempotency is None:
                assert self._open_idempotency is not None  # noqa: S101 - a door asks where keys are taken
                self._idempotency = self._open_idempotency()
            return self._idempotency

    def deferred(self, make: Callable[[], Jobs]) -> Jobs:
        """The requests that are answered later; ``make`` is called for the first."""
        with self._lock:
            if self._jobs is None:
                self._jobs = make()
            return self._jobs

    @property
    def takes_keys(self) -> bool:
        """Whether any route takes an idempotency key."""
        return any(mode != "off" for mode in self.modes.values())

    def handle(self, request: Request) -> Outcome:
        """Answer a request when its turn has come. The turns are one lot for all models.

        Raises ShedError where there is no room or the server drains, ThrottledError where its tenant sends
        too much, TimedOutError where the deadline passed, FailedStartError, what ``Idempotency.run`` raises
        for a keyed request, and RequestError for what cannot be answered.
        """
        if request.model is None:
            return self._handle(request, self)
        with request.model.in_use():
            return self._handle(request, request.model)

    def _handle(self, request: Request, at: Service | Model) -> Outcome:
        """``at``: where its model is loaded."""
        until = self.until(request.arrived_ns, request.deadline_ns)
        if time.perf_counter() > until:
            raise TimedOutError("its deadline had passed when it came")
        place = request.place or self.admission.enter(request.tenant, soon=request.key is None)
        run = Run(self, place, until, at)
        try:
            call: Call | None = None
            if at is self and request.key is None and not self._settled.is_set():
                call = self._run_early(request, run)
            loaded = at.loaded(request.arrived_ns, request.deadline_ns)
            call = call or self._prepared(request, run.place, loaded)
            answer: Answer | PreheatError
            replayed, degraded = False, ""
            if request.key is None:
                answer = run.answer(loaded, call)
            else:
                key = request.key
                fingerprint = Pauses(self.admission, run.place).within(lambda: key.fingerprint(loaded))
                result = self.idempotency.run(
                    key.name,
                    fingerprint,
                    lambda: pack(_outcome(lambda: run.answer(loaded, call))),
                    wait=min(key.wait, max(until - time.perf_counter(), 0.0)),
                )
                answer, replayed = unpack(result.outcome), result.replayed
                degraded = "ledger" if result.degraded else self._ledger_lacks
        finally:
            self.admission.leave(run.place)
            self.telemetry.passed(run.asked_ns, run.began_ns, run.ended_ns, run.place.variant)
        if time.perf_counter() > until:
            raise TimedOutError("its deadline passed while its outcome was recorded; a retry gets that")
        cold = request.arrived_ns < loaded.report.ready_ns
        with self._lock:
            first = not at.answered.is_set()
            if first:
                at.answered.set()
        if first:
            loaded.report.first_request(request.arrived_ns)
        waited_ns = (run.began_ns or time.perf_counter_ns()) - request.arrived_ns
        ran_ns, variant = run.ended_ns - run.began_ns, "" if replayed else run.place.variant
        return Outcome(answer, cold or first, waited_ns, ran_ns, loaded, replayed, degraded, variant)

    def _prepared(self, request: Request, place: Place, loaded: Loaded) -> Call:
        return Pauses(self.admission, place).within(lambda: request.prepare(loaded))

    def _run_early(self, request: Request, run: Run) -> Call | None:
        """The request's call, run on a session that is being proved; None where there is none, or another
        request has run on it."""
        self._at_hand.wait(max(run.until - time.perf_counter(), 0.0))
        with self._lock:
            loaded, self._unproved = self._unproved, None
        if loaded is None:
            return None
        try:
            call = self._prepared(request, run.place, loaded)
        except Exception:
            self._loaded_by(run.until)  # nothing is told before the start is over
            raise
        run.early(loaded.engine, call, self._early)
        return call

    def until(self, arrived_ns: int, deadline_ns: int) -> float:
        """``time.perf_counter`` at which a request's time is up."""
        until = arrived_ns / 1e9 + self.timeout
        return min(until, deadline_ns / 1e9) if deadline_ns else until

    def _failed(self) -> FailedStartError:
        return FailedStartError(f"the model did not start: {self._failure}")


def shutting_down() -> ShedError:
    """What is said then to whoever is not answered."""
    return ShedError("the server is shutting down: send it again, another instance may answer")


def _outcome(work: Callable[[], Answer]) -> Answer | PreheatError:
    """The answer, or the refusal of the model, which is the request's outcome as much."""
    try:
        return work()
    except UnprocessableError as error:
        return error


def from_settings(
    settings: Settings, cache_dir: str, *, alone: bool = True, environ: Mapping[str, str] | None = None
) -> Service:
    """The service as the settings want it, and as OpenTelemetry's variables in ``environ`` do. ``alone``:
    whether no instance runs on another host."""
    local = os.path.join(cache_dir, "ledger.sqlite3")
    telemetry = Telemetry.from_settings(settings, environ or {})
    ledger = None
    if settings.ledger:  # what is wrong with it is told now, not to the first client
        from .ledger import open_ledger

        ledger = open_ledger(settings.ledger, blobs=settings.ledger_blobs)

    def idempotency() -> Idempotency:
        from .idempotency import Idempotency  # the first keyed request needs it, no other
        from .ledger import open_ledger
        from .ledger.observed import observed

        opened = ledger or open_ledger(f"sqlite:///{local}", blobs=settings.ledger_blobs)
        return Idempotency(
            observed(opened, telemetry),
            lease=settings.lease,
            keep=settings.idempotency_expiry,
            down=settings.ledger_down,
        )

    service = Service(
        queue=settings.queue,
        timeout=settings.timeout,
        max_bytes=settings.max_bytes,
        rate=settings.rate,
        burst=settings.burst,
        idempotency=idempotency,
        modes=settings.idempotency_modes(),
        principals=Principals.from_settings(settings),
        shared=bool(settings.ledger) or alone,
        resumes=bool(settings.ledger) or os.path.exists(local),
        telemetry=telemetry,
        tenant=settings.tenant,
    )
    if settings.models:
        from .model_places import named
        from .models import Models

        service.models = Models(service, named(settings.models), settings.models_bytes)
    return service
