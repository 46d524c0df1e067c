"""What is counted while requests pass: counters and histograms of fixed buckets, from several threads.

Nothing here knows an exposition format: ``exposition.py`` renders at scrape time, so that counting costs a
request some hundred nanoseconds and the cold path no library. Seconds and requests, as Prometheus wants them.
"""

from __future__ import annotations

from bisect import bisect_left
from threading import Lock

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of durations: from a small model's run to a large one's queue."""
BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Upper bounds of requests in one run."""
OUTCOMES = (
    *("ok", "accepted", "rejected", "in_progress", "throttled", "shed", "timed_out", "failed"),
    "unavailable",
)
"""The classes of which every request falls into exactly one; ``x-preheat-outcome`` says the same."""
OTHER = "other"
"""The label of whatever is not told apart."""
LONGEST_LABEL = 128
"""Characters of a tenant's name that a label keeps."""

Labels = tuple[str, ...]


class Counter:
    """``text``: what is counted, in a sentence. ``labels``: names of what it is told apart by."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.name = name
        self.text = text
        self.labels = labels
        self._values: dict[Labels, int] = {} if labels else {(): 0}
        self._lock = Lock()

    def add(self, values: Labels = ()) -> None:
        """One more. ``values``: of the labels, in their order."""
        with self._lock:
            self._values[values] = self._values.get(values, 0) + 1

    def start_at_zero(self, *series: Labels) -> None:
        """Show series before their first event: a rate needs a beginning."""
        with self._lock:
            for values in series:
                self._values.setdefault(values, 0)

    def read(self) -> dict[Labels, int]:
        with self._lock:
            return dict(self._values)


class Histogram:
    """``bounds``: upper bounds of the buckets, ascending; one without a bound follows them."""

    def __init__(
        self, name: str, text: str, bounds: tuple[float, ...] = SECONDS, labels: Labels = ()
    ) -> None:
        self.name = name
        self.text = text
        self.bounds = bounds
        self.labels = labels
        self._empty = [0.0] * (len(bounds) + 2)  # a count for each bucket, the sum last
        self._cells: dict[Labels, list[float]] = {} if labels else {(): list(self._empty)}
        self._lock = Lock()

    def observe(self, value: float, values: Labels = ()) -> None:
        """One more, of this value."""
        bucket = bisect_left(self.bounds, value)
        with self._lock:
            cell = self._cells.get(values)
            if cell is None:
                cell = self._cells[values] = list(self._empty)
            cell[bucket] += 1.0
            cell[-1] += value

    def read(self) -> dict[Labels, tuple[list[float], float]]:
        """For each series: how many fell into each bucket, and the sum of all."""
        with self._lock:
            return {values: (cell[:-1], cell[-1]) for values, cell in self._cells.items()}


class Metrics:
    """Everything that one instance counts. ``tenants``: how many get labels of their own, first come; the
    others share one. 0: requests are not told apart by tenant."""

    def __init__(self, tenants: int = 100) -> None:
        self.requests = Counter(
            "preheat_requests_total",
            "Requests, by what came of them",
            ("method", "route", "outcome"),
        )
        self.tenant_requests = Counter(
            "preheat_tenant_requests_total",
            "Requests by tenant, as verified; the last ones to come share 'other'",
            ("tenant", "outcome"),
        )
        self.duration = Histogram(
            "preheat_request_duration_seconds",
            "From a request's last byte to its answer",
            labels=("route",),
        )
        self.starts = Counter(
            "preheat_request_starts_total",
            "Inference that was answered, by the start that it met",
            ("start",),
        )
        self.starts.start_at_zero(("cold",), ("warm",), ("restored",))
        self.wait = Histogram(
            "preheat_queue_wait_seconds", "From asking for a turn at the engine to having it"
        )
        self.run = Histogram("preheat_session_run_seconds", "One run of the session")
        self.batch = Histogram("preheat_batch_size", "Requests that one run of the session answered", BATCHES)
        self.preempted = Counter(
            "preheat_preempted_runs_total", "Runs that were ended for another tenant's, and made again"
        )
        self.ledger = Counter(
            "preheat_ledger_operations_total",
            "Calls to the ledger of keyed requests, by result",
            ("operation", "result"),
        )
        self.ledger_duration = Histogram(
            "preheat_ledger_operation_duration_seconds", "One call to the ledger", labels=("operation",)
        )
        self.deferred = Counter(
            "preheat_deferred_runs_total",
            "Runs of deferred requests, by what came of them; left: to another instance, or to a later run",
            ("outcome",),
        )
        self.deferred.start_at_zero(("ok",), ("rejected",), ("failed",), ("left",))
        self.model_loads = Counter(
            "preheat_model_loads_total", "Loads of the models of PREHEAT_MODELS", ("model", "result")
        )
        self.model_evictions = Counter(
            "preheat_model_evictions_total", "Models that were let go of, for room or at the end", ("model",)
        )
        self.untraced = Counter(
            "preheat_traces_dropped_total", "Requests whose spans were dropped: more came than could be sent"
        )
        self._cap = tenants
        self._tenants: set[str] = set()
        self._lock = Lock()

    @property
    def counters(self) -> tuple[Counter, ...]:
        found: tuple[Counter, ...] = (self.requests, self.starts, self.ledger, self.deferred, self.untraced)
        found += (self.preempted, self.model_loads, self.model_evictions)
        return (*found, self.tenant_requests) if self._cap else found

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        return self.duration, self.wait, self.run, self.batch, self.ledger_duration

    def request(self, method: str, route: str, outcome: str, tenant: str, seconds: float) -> None:
        """A request was answered. ``route``: its pattern, never the path that was asked for."""
        self.requests.add((method, route, outcome))
        self.duration.observe(seconds, (route,))
        if self._cap:
            self.tenant_requests.add((self._label(tenant), outcome))

    def _label(self, tenant: str) -> str:
        tenant = tenant[:LONGEST_LABEL]
        if tenant in self._tenants:
            return tenant
        with self._lock:
            if len(self._tenants) >= self._cap:
                return OTHER
            self._tenants.add(tenant)
        return tenant
