"""Quantiles and their bootstrap: held against the definition, by plain resampling."""

from __future__ import annotations

import numpy as np
import pytest

from preheat.load import intervals


def test_quantiles_by_rank() -> None:
    values = np.arange(1.0, 101.0)
    assert intervals.quantile(values, 0.5) == 50.5
    assert intervals.quantile(values, 0.9) == 90
    assert intervals.quantile(values, 0.99) == 99
    assert intervals.quantile(np.array([7.0]), 0.5) == 7


@pytest.mark.parametrize(("q", "n"), [(0.5, 31), (0.9, 200), (0.99, 1000)])
def test_a_beta_draw_is_a_resample(q: float, n: int) -> None:
    chance = np.random.default_rng(1)
    ordered = np.sort(chance.lognormal(3, 1, n))
    rank = int(np.ceil(round(q * n, 9))) - 1
    plain = np.sort(chance.choice(ordered, (20_000, n)), axis=1)[:, rank]
    quick = np.concatenate([intervals.draws(ordered, q, chance) for _ in range(10)])
    for part in (0.05, 0.25, 0.5, 0.75, 0.95):
        # Compared by the share of values below, which does not hang on how far apart the values lie.
        edge = np.quantile(plain, part)
        assert abs((plain <= edge).mean() - (quick <= edge).mean()) < 0.02


def test_an_interval_holds_the_truth_nearly_as_often_as_it_says() -> None:
    chance = np.random.default_rng(2)
    truth, held = np.exp(3), 0
    for _ in range(400):
        low, high = intervals.interval(intervals.draws(np.sort(chance.lognormal(3, 1, 101)), 0.5, chance))
        held += low <= truth <= high
    assert 0.91 < held / 400 < 0.99


def test_a_quantile_takes_as_many_values_as_it_needs() -> None:
    assert [intervals.enough(q) for q in intervals.QUANTILES] == [1, 10, 100, 1000]
    found = intervals.figures([1.0] * 99, intervals.generator())
    assert set(found) == {"n", "p50", "p90"}
    assert set(intervals.figures([1.0] * 1000, intervals.generator())) == {"n", "p50", "p90", "p99", "p99.9"}


def test_shares() -> None:
    chance = intervals.generator()
    assert intervals.share(0, 300, chance) == [0.0, 0.0, 0.01]
    assert intervals.share(300, 300, chance) == [1.0, 0.99, 1.0]
    value, low, high = intervals.share(30, 300, chance)
    assert low < value == 0.1 < high
    assert high - low == pytest.approx(2 * 1.96 * (0.1 * 0.9 / 300) ** 0.5, rel=0.15)
    assert intervals.share(0, 0, chance) == [0.0, 0.0, 1.0]
