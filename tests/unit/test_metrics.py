"""Counters and histograms, as requests use them."""

from __future__ import annotations

import threading

import pytest

from preheat.metrics import OTHER, Counter, Histogram, Metrics


def in_threads(work: object, threads: int = 8) -> None:
    started = [threading.Thread(target=work) for _ in range(threads)]  # type: ignore[arg-type]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(30)


def test_nothing_is_lost_between_threads() -> None:
    counter = Counter("c_total", "", ("a",))
    histogram = Histogram("h_seconds", "")

    def work() -> None:
        for i in range(5_000):
            counter.add((str(i % 2),))
            histogram.observe(0.001)

    in_threads(work)
    assert counter.read() == {("0",): 20_000, ("1",): 20_000}
    counts, total = histogram.read()[()]
    assert sum(counts) == 40_000
    assert total == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (2.1, 2), (1e9, 2), (float("inf"), 2)]
)
def test_a_value_on_a_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    histogram = Histogram("h", "", (1.0, 2.0))
    histogram.observe(value)
    counts, _ = histogram.read()[()]
    assert [i for i, count in enumerate(counts) if count] == [bucket]


def test_a_thousand_tenants_make_as_many_labels_as_the_cap_and_no_request_is_lost() -> None:
    metrics = Metrics(tenants=100)
    for i in range(3_000):
        metrics.request("POST", "/predict", "ok", f"key:{i % 1000}", 0.001)
    series = metrics.tenant_requests.read()
    assert len(series) == 101
    assert sum(series.values()) == 3_000
    assert series[OTHER, "ok"] == 3 * 900
    assert series["key:0", "ok"] == 3
    assert sum(metrics.requests.read().values()) == 3_000


def test_the_cap_holds_between_threads() -> None:
    metrics = Metrics(tenants=10)

    def work() -> None:
        for i in range(500):
            metrics.request("POST", "/predict", "ok", f"{threading.get_ident()}:{i}", 0.001)

    in_threads(work)
    series = metrics.tenant_requests.read()
    assert len(series) == 11
    assert sum(series.values()) == 4_000


def test_tenants_may_be_left_out() -> None:
    metrics = Metrics(tenants=0)
    metrics.request("POST", "/predict", "ok", "key:acme", 0.001)
    assert metrics.tenant_requests not in metrics.counters
    assert not metrics.tenant_requests.read()


def test_a_tenant_with_a_long_name_has_a_short_label() -> None:
    metrics = Metrics()
    metrics.request("POST", "/predict", "ok", "x" * 10_000, 0.001)
    ((tenant, _),) = metrics.tenant_requests.read()
    assert len(tenant) == 128
