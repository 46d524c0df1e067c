from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preheat.measure import run
from preheat.measure.client import Response
from preheat.measure.rounds import Outcome, Wrong
from preheat.measure.start import Contender, Start
from preheat.measure.target import Target, find

MS = 1_000_000


def start(total_ms: int, variant: str = "packed", kind: str = "fresh", pss: float | None = 50.0) -> Start:
    """A start that spent 20 ms in platform, all but 2 ms of the rest in compile."""
    coldstart = {
        "variant": variant,
        "kind": kind,
        "origin_ns": 0,
        "total_ms": float(total_ms),
        "phases": [
            {"phase": "platform", "start_ms": 0, "duration_ms": 20, "attributes": {}},
            {"phase": "compile", "start_ms": 22, "duration_ms": total_ms - 22, "attributes": {}},
        ],
    }
    return Start(0, 0, total_ms * MS, Response(200, {}, b""), coldstart, pss, None)


@pytest.fixture
def subject(filetype_artifact: Path) -> Target:
    return find(str(filetype_artifact), {})


FACTS: dict[str, Any] = {"variant": "packed", "provider": "CPU", "threads": 4, "fallback": None}
NOBODY = Contender("", (), {}, b"", lambda _: None)


def row(
    subject: Target, good: list[Start], wrong: list[Wrong], floor: list[Start] | None = None
) -> dict[str, Any]:
    under = None if floor is None else Outcome(NOBODY, floor, [])
    return run._row(subject, FACTS, Outcome(NOBODY, good, wrong), under)


def test_a_row_has_the_medians_of_its_starts(subject: Target) -> None:
    found = row(subject, [start(120), start(100), start(200)], [], floor=[start(80), start(90), start(100)])
    assert found["total_ms"] == {"median": 120, "min": 100, "max": 200, "ci95": [100, 200]}
    assert {name: figure["median"] for name, figure in found["phases"].items()} == {
        "platform": 20,
        "compile": 98,
        "unaccounted": 2,
    }
    assert found["coverage"] == pytest.approx(1 - 2 / 100)  # the worst start's
    assert (found["correct"], found["samples"], found["pss_mib"]) == (True, 3, 50.0)
    assert found["floor_ms"]["median"] == 90
    assert found["ratio"] == pytest.approx(120 / 90, abs=1e-3)
    assert found["typical"]["total_ms"] == 120
    assert [p["phase"] for p in found["typical"]["phases"]] == ["platform", "compile"]


def test_a_start_that_was_not_what_was_asked_for_is_counted_and_left_out(subject: Target) -> None:
    odd = [start(100), start(5000, variant="portable"), start(5, kind="restored")]
    found = row(subject, odd, [Wrong(4, "it crashed")])
    assert found["total_ms"]["max"] == 100
    assert (found["correct"], found["samples"]) == (False, 1)
    assert [w["problem"] for w in found["wrong"]] == [
        "it crashed",
        "the variant portable ran, not packed",
        "the start was restored, not fresh",
    ]


def test_a_restore_that_became_a_fresh_start_is_told_with_its_reason(subject: Target) -> None:
    restored, fresh = start(10, kind="restored"), start(100)
    assert restored.coldstart is not None
    assert fresh.coldstart is not None
    restored.coldstart["restore"] = "criu"
    fresh.coldstart["not_restored"] = "criu check: no rights"
    outcome = Outcome(NOBODY, [restored, fresh], [])
    found = run._row(subject, FACTS, outcome, None, "criu")
    assert (found["start"], found["samples"], found["total_ms"]["median"]) == ("criu", 1, 10)
    assert [w["problem"] for w in found["wrong"]] == ["the start was fresh, not criu: criu check: no rights"]


def test_what_was_not_measured_is_null(subject: Target) -> None:
    assert row(subject, [start(100, pss=None)], [])["pss_mib"] is None
    found = row(subject, [], [Wrong(1, "it crashed")], floor=[])
    assert (found["correct"], found["total_ms"], found["floor_ms"]) == (False, None, None)
    assert "ratio" not in found
