"""The gate: decided on intervals, with the phase that caused it."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from preheat.errors import UsageError
from preheat.load.compare import compare, limit
from preheat.load.runs import Run
from preheat.load.samples import Sample
from preheat.load.show import reason

from .runs_of import run, sample


def warm(count: int, seed: int, *, slower: float = 1.0, **fields: Any) -> list[Sample]:
    chance = random.Random(seed)
    took = [chance.lognormvariate(3, 0.2) * slower for _ in range(count)]
    return [sample(i, ms, **fields) for i, ms in enumerate(took)]


def cold(count: int, seed: int, *, compile_ms: float = 20.0) -> list[Sample]:
    chance, found = random.Random(seed), []
    for i in range(count):
        imports, compiled, run_ms = chance.gauss(100, 5), chance.gauss(compile_ms, 2), chance.gauss(10, 1)
        wait = imports + compiled + 5
        phases = {
            "import": imports,
            "compile": compiled,
            "wait": wait,
            "run": run_ms,
            "first_request": run_ms,
        }
        found.append(
            sample(1000 + i, wait + run_ms + 3, start="cold", phases=phases, server_ms=wait + run_ms)
        )
    return found


def verdicts(base: Run, new: Run, above: float = 0.1) -> dict[str, str]:
    return {row["what"]: row["verdict"] for row in compare(base, new, above=above, points=0.01)["rows"]}


def test_the_same_again_is_no_regression() -> None:
    for seed in range(1, 6):
        found = verdicts(run(warm(4000, seed)), run(warm(4000, seed + 50)))
        assert found["warm p50"] == "no regression"
        assert "regression" not in found.values()


def test_slower_is_one_and_names_the_phase() -> None:
    base, new = run(cold(200, 1) + warm(500, 3)), run(cold(200, 2, compile_ms=90) + warm(500, 4))
    found = compare(base, new, above=0.1, points=0.01)
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["cold p50"]["verdict"] == "regression"
    # wait grew as much: it holds the start's phases, so it is not the cause.
    assert rows["cold p50"]["phase"]["name"] == "compile"
    assert rows["cold p50"]["phase"]["grew_ms"][0] == pytest.approx(70, abs=6)
    assert rows["cold p50"]["phase"]["share"] == pytest.approx(1, abs=0.15)
    assert rows["cold p99"]["phase"]["name"] == "compile"
    assert rows["warm p50"]["verdict"] == "no regression"
    assert found["regressions"] == 3


def test_a_point_past_the_limit_is_not_enough() -> None:
    base = run([sample(i, ms) for i, ms in enumerate([10, 40, 11, 39, 12, 38, 13, 60, 14, 50])])
    new = run([sample(i, ms) for i, ms in enumerate([12, 48, 14, 47, 15, 46, 40, 72, 17, 60])])
    found = verdicts(base, new)
    assert found["warm p50"] == found["warm p90"] == found["warm p99"] == "undecided"


def test_faster_is_better() -> None:
    assert verdicts(run(warm(400, 1)), run(warm(400, 2, slower=0.5)))["warm p50"] == "better"


def test_failures_are_a_regression_with_their_outcome() -> None:
    broken = warm(300, 2)
    broken[::5] = [one._replace(outcome="shed", status=503) for one in broken[::5]]
    found = compare(run(warm(300, 1)), run(broken), above=0.1, points=0.01)
    row = found["rows"][0]
    assert (row["what"], row["verdict"], row["phase"]["name"]) == ("failed", "regression", "shed")


def test_where_the_server_tells_nothing_the_cause_is_said_to_be_unknown() -> None:
    given: dict[str, Any] = {"start": "unknown", "phases": {}, "server_ms": None}
    found = compare(run(warm(200, 1, **given)), run(warm(200, 2, slower=2, **given)), above=0.1, points=0.01)
    row = next(row for row in found["rows"] if row["what"] == "unknown p50")
    assert row["verdict"] == "regression"
    assert row["phase"]["name"] == "not told by the server"


def test_many_samples_are_compared() -> None:
    base, new = run(warm(50_000, 1)), run(warm(50_000, 2, slower=1.3))
    row = next(row for row in compare(base, new, above=0.1, points=0.01)["rows"] if row["what"] == "warm p99")
    assert (row["verdict"], row["phase"]["name"]) == ("regression", "run")


def test_runs_that_were_asked_different_things_are_not_compared() -> None:
    other = run(warm(20, 1))
    other = other._replace(head={**other.head, "scenario": {**other.head["scenario"], "digest": "d2"}})
    with pytest.raises(UsageError, match="asked different things"):
        compare(run(warm(20, 1)), other, above=0.1, points=0.01)


@pytest.mark.parametrize(("text", "value"), [("10%", 0.1), ("0.25", 0.25), ("0", 0.0), ("150%", 1.5)])
def test_limits(text: str, value: float) -> None:
    assert limit(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["ten", "-1%", "%", "nan", ""])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-above"):
        limit(text)


def test_the_reason_names_what_decided() -> None:
    same = compare(run(warm(4000, 1)), run(warm(4000, 51)), above=0.5, points=0.01)
    assert reason(same, strict=True) == "none of 4 figures got worse past the limit"
    slow = compare(run(warm(500, 3)), run(warm(500, 4, slower=2)), above=0.1, points=0.01)
    assert re.match(
        r"3 of 4 figures got worse past the limit: warm p50 \(\+.* to \+.* %\), ", reason(slow, strict=False)
    )
    few = compare(run(warm(20, 1)), run(warm(20, 51)), above=0.5, points=0.01)
    assert "undecided: failed, warm p99, which only --strict would not" in reason(few, strict=False)
    assert "which --strict does not let pass" in reason(few, strict=True)
    fewer = compare(run(warm(5, 1)), run(warm(5, 51)), above=0.5, points=0.01)
    assert reason(fewer, strict=False).startswith(
        "nothing was decided, which only --strict would not let pass"
    )
