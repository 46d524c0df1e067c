"""What a run says, from samples made by hand."""

from __future__ import annotations

import pytest

from preheat.load.figures import instances, summary

from .runs_of import run, sample


def test_what_was_not_asked_is_left_out_and_counted() -> None:
    samples = [sample(i, 400, start="cold", asked="cold") for i in range(6)]
    samples += [sample(10 + i, 5, asked="cold") for i in range(3)]
    samples += [sample(20 + i, 5, asked="any") for i in range(4)]
    samples += [
        sample(30, 5, closed=True),
        sample(31, 5, replayed=True),
        sample(32, 5, outcome="failed", status=500),
    ]
    found = summary(run(samples))
    assert found["latency"]["cold"]["n"] == 6
    assert found["latency"]["warm"]["n"] == 4
    assert found["left_out"] == {
        "asked cold, met warm": 3,
        "sent by a closed loop": 1,
        "replayed, nothing ran": 1,
    }
    assert found["outcomes"] == {"ok": 15, "failed": 1}
    assert found["failed_share"][0] == pytest.approx(1 / 16)
    assert found["cold_share"][0] == pytest.approx(6 / 15)
    assert found["told_apart_by"] == []


def test_goodput_counts_good_answers_within_the_objective() -> None:
    samples = [sample(i, 50) for i in range(30)] + [sample(40 + i, 150) for i in range(10)]
    samples += [sample(50 + i, 10, outcome="shed", status=503) for i in range(5)]
    found = summary(run(samples))
    assert found["throughput"] == pytest.approx(40 / 60, abs=1e-3)
    assert found["goodput"] == pytest.approx(30 / 60, abs=1e-3)
    assert found["within_objective"][0] == pytest.approx(30 / 45, abs=1e-6)
    assert found["throttled"] == 5


def test_retries_and_duplicates() -> None:
    samples = [
        sample(1, 20, outcome="shed", status=503, final=False),
        sample(1, 900, attempt=1),
        sample(2, 30, key="k", digest="a"),
        sample(3, 30, key="k", digest="a", replayed=True),
        sample(4, 30, key="l", digest="a"),
        sample(5, 30, key="l", digest="b"),
    ]
    found = summary(run(samples))
    assert (found["requests"], found["retries"], found["throttled"]) == (5, 1, 1)
    assert found["duplicates"] == {"sent": 2, "replayed": 1, "differing": 1}
    assert found["latency"]["warm"]["n"] == 4  # the retried one by its last answer, from its first moment


def test_a_foreign_server_is_unknown_and_the_ways_to_tell_are_listed() -> None:
    samples = [sample(i, 20, start="unknown", server_ms=None, phases={}, instance="") for i in range(12)]
    found = summary(run(samples))
    assert set(found["latency"]) == {"unknown"}
    assert found["cold_share"] is None
    assert any("Init Duration" in way for way in found["told_apart_by"])
    assert set(found["phases"]["unknown"]) == {"generator late"}


def test_instances_over_time() -> None:
    samples = [sample(i, 10, instance=f"i{i % 3 if i < 30 else 0}") for i in range(60)]
    found = instances(run(samples), bins=6)
    assert found["all"] == 3
    assert found["counts"][:3] == [3, 3, 3]
    assert found["counts"][3:6] == [1, 1, 1]


def test_nothing_answered() -> None:
    found = summary(run([sample(1, 3, outcome="refused", status=0, start="unknown")]))
    assert found["latency"] == {}
    assert found["good"] == 0
    assert found["failed_share"][0] == 1
