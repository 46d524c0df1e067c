"""Times and traffics for simulations, every request alike unless a test says otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preheat.plan.draws import Times

Numbers = NDArray[np.float64]


def alike(count: int, request: float, start: float = 0.0, placed: float = 0.0, carried: float = 0.0) -> Times:
    return Times(*(np.full(count, value) for value in (request, start, placed, carried)))


def at(times: Sequence[float]) -> Numbers:
    return np.array(times, np.float64)


def poisson(rate: float, count: int, seed: int = 1) -> Numbers:
    gaps: Numbers = np.random.default_rng(seed).exponential(1 / rate, count)
    return np.cumsum(gaps)
