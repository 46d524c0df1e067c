"""Quantiles and shares with bootstrap intervals, by numpy.

The k-th smallest of n values drawn anew from n measured ones is the measured one at rank ``ceil(n U)``, U the
k-th smallest of n uniform draws, which is Beta(k, n + 1 - k) (David and Nagaraja, Order Statistics, 2.3). So
the percentile bootstrap of a quantile (Efron and Tibshirani, 13.3) needs a draw from a Beta for each
repetition, not n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..measure.summary import rank

Values = NDArray[np.float64]
REPETITIONS = 2000
CONFIDENCE = 0.95
QUANTILES = (0.5, 0.9, 0.99, 0.999)


def enough(quantile: float) -> int:
    """Values below which a quantile would be their maximum under another name."""
    return 1 if quantile <= 0.5 else math.ceil(round(1 / (1 - quantile), 6))


def name(quantile: float) -> str:
    return f"p{quantile * 100:g}"


def generator() -> np.random.Generator:
    """Seeded: the same run gives the same intervals."""
    return np.random.default_rng(20)


def quantile(ordered: Values, q: float) -> float:
    """The value at rank ``ceil(q n)`` of at least one in order; the middle of two for an even median."""
    n = len(ordered)
    if q == 0.5 and n % 2 == 0:
        return float(ordered[n // 2 - 1] + ordered[n // 2]) / 2
    return float(ordered[rank(n, q) - 1])


def draws(ordered: Values, q: float, chance: np.random.Generator) -> Values:
    """REPETITIONS bootstrap values of a quantile."""
    n = len(ordered)
    k = rank(n, q)
    places = np.ceil(n * chance.beta(k, n + 1 - k, REPETITIONS)).astype(np.int64)
    return ordered[np.clip(places, 1, n) - 1]


def interval(drawn: Values, confidence: float = CONFIDENCE) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def figures(values: Sequence[float], chance: np.random.Generator) -> dict[str, Any]:
    """``n``, and each of QUANTILES that there are values enough for: ``[value, low, high]``, to three
    places."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    found: dict[str, Any] = {"n": len(ordered)}
    for q in QUANTILES:
        if len(ordered) >= enough(q):
            low, high = interval(draws(ordered, q, chance))
            found[name(q)] = [round(quantile(ordered, q), 3), round(low, 3), round(high, 3)]
    return found


def share(part: int, of: int, chance: np.random.Generator) -> list[float]:
    """``[share, low, high]`` of a part of something: resampling of ones and noughts is a binomial draw.

    Where all or none are in it a resample tells nothing: there the bound is that of the rule of three (Hanley
    and Lippman-Hand, 1983)."""
    if not of:
        return [0.0, 0.0, 1.0]
    low, high = interval(share_draws(part, of, chance))
    if part == 0:
        high = min(3 / of, 1.0)
    if part == of:
        low = max(1 - 3 / of, 0.0)
    return [round(part / of, 6), round(low, 6), round(high, 6)]


def share_draws(part: int, of: int, chance: np.random.Generator) -> Values:
    return chance.binomial(of, part / of, REPETITIONS) / of
