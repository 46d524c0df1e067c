"""What AWS Lambda's own tools are told, through Powertools: metrics, structured logs, traces.

Nothing here is imported before the first answer, unless a snapshot follows. The first answer's record is
written when Lambda's runtime client lets go of the answer: it has been posted by then, and the next event has
not been asked for, so that the process is not frozen yet. (AWS's emulator passes an answer on with the next
event alone.) Where a wrapper lets go of it earlier, the record is written earlier; where one keeps it, with
the next event. Only an instance that is killed in between loses it, and its log has had the report since the
start.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..phases import ColdStartReport

NAMESPACE = "Preheat"
"""CloudWatch's namespace, unless POWERTOOLS_METRICS_NAMESPACE names another."""


class Answered(dict[str, Any]):
    """An answer that calls ``then`` when nobody needs it any more."""

    def __init__(self, answer: Mapping[str, Any], then: Callable[[], None]) -> None:
        super().__init__(answer)
        self._then = then

    def __del__(self) -> None:
        self._then()


class Telemetry:
    """``environ``: the live environment, in which Lambda's client names the trace of each invocation.

    Raises ModuleNotFoundError where Powertools is not installed.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        from aws_lambda_powertools.logging import Logger
        from aws_lambda_powertools.metrics import EphemeralMetrics

        self._environ = environ
        self._name = environ.get("AWS_LAMBDA_FUNCTION_NAME", "preheat")
        service = environ.get("POWERTOOLS_SERVICE_NAME") or self._name
        namespace = environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE
        self._logger = Logger(service=service)
        made: Any = EphemeralMetrics  # not typed
        self._metrics: Callable[[], Any] = lambda: made(namespace=namespace, service=service)
        self._tracer: Any = None
        self._service = service

    def log(self, message: str, fields: Mapping[str, Any]) -> None:
        """A structured line, with what Powertools knows of the invocation."""
        self._logger.info(message, extra={"preheat": dict(fields)})

    def record(self, report: ColdStartReport, request_id: str) -> None:
        """A start's figures: metrics in CloudWatch's embedded format on standard output, one value a phase,
        and its phases as subsegments where the invocation is traced."""
        metrics = self._metrics()
        dimensions = self._dimensions(report)
        for name, value in dimensions.items():
            metrics.add_dimension(name=name, value=value)
        # An alarm names all the dimensions of a set: this one is for those on a version, whatever its starts.
        version = dimensions["function_version"]
        metrics.add_dimensions(service=self._service, function_version=version)
        for name, figure in figures(report).items():
            metrics.add_metric(name=name, unit="Milliseconds", value=figure)
        told = {"report": report.id, "instance": report.instance, "request_id": request_id}
        for name, value in told.items():
            metrics.add_metadata(key=name, value=value)
        metrics.flush_metrics()
        if self._traced:
            self._trace(report)

    @contextmanager
    def invocation(self, request_id: str) -> Iterator[None]:
        """Around an invocation: its id in every line, and a subsegment where it is traced."""
        self._logger.append_keys(function_request_id=request_id)
        if not self._traced:
            yield
            return
        with self._recorder.in_subsegment("## preheat"):
            yield

    def _dimensions(self, report: ColdStartReport) -> dict[str, str]:
        return {
            "function_name": self._name,
            "function_version": self._environ.get("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            "start": report.kind.value,
            "variant": str(report.facts["variant"]),
        }

    @property
    def _traced(self) -> bool:
        """Whether X-Ray samples this invocation, and Powertools' tracer is installed and not switched off."""
        if "Sampled=1" not in self._environ.get("_X_AMZN_TRACE_ID", ""):
            return False
        if not self._environ.get("AWS_XRAY_DAEMON_ADDRESS"):
            return False
        if self._tracer is None:
            self._tracer = self._open_tracer()
        return bool(self._tracer) and not self._tracer.disabled

    def _open_tracer(self) -> Any:
        try:
            from aws_lambda_powertools.tracing import Tracer

            return Tracer(service=self._service, auto_patch=False)
        except ImportError:  # aws-xray-sdk is an extra of its own
            return False

    @property
    def _recorder(self) -> Any:
        return self._tracer.provider

    def _trace(self, report: ColdStartReport) -> None:
        shift_ns = time.time_ns() - time.perf_counter_ns()
        recorder = self._recorder
        whole = recorder.begin_subsegment("## preheat start")
        whole.start_time = (report.origin_ns + shift_ns) / 1e9
        for name, value in self._dimensions(report).items():
            whole.put_annotation(name, value)
        for span in report.spans:
            part = recorder.begin_subsegment(f"### {span.phase.value}")
            part.start_time = (span.begin_ns + shift_ns) / 1e9
            recorder.end_subsegment((span.end_ns + shift_ns) / 1e9)
        recorder.end_subsegment((max(span.end_ns for span in report.spans) + shift_ns) / 1e9)


def figures(report: ColdStartReport) -> dict[str, float]:
    """Milliseconds by metric: each phase of a report, its spans added up; the total; what no phase has."""
    found = {"total_ms": round(report.total_ms, 3), "unaccounted_ms": round(report.unaccounted_ms, 3)}
    for phase in dict.fromkeys(span.phase for span in report.spans):
        spans = [span for span in report.spans if span.phase is phase]
        found[f"{phase.value}_ms"] = round(sum(span.end_ns - span.begin_ns for span in spans) / 1e6, 3)
    return found


def complain(error: Exception) -> None:
    """Telemetry that fails must fail no request."""
    print(f"warning: telemetry: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
