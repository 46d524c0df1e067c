"""The month's sums, by hand, and where one way overtakes another."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from preheat.deploy import cost
from preheat.deploy.aws_tables import Assumed, load, prices
from preheat.deploy.cost import MONTH_S, Load
from preheat.errors import UsageError

TABLES = load()
ASSUMED = TABLES.assumed
PRICES = prices(TABLES, "us-east-1", "x86_64")
ONE = Load(
    rate=1.0, request_s=0.1, init_s=2.0, restore_s=0.5, memory_mb=2048, ephemeral_mb=512, provisioned=0
)


def test_a_month_of_plain_requests() -> None:
    found = cost.plain(ONE, PRICES, ASSUMED)
    assert found.parts["requests"] == pytest.approx(MONTH_S * 0.20e-6)
    assert found.parts["duration"] == pytest.approx(MONTH_S * 0.1 * 2 * 0.0000166667)
    # The first two instances of the row never idle for minutes: what is left of them is the recycling. Of the
    # requests 1 in 11 finds one busy, 1 in 221 two, 1 in 6,631 three (Erlang's loss formula at 0.1).
    third, fourth = 1 / 221, 1 / 6631
    by_hand = 2 * MONTH_S / ASSUMED.recycled_s
    for rate in (third, fourth, fourth / 40):
        idles = math.exp(-rate * ASSUMED.idle_s)
        by_hand += rate * MONTH_S * idles + (1 - idles) * MONTH_S / ASSUMED.recycled_s
    assert found.cold_starts == pytest.approx(by_hand, rel=0.002)
    assert found.parts["cold starts"] == pytest.approx(found.cold_starts * 2.0 * 2 * 0.0000166667)
    assert found.total == pytest.approx(sum(found.parts.values()))


def test_snapstart_pays_for_its_snapshot_all_month() -> None:
    found = cost.snapstart(ONE, PRICES, ASSUMED)
    assert found.parts["snapshot kept"] == pytest.approx(MONTH_S * 2 * 0.0000015046)
    restore = 2 * (0.0001397998 + 0.5 * 0.0000166667)
    assert found.parts["restores"] == pytest.approx(found.cold_starts * restore)


def test_provisioned_instances_are_paid_whether_they_work_or_not() -> None:
    found = cost.provisioned(ONE._replace(rate=0.0, provisioned=3), PRICES, ASSUMED)
    assert found.parts["kept ready"] == pytest.approx(3 * MONTH_S * 2 * 0.0000041667)
    assert found.total == pytest.approx(found.parts["kept ready"])
    assert found.cold_starts == 0


def test_what_provisioned_instances_cannot_take_runs_on_demand() -> None:
    """One instance offered one request at a time loses a half (Erlang, B(1, 1) = 1/2)."""
    load = ONE._replace(rate=10.0, provisioned=1)
    duration = cost.provisioned(load, PRICES, ASSUMED).parts["duration"]
    each = MONTH_S * 10 * 0.1 * 2
    assert duration == pytest.approx(each / 2 * 0.0000097222 + each / 2 * 0.0000166667)


def test_more_tmp_than_comes_with_it_is_paid() -> None:
    more = cost.plain(ONE._replace(ephemeral_mb=512 + 1024), PRICES, ASSUMED).parts["duration"]
    less = cost.plain(ONE, PRICES, ASSUMED).parts["duration"]
    assert more - less == pytest.approx(MONTH_S * 0.1 * 0.0000000309)


@pytest.mark.parametrize(("rate", "at_least", "at_most"), [(1e-6, 0.99, 1.0), (1.0, 0.0, 0.002)])
def test_rare_requests_all_start_cold_and_frequent_ones_hardly_ever(
    rate: float, at_least: float, at_most: float
) -> None:
    share = cost.cold_starts(ONE._replace(rate=rate), ASSUMED) / (rate * MONTH_S)
    assert at_least <= share <= at_most


def test_no_more_cold_starts_than_requests() -> None:
    assumed = Assumed(**{**ASSUMED._asdict(), "recycled_s": 0.001})
    assert cost.cold_starts(ONE, assumed) == ONE.rate * MONTH_S
    assert cost.cold_starts(ONE._replace(rate=0.0), ASSUMED) == 0


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0, 20.0])
def test_instances_kept_ready_spare_cold_starts(rate: float) -> None:
    load = ONE._replace(rate=rate)
    counts = [cost.plain(load, PRICES, ASSUMED).cold_starts]
    counts += [
        cost.provisioned(load._replace(provisioned=n), PRICES, ASSUMED).cold_starts for n in range(1, 6)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0]


def test_the_break_even_of_snapstart_is_where_the_sums_are_equal() -> None:
    slow = ONE._replace(init_s=300.0)  # each costs far more than a restore
    found = cost.break_even(slow, PRICES, ASSUMED)
    assert found["snapstart_init_s"] == pytest.approx(0.5 + 0.0001397998 / 0.0000166667)
    rate = found["snapstart_rate"]
    assert rate is not None
    at, under = slow._replace(rate=rate), slow._replace(rate=rate * 0.999)
    assert cost.snapstart(at, PRICES, ASSUMED).total == pytest.approx(cost.plain(at, PRICES, ASSUMED).total)
    assert cost.snapstart(under, PRICES, ASSUMED).total > cost.plain(under, PRICES, ASSUMED).total


def test_a_start_that_is_cheaper_than_a_restore_never_breaks_even() -> None:
    found = cost.break_even(ONE._replace(init_s=1.0), PRICES, ASSUMED)
    assert found["snapstart_rate"] is None


def test_provisioned_concurrency_pays_where_it_is_busy() -> None:
    found = cost.break_even(ONE._replace(provisioned=4), PRICES, ASSUMED)
    assert found["provisioned_busy"] == pytest.approx(0.0000041667 / (0.0000166667 - 0.0000097222))
    rate = found["provisioned_rate"]
    at = ONE._replace(provisioned=4, rate=rate)
    assert cost.provisioned(at, PRICES, ASSUMED).total == pytest.approx(
        cost.snapstart(at, PRICES, ASSUMED).total
    )
    assert 0.5 < rate * at.request_s / 4 < 1  # near the share above; SnapStart's own price lowers it


@pytest.mark.parametrize(("milliseconds", "seconds"), [(0.0, 0.001), (4.2, 0.005), (5.0, 0.005)])
def test_whole_milliseconds_are_billed(milliseconds: float, seconds: float) -> None:
    assert cost.billed_s(milliseconds) == seconds


def test_a_load_past_any_function_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 10,000 instances"):
        cost.check_load(ONE._replace(rate=1e12))
    with pytest.raises(UsageError, match="at most 10,000 instances"):
        cost.check_load(ONE._replace(provisioned=10**9))


def test_the_table_says_where_its_prices_come_from() -> None:
    assert PRICES.source.startswith("https://aws.amazon.com/")
    assert PRICES.date
    assert not PRICES.checked
    arm = prices(TABLES, "us-east-1", "arm64")
    assert arm.duration == pytest.approx(PRICES.duration * 0.8, rel=0.001)


def test_prices_of_ones_own(tmp_path: Path) -> None:
    row = {**PRICES._asdict(), "duration": 1.0}
    fields = "".join(f"{name} = {row[name]}\n" for name in PRICES._fields[5:])
    path = tmp_path / "prices.toml"
    path.write_text(f"[regions.mars-1]\nrequest = 0.5\n[regions.mars-1.x86_64]\n{fields}")
    found = prices(TABLES, "mars-1", "x86_64", str(path))
    assert (found.request, found.duration, found.checked) == (0.5, 1.0, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no prices for the region 'us-east-1', only for: none"),
        ("[regions.us-east-1]\nrequest = 1\n", r"has no table \[regions.us-east-1.x86_64\]"),
        ("[regions.us-east-1]\nrequest = 'x'\n[regions.us-east-1.x86_64]\n", "'request' of us-east-1"),
        ("[regions.us-east-1]\nrequest = -1\n[regions.us-east-1.x86_64]\n", "'request' of us-east-1"),
        ("[regions.us-east-1]\nrequest = nan\n[regions.us-east-1.x86_64]\n", "'request' of us-east-1"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_price_table_that_cannot_be_used(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        prices(TABLES, "us-east-1", "x86_64", str(path))


def test_a_price_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        prices(TABLES, "us-east-1", "x86_64", str(tmp_path / "none.toml"))


def test_instances_that_a_rate_keeps_busy() -> None:
    assert cost.busy(ONE._replace(rate=0.0)) == 1
    mean = 100.0
    assert cost.busy(ONE._replace(rate=mean / 0.1)) == math.ceil(mean + 3.1 * math.sqrt(mean))
