"""``GET /metrics``: what was counted and what stands now, as Prometheus or OpenMetrics text.

prometheus_client is imported by the first scrape, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from .errors import NotFoundError
from .phases import Phase
from .service import State

try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.utils import floatToGoString
except ModuleNotFoundError as missing:
    raise NotFoundError(
        "metrics are rendered by prometheus_client, which is not installed: pip install 'preheat[metrics]'",
        code="no_metrics",
    ) from missing

if TYPE_CHECKING:
    from .metrics import Histogram
    from .service import Service


def render(service: Service, accept: str) -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics where ``Accept`` names it, else Prometheus' own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Instance(service))
    ProcessCollector(registry=registry)
    openmetrics = "application/openmetrics-text"
    encode, kind = choose_encoder(openmetrics if openmetrics in accept else "")
    return encode(registry), kind


class _Instance:
    """One service, as a collector."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        metrics = self._service.telemetry.metrics
        for counter in metrics.counters:
            family = CounterMetricFamily(counter.name, counter.text, labels=counter.labels)
            for values, count in counter.read().items():
                family.add_metric(values, count)
            yield family
        for histogram in metrics.histograms:
            yield _histogram(histogram)
        yield from self._now()
        yield from self._models()
        yield from self._start()

    def _now(self) -> Iterator[Metric]:
        service, admission = self._service, self._service.admission
        ready = service.state is State.READY
        for name, what, value in (
            ("preheat_ready", "1 where the golden check has passed and requests are taken", ready),
            ("preheat_queue_depth", "Requests that wait for a turn at the engine", admission.waiting),
            ("preheat_requests_running", "Requests at the engine", admission.running),
            ("preheat_requests_running_limit", "How many may run at once", admission.turns),
            ("preheat_places_taken", "Requests that were taken in and are not answered yet", admission.taken),
            ("preheat_places", "How many are taken in at most", admission.turns + admission.queue),
            ("preheat_deferred_requests", "Deferred requests that this instance holds", service.held),
        ):
            yield GaugeMetricFamily(name, what, value=float(value))

    def _models(self) -> Iterator[Metric]:
        models = self._service.models
        if models is None:
            return
        yield GaugeMetricFamily(
            "preheat_models_bytes", "What the loaded models take of the budget", value=float(models.taken)
        )
        yield GaugeMetricFamily(
            "preheat_models_bytes_limit", "What they may take", value=float(models.budget)
        )
        there = GaugeMetricFamily("preheat_model_loaded", "1 where a model is loaded", labels=("model",))
        took = GaugeMetricFamily("preheat_model_load_seconds", "What its latest load took", labels=("model",))
        for model in models.values():
            there.add_metric((model.name,), float(model.current is not None))
            if model.report is not None:
                took.add_metric((model.name,), model.report.total_ms / 1e3)
        yield there
        yield took

    def _start(self) -> Iterator[Metric]:
        from . import __version__

        loaded = self._service.current
        if loaded is None:
            return
        report = loaded.report
        artifact = report.facts["artifact"]
        build = {
            "version": __version__,
            "model": artifact["name"],
            "model_version": artifact["version"],
            "variant": loaded.engine.variant.name,
            "provider": loaded.engine.variant.requires.provider,
        }
        family = GaugeMetricFamily("preheat_build_info", "What runs here", labels=list(build))
        family.add_metric([str(value) for value in build.values()], 1)
        yield family
        family = GaugeMetricFamily(
            "preheat_start_seconds", "From the process's start to readiness", labels=("kind", "platform")
        )
        family.add_metric((report.kind.value, report.platform), report.total_ms / 1e3)
        yield family
        family = GaugeMetricFamily(
            "preheat_start_phase_seconds",
            "What each phase of the start took; phases overlap",
            labels=("phase",),
        )
        taken: dict[Phase, float] = {}
        for span in list(report.spans):
            taken[span.phase] = taken.get(span.phase, 0.0) + (span.end_ns - span.begin_ns) / 1e9
        for phase, seconds in taken.items():
            family.add_metric((phase.value,), seconds)
        yield family


def _histogram(histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(histogram.name, histogram.text, labels=histogram.labels)
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    for values, (counts, total) in histogram.read().items():
        family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
    return family
