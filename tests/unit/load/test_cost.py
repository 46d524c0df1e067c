"""Costs, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from preheat.deploy import aws_tables
from preheat.errors import UsageError
from preheat.load import cost

from .runs_of import run, sample

ON = cost.Lambda(1024, "x86_64", "us-east-1")
TABLE = """
[source]
date = "2030-01-01"
checked = true
[instances.box]
about = "a box"
busy_hour = 3.6
idle_hour = 1.8
request = 0.001
kept_s = 10
gpu = true
"""


def own(tmp_path: Path, text: str = TABLE) -> str:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    return str(path)


def test_instances_are_busy_and_idle(tmp_path: Path) -> None:
    # A second busy at 0, another at 5, then kept for ten; one of another instance at 50, kept to the end.
    given = {"server_ms": 1000.0, "phases": {"run": 1000.0}}
    samples = [sample(0, 1000, **given), sample(5, 1000, **given), sample(50, 1000, instance="i2", **given)]
    used = cost.usage(run(samples), 10)
    assert used.busy_s == pytest.approx(3)
    assert used.idle_s == pytest.approx(4 + 10 + 9)
    (_, row) = cost.costs(run(samples), cost.table(own(tmp_path)), ON)
    assert row["parts"] == pytest.approx({"busy": 3 * 0.001, "idle": 23 * 0.0005, "requests": 0.003})
    assert row["per_1000"] == pytest.approx(row["total"] / 3 * 1000)
    assert row["gpu_hours"] == pytest.approx(26 / 3600, rel=1e-3)
    assert (row["date"], row["checked"]) == ("2030-01-01", True)


def test_an_instance_that_was_taken_away_between_is_not_idle_meanwhile() -> None:
    given = {"server_ms": 1000.0, "phases": {"run": 1000.0}}
    assert cost.usage(run([sample(0, 1000, **given), sample(40, 1000, **given)]), 10).idle_s == pytest.approx(
        20
    )


def test_requests_at_once_are_busy_once() -> None:
    given = {"server_ms": 1000.0, "phases": {"run": 1000.0}, "at_s": 3.0}
    assert cost.usage(run([sample(i, 1000, **given) for i in range(5)]), 0).busy_s == pytest.approx(1)


def test_lambda_bills_the_server_and_the_start() -> None:
    prices = aws_tables.prices(aws_tables.load(), "us-east-1", "x86_64")
    warm = sample(0, 99, server_ms=9.2, phases={"run": 9.2})
    cold = sample(
        1,
        500,
        start="cold",
        server_ms=100.0,
        phases={"import": 200.0, "compile": 50.0, "wait": 90.0, "run": 10.0},
    )
    failed = sample(2, 5, status=0, outcome="refused")
    row = cost.costs(run([warm, cold, failed]), cost.table(), ON)[0]
    assert row["parts"] == pytest.approx(
        {
            "duration": 0.020 * prices.duration,
            "starts": 0.250 * prices.duration,
            "requests": 2 * prices.request,
        }
    )
    assert row["gb_seconds"] == pytest.approx(0.27)
    assert row["per_1000_good"] == pytest.approx(row["total"] / 2 * 1000)
    assert row["by_client_time"] == 0


def test_a_start_is_paid_once_however_many_waited_for_it() -> None:
    given = {"start": "cold", "server_ms": 10.0, "phases": {"import": 200.0, "wait": 1.0, "run": 9.0}}
    one = cost.costs(run([sample(0, 300, **given)]), cost.table(), ON)[0]
    two = cost.costs(run([sample(i, 300, **given) for i in range(2)]), cost.table(), ON)[0]
    apart = [sample(i, 300, **given)._replace(instance=f"i{i}") for i in range(2)]
    assert two["parts"]["starts"] == one["parts"]["starts"]
    assert two["parts"]["duration"] == pytest.approx(2 * one["parts"]["duration"])
    each = cost.costs(run(apart), cost.table(), ON)[0]
    assert each["parts"]["starts"] == pytest.approx(2 * one["parts"]["starts"])


def test_snapstart_pays_for_restores_and_for_the_snapshot() -> None:
    row = cost.costs(
        run([sample(0, 80, start="restored", phases={"restore": 40.0, "run": 5.0})]), cost.table(), ON
    )[0]
    assert set(row["parts"]) == {"duration", "requests", "restores", "snapshot kept"}


def test_where_no_server_time_is_told_the_client_s_is_an_upper_bound() -> None:
    row = cost.costs(run([sample(0, 80, start="unknown", server_ms=None, phases={})]), cost.table(), ON)[0]
    assert row["by_client_time"] == 1
    assert row["gb_seconds"] == pytest.approx(0.08)


def test_nothing_good_has_no_price_each() -> None:
    rows = cost.costs(run([sample(0, 80, outcome="failed", status=500)]), cost.table(), ON)
    assert all(row["per_1000_good"] is None for row in rows)
    assert all(row["per_1000"] is not None for row in rows)


def test_the_table_that_comes_along_has_its_date() -> None:
    found = cost.table()
    assert found.date
    assert {"cloud-run", "node-l4"} <= {machine.name for machine in found.machines}
    assert all(machine.source.startswith("https://") for machine in found.machines)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no table"),
        ("[instances]\nbox = 1\n", "must be a table"),
        (TABLE.replace("3.6", "-1"), "busy_hour must be at least 0"),
        (TABLE.replace("busy_hour = 3.6", ""), "busy_hour must be a number"),
        ("x", "not TOML"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        cost.table(own(tmp_path, text))


def test_lambda_s_own_limits() -> None:
    cost.check(ON)
    with pytest.raises(UsageError, match="--memory"):
        cost.check(ON._replace(memory_mb=64))
    with pytest.raises(UsageError, match="no prices for the region"):
        cost.check(ON._replace(region="mars-1"))
