"""Ledgers under crashes: clients that collide, workers that die at every step, stores that fail.

`make torture` is the long form.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .broken_ledgers import BROKEN
from .checker import Rule
from .plan import Step
from .tcp_fault_proxy import Fault
from .torture import STORES

ROOT = Path(__file__).parent.parent.parent
KEYS, KILLS = 5000, 200
SHORT = ["lapses=24", "freezes=0", "failures=12", "long=12"]


def torture(tmp_path: Path, store: str, *options: str, ends: tuple[int, ...] = (0,)) -> Any:
    """A run in a process of its own, which forks; its report. ``ends``: with which statuses it may end."""
    tmp_path.mkdir(exist_ok=True)
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.integration.torture", store),
            *("--folder", str(tmp_path / "run"), "--report", str(report)),
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode in ends, f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return json.loads(report.read_text())


@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_no_rule_is_broken(store: str, tmp_path: Path) -> None:
    report = torture(tmp_path, store, "--keys", str(KEYS), "--kills", str(KILLS))
    assert report["violations"] == dict.fromkeys(Rule, 0)
    assert report["keys"] >= KEYS
    assert sum(report["kills"].values()) >= KILLS
    assert set(report["kills"]) == set(Step)
    assert report["freezes"] == 10
    # It was as rough as it was meant to be.
    assert set(report["faults"]) == (set(Fault) if "faults" in STORES[store] else set())
    assert report["restarts"] == STORES[store].get("restarts", 0)
    assert report["repeated"]["killed"] > 50
    assert report["repeated"]["lapsed"] > 0
    assert report["takeovers"] > KILLS
    assert report["recoveries"]["count"] > 30


@pytest.mark.alone  # a lease has to lapse under a running owner, and soon
@pytest.mark.parametrize(
    ("defect", "rules"),
    [
        ("broken-unconditional-commit", {Rule.TWO_OUTCOMES, Rule.STALE_WRITE, Rule.REPLAYS_DIFFER}),
        ("broken-own-outcome", {Rule.TWO_OUTCOMES, Rule.REPLAYS_DIFFER}),
        ("broken-unfenced-release", {Rule.STALE_WRITE}),
        ("broken-unfenced-heartbeat", {Rule.STALE_WRITE}),
        ("broken-wall-clock", {Rule.LEASE_BROKEN}),
        ("broken-forgetful-commit", {Rule.LOST}),
        ("broken-long-lease", {Rule.RECOVERY, Rule.LEASE_BROKEN}),
    ],
)
def test_a_broken_ledger_is_found(defect: str, rules: set[Rule], tmp_path: Path) -> None:
    """A lease lapses under its owner where the machine lets it: a round that shows nothing is followed by one
    of another seed."""
    found: set[str] = set()
    for seed in range(1, 7):
        options = ["--keys", "300", "--kills", "18", "--seed", str(seed), "--set", *SHORT]
        report = torture(tmp_path / str(seed), "sqlite", "--engine", defect, *options, ends=(0, 1))
        found |= {rule for rule, number in report["violations"].items() if number}
        if found >= rules:
            return
    pytest.fail(f"only {found} in six rounds")


def test_every_broken_ledger_is_tried() -> None:
    (mark,) = (m for m in test_a_broken_ledger_is_found.pytestmark if m.name == "parametrize")
    assert {defect for defect, _ in mark.args[1]} == set(BROKEN)


@pytest.mark.parametrize("store", ["dynamodb", "redis"])
def test_what_the_neighbours_do(store: str, tmp_path: Path) -> None:
    """Powertools' own layers, without a kill, a skewed clock or a failing store: only with keys whose first
    execution outlives its claim. The harness can fail; and a late failure deletes a live claim there."""
    calm = ["freezes", "failures", "long", "faults", "restarts"]
    options = ["--keys", "60", "--kills", "0", "--set", *(f"{name}=0" for name in calm)]
    more = ["lapses=24", "skewed=false", "lease=1.0", "asked=[3]"]
    report = torture(tmp_path, store, "--engine", f"powertools-{store}", *options, *more, ends=(1,))
    assert report["violations"][Rule.REPLAYS_DIFFER] > 0
    assert report["violations"][Rule.EXECUTIONS] > 0
