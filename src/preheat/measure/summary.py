"""What a set of samples says: median, extremes and an interval for the median."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

CONFIDENCE = 0.95


def summary(values: Sequence[float]) -> dict[str, Any]:
    """``median``, ``min``, ``max`` and ``ci95`` [low, high] of at least one value, to three places."""
    ordered = sorted(values)
    low, high = median_interval(ordered)
    return {
        "median": round(median(ordered), 3),
        "min": round(ordered[0], 3),
        "max": round(ordered[-1], 3),
        "ci95": [round(low, 3), round(high, 3)],
    }


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def rank(count: int, share: float) -> int:
    """Nearest rank, from 1, of the value that a share of ``count`` ones do not exceed; rounded first, as
    0.999 of a thousand is no whole number in floats."""
    return min(max(math.ceil(round(share * count, 9)), 1), count)


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval for the median by order statistics, which assumes no distribution.

    The k-th lowest and the k-th highest of n values enclose the median with probability
    1 - 2 P(Binomial(n, 1/2) < k); k is the largest for which that is at least 0.95 (Conover, Practical
    Nonparametric Statistics, 3.2). Fewer than six values reach 0.95 with no k: then it is their extremes.
    """
    n = len(ordered)
    k, tail, ways = 0, 0, 1
    while k < n // 2:
        tail += ways
        if 2 * tail * 1000 > round((1 - CONFIDENCE) * 1000) << n:  # in integers: 2**n is no float for long
            break
        ways = (
            ways * (n - k) // (k + 1)
        )  # n over k + 1; from the start each time would take minutes for 20,000
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]
