"""OpenTelemetry: what was observed, as spans, to the collector that the OTEL_ variables name.

Imported after the start, by the thread of ``span_queue.py``. The SDK reads its own variables: sampler,
limits, headers, batches, resource attributes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import SettingsError, UsageError
from .phases import Phase, Span
from .trace_context import Trace, parse

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import (
        Link,
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )
except ModuleNotFoundError as missing:
    raise UsageError(
        f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and {missing.name} is not installed: "
        "pip install 'preheat[otel]'"
    ) from missing

if TYPE_CHECKING:
    from .phases import ColdStartReport
    from .telemetry import Observation

QUIET_S = 60.0
"""Seconds between two complaints about a collector that cannot be reached."""
TENANT_DIGITS = 16


class Tracing:
    """``report``: of this instance's start, told as the first spans. Raises SettingsError for a protocol
    other than OTLP over HTTP."""

    def __init__(self, report: ColdStartReport) -> None:
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        if protocol and protocol.strip() != "http/protobuf":
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: spans are sent by http/protobuf alone, to the "
                "collector's port for it (4318)"
            )
        _quieten()
        self._report = report
        self._ids = _GivenIds()
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._provider = TracerProvider(
            resource=_resource(report), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("preheat")
        self._start = self._cold_start()

    def samples(self, trace: Trace, name: str) -> bool:
        """Whether the sampler takes a trace."""
        result = self._provider.sampler.should_sample(
            _parent(trace), int(trace.trace_id, 16), name, trace_state=_state(trace)
        )
        return result.decision is Decision.RECORD_AND_SAMPLE

    def request(self, seen: Observation) -> None:
        """The spans of one request, or of one run of a deferred one."""
        trace, offset = seen.trace, _offset()
        assert trace is not None  # noqa: S101 - nothing else is queued
        self._ids.next = (int(trace.trace_id, 16), int(trace.span_id, 16))
        links = [Link(self._start)] if seen.start in ("cold", "restored") else []
        caused_by = parse(seen.link) if seen.link else None
        if caused_by is not None:
            links.append(Link(_context(caused_by)))
        facts = self._report.facts
        span = self._tracer.start_span(
            seen.name,
            _parent(trace),
            SpanKind.CONSUMER if seen.deferred else SpanKind.SERVER,
            {
                "preheat.variant": str(facts["variant"]),  # unless the run itself says otherwise
                **seen.attributes,
                "preheat.outcome": seen.outcome,
                **({"preheat.start": seen.start} if seen.start else {}),
                **({"preheat.tenant": tenant_digest(seen.tenant)} if seen.tenant else {}),
                **({"error.type": seen.error} if seen.error else {}),
            },
            links,
            seen.begin_ns + offset,
        )
        if span.is_recording():
            inside = set_span_in_context(span, Context())
            if seen.begin_ns < self._report.ready_ns:
                ready_ns = min(self._report.ready_ns, seen.end_ns)
                self._child("wait for the start", inside, seen.begin_ns + offset, ready_ns + offset, {})
            for mark in seen.marks:
                begin_ns, end_ns = mark.begin_ns + offset, mark.end_ns + offset
                self._child(mark.name, inside, begin_ns, end_ns, dict(mark.attributes))
        if seen.error:
            span.set_status(Status(StatusCode.ERROR))
        span.end(seen.end_ns + offset)

    def flush(self) -> None:
        """Send what is there; takes as long as the collector takes, or the exporter's timeout."""
        self._provider.force_flush()

    def close(self) -> None:
        self._provider.shutdown()

    def _cold_start(self) -> SpanContext:
        report, offset = self._report, _offset()
        span = self._tracer.start_span(
            "cold start",
            Context(),
            SpanKind.INTERNAL,
            {
                "preheat.start.id": report.id,
                "preheat.start.kind": report.kind.value,
                "preheat.platform": report.platform,
                **{
                    f"preheat.{name}": str(report.facts[name])
                    for name in ("variant", "provider", "threads", "fallback", "cache")
                    if report.facts.get(name) is not None
                },
            },
            start_time=report.origin_ns + offset,
        )
        inside = set_span_in_context(span, Context())
        for phase in _until_ready(report):
            attributes = {f"preheat.{name}": value for name, value in _plain(phase.attributes)}
            self._child(phase.phase.value, inside, phase.begin_ns + offset, phase.end_ns + offset, attributes)
        span.end(report.ready_ns + offset)
        return span.get_span_context()

    def _child(
        self, name: str, inside: Context, begin_ns: int, end_ns: int, attributes: dict[str, Any]
    ) -> None:
        span = self._tracer.start_span(name, inside, attributes=attributes, start_time=begin_ns)
        span.end(end_ns)


def tenant_digest(tenant: str) -> str:
    """What spans say of a tenant: they go to other people's systems, so not its name."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:TENANT_DIGITS]


class _GivenIds(IdGenerator):
    """Ids that were told to the client already, for the next span; random ones for every other."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.next[0] if self.next else random.SystemRandom().getrandbits(128) or 1

    def generate_span_id(self) -> int:
        given, self.next = self.next, None
        return given[1] if given else random.SystemRandom().getrandbits(64) or 1


class _Once(logging.Filter):
    """The SDK complains with every batch; one line a minute says as much."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + QUIET_S
        return True


def _quieten() -> None:
    logger = logging.getLogger("opentelemetry")
    if logger.handlers or logging.getLogger().handlers:
        return  # the function's own logging hears it
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: traces: %(message)s"))
    handler.addFilter(_Once())
    logger.addHandler(handler)


def _resource(report: ColdStartReport) -> Resource:
    """What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say, and what we know where they are silent."""
    artifact = report.facts["artifact"]
    ours = {
        "service.name": artifact["name"],
        "service.version": artifact["version"],
        "service.instance.id": report.instance,
    }
    told = OTELResourceDetector().detect().attributes
    return Resource.create().merge(Resource({k: v for k, v in ours.items() if k not in told}))


def _offset() -> int:
    """Nanoseconds from ``perf_counter_ns`` to the epoch, as of now: a clock that is set moves no span made
    before by more than itself."""
    return time.time_ns() - time.perf_counter_ns()


def _parent(trace: Trace) -> Context:
    if not trace.parent_id:
        return Context()
    return set_span_in_context(NonRecordingSpan(_context(trace)), Context())


def _context(trace: Trace) -> SpanContext:
    """The client's span."""
    flags = TraceFlags(TraceFlags.SAMPLED if trace.parent_sampled else TraceFlags.DEFAULT)
    return SpanContext(
        int(trace.trace_id, 16),
        int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=flags,
        trace_state=_state(trace),
    )


def _state(trace: Trace) -> TraceState | None:
    return TraceState.from_header([trace.state]) if trace.state else None


def _until_ready(report: ColdStartReport) -> Iterator[Span]:
    """The phases of the start proper, in order; the first request has a span of its own."""
    for span in sorted(report.spans, key=lambda s: s.begin_ns):
        if span.phase is not Phase.FIRST_REQUEST:
            yield span


def _plain(attributes: Any) -> Iterator[tuple[str, Any]]:
    for name, value in attributes.items():
        if value is not None:
            yield name, value if isinstance(value, str | bool | int | float) else str(value)
