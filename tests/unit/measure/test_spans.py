from __future__ import annotations

from typing import Any

import pytest

from preheat.measure.spans import Bar, bars, covered, durations_ms

MS = 1_000_000


def report(*phases: tuple[str, float, float], total_ms: float, origin_ms: float = 1000) -> dict[str, Any]:
    """A /coldstart report whose process started at ``origin_ms`` of the clock, to a tick."""
    return {
        "origin_ns": int(origin_ms * MS),
        "total_ms": total_ms,
        "phases": [
            {"phase": name, "start_ms": begin, "duration_ms": took, "attributes": {}}
            for name, begin, took in phases
        ],
    }


def told(found: list[Bar]) -> list[tuple[str, float, float]]:
    return [(bar.phase, bar.begin / MS, bar.end / MS) for bar in found]


def test_platform_begins_at_the_spawn_whatever_the_tick_says() -> None:
    for origin in (996.0, 1004.0):  # /proc is up to a tick off, to either side
        shift = 1000 - origin
        coldstart = report(
            ("platform", 0, 20 + shift), ("import", 20 + shift, 80), total_ms=100, origin_ms=origin
        )
        found = bars(coldstart, 1000 * MS, 1110 * MS)
        assert told(found) == [("platform", 0, 20), ("import", 20, 100)]


def test_the_network_is_what_lies_around_the_first_request() -> None:
    coldstart = report(("platform", 0, 20), ("import", 20, 80), ("first_request", 103, 7), total_ms=100)
    found = bars(coldstart, 1000 * MS, 1112 * MS)
    assert told(found)[2:] == [("network", 100, 103), ("first_request", 103, 110), ("network", 110, 112)]
    took = durations_ms(found, 112 * MS)
    assert took["network"] == 5
    assert took["unaccounted"] == 0


def test_a_request_that_waited_for_readiness_has_no_network_before_it() -> None:
    coldstart = report(("platform", 0, 100), ("first_request", 100, 7), total_ms=100)
    assert [bar.phase for bar in bars(coldstart, 1000 * MS, 1108 * MS)] == [
        "platform",
        "first_request",
        "network",
    ]


def test_what_lies_outside_the_clients_marks_is_cut_off() -> None:
    coldstart = report(("platform", 0, 20), ("import", 20, 200), total_ms=220)
    assert told(bars(coldstart, 1000 * MS, 1100 * MS)) == [("platform", 0, 20), ("import", 20, 100)]


def test_phases_that_overlap_are_not_counted_twice() -> None:
    found = [Bar("import", 0, 60, {}), Bar("download", 20, 40, {}), Bar("compile", 50, 90, {})]
    assert covered(found) == 90
    assert covered([]) == 0


def test_what_no_phase_covers_is_a_row_of_its_own() -> None:
    coldstart = report(
        ("platform", 0, 20), ("download", 25, 3), ("import", 26, 60), ("download", 30, 5), total_ms=90
    )
    took = durations_ms(bars(coldstart, 1000 * MS, 1090 * MS), 90 * MS)
    assert took == pytest.approx({"platform": 20, "download": 8, "import": 60, "unaccounted": 9})
