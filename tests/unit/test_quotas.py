"""Books on tenants, of which any number may come."""

from __future__ import annotations

import pytest

from preheat import quotas
from preheat.errors import ThrottledError
from preheat.quotas import Buckets, Usage


def test_who_was_seen_longest_ago_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_TENANTS", 2)
    buckets = Buckets(rate=0.001, burst=1)
    for tenant in ("first", "second"):
        buckets.pay(tenant)
    with pytest.raises(ThrottledError):
        buckets.pay("first")
    buckets.pay("third")
    with pytest.raises(ThrottledError):
        buckets.pay("first")
    buckets.pay("second")  # which has a full bucket again


def test_tokens_come_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(quotas.time, "perf_counter", lambda: now[0])
    buckets = Buckets(rate=2.0, burst=3)
    for _ in range(3):
        buckets.pay("a")
    with pytest.raises(ThrottledError, match=r"again in 0\.5 s"):
        buckets.pay("a")
    now[0] += 0.5
    buckets.pay("a")
    now[0] += 60.0
    for _ in range(3):
        buckets.pay("a")
    with pytest.raises(ThrottledError):
        buckets.pay("a")


def test_use_of_long_ago_counts_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(quotas.time, "perf_counter", lambda: now[0])
    usage = Usage()
    assert usage.turns("a", []) == 0.0
    usage.add("a", 0.5)
    assert usage.turns("a", []) == pytest.approx(0.5)
    now[0] += 0.7
    assert usage.turns("a", []) == pytest.approx(0.25, rel=0.01)
    assert usage.turns("b", []) == 0.0
    for _ in range(20):  # a turn that it has all the time is one turn
        now[0] += 0.5
        usage.add("c", quotas.faded(0.5))
    assert usage.turns("c", []) == pytest.approx(1.0, rel=0.01)
    assert usage.turns("d", [now[0] - 60.0, now[0] - 60.0]) == pytest.approx(2.0, rel=0.01)


def test_without_a_rate_nothing_is_noted() -> None:
    buckets = Buckets(rate=0.0, burst=0)
    for index in range(1000):
        buckets.pay(f"tenant {index}")
    assert not buckets._known
