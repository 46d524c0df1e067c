from __future__ import annotations

from math import comb

import pytest

from preheat.measure.summary import median, median_interval, rank, summary


def test_median_of_odd_and_even_counts() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 3, 2]) == 2.5
    assert median([7]) == 7


def test_summary_names_what_it_gives() -> None:
    assert summary([3.0, 1.0, 2.00049]) == {"median": 2.0, "min": 1.0, "max": 3.0, "ci95": [1.0, 3.0]}


@pytest.mark.parametrize(
    ("n", "k"),
    # From tables of the sign test (Conover, table A3, p = 1/2).
    [(1, 1), (2, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (30, 10)],
)
def test_the_interval_is_the_kth_from_either_end(n: int, k: int) -> None:
    values = [float(i) for i in range(1, n + 1)]
    assert median_interval(values) == (k, n + 1 - k)


@pytest.mark.parametrize("n", range(6, 80))
def test_the_interval_covers_the_median_in_95_of_100_and_no_wider_one_is_given(n: int) -> None:
    low, high = median_interval([float(i) for i in range(1, n + 1)])
    k = int(low)

    def coverage(k: int) -> float:
        return 1 - 2 * sum(comb(n, i) for i in range(k)) / float(2**n)

    assert high == n + 1 - k
    assert coverage(k) >= 0.95
    assert coverage(k + 1) < 0.95


def test_many_values_take_no_time() -> None:
    low, high = median_interval([float(value) for value in range(30_000)])
    assert (low, high) == pytest.approx((14_830, 15_169), abs=2)  # 15,000 and 1.96 times half of the root


def test_the_rank_of_a_share_is_no_floats_error() -> None:
    assert [rank(1000, share) for share in (0.0, 0.5, 0.999, 99.9 / 100, 1.0)] == [1, 500, 999, 999, 1000]
    assert rank(1_000_000, 99.9 / 100) == 999_000
