"""What requests and the start leave behind for those who watch: metrics at once, spans and a log line later.

A request is observed by the thread that answers it: what happens on its way (a wait, a run, a call to the
ledger) leaves a mark with the observation of its thread. OpenTelemetry is imported after the start, by
``span_queue.py``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING, Any, NamedTuple

from .metrics import OTHER, Metrics

if TYPE_CHECKING:
    from .bootstrap import Loaded
    from .settings import Settings
    from .span_queue import SpanQueue
    from .trace_context import Trace

FLUSH_S = 2.0
"""Seconds that telemetry may take to leave when the server ends, or before an answer where that is wanted."""


class Mark(NamedTuple):
    """A part of a request's time, as it happened."""

    name: str
    begin_ns: int
    """``perf_counter_ns``, as every time here."""
    end_ns: int
    attributes: Mapping[str, Any]


class Observation:
    """One request, or one run of a deferred one, while it is looked at by its thread."""

    __slots__ = (
        *("attributes", "begin_ns", "deferred", "end_ns", "error", "link", "marks", "method", "name"),
        *("outcome", "route", "start", "status", "tenant", "trace"),
    )

    def __init__(self, method: str, route: str, begin_ns: int, *, deferred: bool = False) -> None:
        self.method = method
        self.route = route
        self.name = f"{method} {route}" if route != OTHER else method
        self.begin_ns = begin_ns
        self.end_ns = 0
        self.trace: Trace | None = None
        self.deferred = deferred
        self.link = ""
        """``traceparent`` of the request that caused this run."""
        self.tenant = ""
        self.outcome = ""
        self.status = 0
        self.start = ""
        """cold, warm or restored, where inference was answered."""
        self.error = ""
        """What went wrong here, where that is not the client's; empty for nothing."""
        self.attributes: dict[str, Any] = {}
        """What only a span has."""
        self.marks: list[Mark] = []

    @property
    def traced(self) -> bool:
        """Whether this process records spans of it."""
        return self.trace is not None and bool(self.trace.span_id)

    def spent_ms(self, name: str) -> float:
        return sum(mark.end_ns - mark.begin_ns for mark in self.marks if mark.name == name) / 1e6


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether spans are to be sent anywhere, by OpenTelemetry's own variables."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environ.get("OTEL_TRACES_EXPORTER", "") or "otlp"
    return bool(endpoint) and not disabled and "otlp" in [name.strip() for name in exporters.split(",")]


class Telemetry:
    """``tenants``: how many are told apart in metrics. ``access_log``: whether each request leaves a line.
    ``spans``: where spans go; None where nobody wants them."""

    def __init__(
        self, *, tenants: int = 100, access_log: bool = False, spans: SpanQueue | None = None
    ) -> None:
        self._tenants = tenants
        self.metrics = Metrics(tenants)
        self._access_log = access_log
        self._spans = spans
        self._local = local()
        self._instance = ""

    @classmethod
    def from_settings(cls, settings: Settings, environ: Mapping[str, str]) -> Telemetry:
        """As the settings want it, and as OpenTelemetry's variables in ``environ`` do."""
        spans = None
        if wanted(environ):
            from .span_queue import SpanQueue

            spans = SpanQueue()
        return cls(tenants=settings.metrics_tenants, access_log=settings.access_log == "on", spans=spans)

    @property
    def current(self) -> Observation | None:
        """What the thread answers now."""
        found: Observation | None = getattr(self._local, "observation", None)
        return found

    def ready(self, loaded: Loaded) -> None:
        """The start is over."""
        self._instance = loaded.report.instance
        if self._spans is not None:
            self._spans.open(loaded.report, self.metrics)

    def restored(self, loaded: Loaded) -> None:
        """The process was restored from a snapshot, which ``close`` came before: spans are sent anew, and it
        counts from zero, as every instance does."""
        self.metrics = Metrics(self._tenants)
        if self._spans is not None:
            from .span_queue import SpanQueue

            self._spans = SpanQueue()
        self.ready(loaded)

    def begin(
        self, method: str, route: str, begin_ns: int, headers: Mapping[str, str], *, quiet: bool = False
    ) -> Observation:
        """A request came. ``quiet``: it is counted alone, without spans or a line in the log."""
        seen = Observation(method, route, begin_ns)
        if not quiet and (self._spans is not None or "traceparent" in headers):
            seen.trace = self._trace(headers.get("traceparent", ""), headers.get("tracestate", ""), seen.name)
        return seen

    def bind(self, tenant: str) -> None:
        """The thread's request is sent by this tenant, as verified."""
        observation = self.current
        if observation is not None:
            observation.tenant = tenant

    def end(self, observation: Observation, *, quiet: bool = False) -> None:
        """It was answered: ``outcome``, ``status`` and what else is known stand in the observation."""
        observation.end_ns = time.perf_counter_ns()
        if observation.deferred:
            self.metrics.deferred.add((observation.outcome,))
        else:
            seconds = (observation.end_ns - observation.begin_ns) / 1e9
            self.metrics.request(
                observation.method, observation.route, observation.outcome, observation.tenant, seconds
            )
            if observation.start:
                self.metrics.starts.add((observation.start,))
        if quiet:
            return
        if self._access_log:
            self._log(observation)
        if self._spans is not None:
            self._spans.put(observation)

    def look_at(self, observation: Observation | None) -> Observation | None:
        """Make it the thread's own; gives the one that was it before."""
        before, self._local.observation = self.current, observation
        return before

    @contextmanager
    def deferred(self) -> Iterator[Observation]:
        """Observe a run of a deferred request in this thread; what it follows from is told by ``follow``."""
        observation = Observation("", "deferred", time.perf_counter_ns(), deferred=True)
        observation.name, observation.outcome = "deferred request", "failed"
        before = self.look_at(observation)
        try:
            yield observation
        finally:
            self.look_at(before)
            self.end(observation)

    def follow(self, link: str, tenant: str) -> None:
        """This thread runs what another request (``link``: its ``traceparent``) left for later."""
        observation = self.current
        if observation is None or not observation.deferred:
            return
        observation.tenant, observation.link = tenant, link
        observation.trace = self._trace(link, "", observation.name)

    def _trace(self, traceparent: str, state: str, name: str) -> Trace | None:
        from .trace_context import child_of, parse  # where nobody traces, nobody needs it

        parent = parse(traceparent, state)
        return parent if self._spans is None else self._spans.decide(child_of(parent), name)

    @property
    def traceparent(self) -> str:
        """What follows from the thread's request is a child of this; empty where no spans are recorded."""
        observation = self.current
        if observation is None or observation.trace is None or not observation.traced:
            return ""
        return observation.trace.header

    def passed(self, asked_ns: int, began_ns: int, ended_ns: int, variant: str = "") -> None:
        """A request left the engine, or the line before it. ``asked_ns``: when it asked for its turn; the
        others are 0, and ``variant`` is empty, where it did not get that far."""
        if not asked_ns:
            return
        until = began_ns or time.perf_counter_ns()
        self.metrics.wait.observe((until - asked_ns) / 1e9)
        observation = self.current
        if observation is not None:
            observation.marks.append(Mark("wait", asked_ns, until, {}))
            if variant:
                observation.attributes["preheat.variant"] = variant
            if ended_ns:
                observation.marks.append(Mark("run", began_ns, ended_ns, {}))

    def ran(self, began_ns: int, ended_ns: int, requests: int = 1) -> None:
        """The session ran once, for so many requests; 0: a piece of one that others follow."""
        self.metrics.run.observe((ended_ns - began_ns) / 1e9)
        if requests:
            self.metrics.batch.observe(requests)

    def preempted(self, times: int) -> None:
        """A run was ended so often for other tenants'."""
        for _ in range(times):
            self.metrics.preempted.add()

    def operation(self, name: str, result: str, began_ns: int) -> None:
        """A call to the ledger ended now."""
        ended_ns = time.perf_counter_ns()
        self.metrics.ledger.add((name, result))
        self.metrics.ledger_duration.observe((ended_ns - began_ns) / 1e9, (name,))
        observation = self.current
        if observation is not None:
            observation.marks.append(
                Mark(f"ledger {name}", began_ns, ended_ns, {"preheat.ledger.result": result})
            )

    def flush(self) -> None:
        """Send what is there, waiting no longer than FLUSH_S; not at all while an earlier flush hangs."""
        if self._spans is not None:
            self._spans.flush(FLUSH_S)

    def close(self) -> None:
        """Send what is there, and end, within FLUSH_S."""
        if self._spans is not None:
            self._spans.close(FLUSH_S)

    def _log(self, observation: Observation) -> None:
        trace = observation.trace
        line: dict[str, Any] = {
            "message": "deferred request" if observation.deferred else "request",
            "instance": self._instance,
            **({} if observation.deferred else {"method": observation.method, "route": observation.route}),
            **({"status": observation.status} if observation.status else {}),
            "outcome": observation.outcome,
            "tenant": observation.tenant,
            **({"start": observation.start} if observation.start else {}),
            "duration_ms": round((observation.end_ns - observation.begin_ns) / 1e6, 3),
            "wait_ms": round(observation.spent_ms("wait"), 3),
            "run_ms": round(observation.spent_ms("run"), 3),
        }
        if trace is not None:
            line["trace_id"] = trace.trace_id
            line["span_id"] = trace.span_id or trace.parent_id
        sys.stdout.write(json.dumps(line) + "\n")  # one write: lines of several threads stay whole
        sys.stdout.flush()
