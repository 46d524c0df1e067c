"""The chance in a simulation: drawn once for a traffic, so that every option meets the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .figures import Spread


class Draws(NamedTuple):
    """By request, each 0 to 1. A start takes the number of the request that it is for."""

    request: NDArray[np.float64]
    start: NDArray[np.float64]
    placed: NDArray[np.float64]
    """The platform's part in a start."""
    carried: NDArray[np.float64]
    """The platform's part in a request."""


def draw(count: int, seed: int) -> Draws:
    return Draws(*(np.random.default_rng([seed, stream]).random(count) for stream in range(1, 5)))


class Times(NamedTuple):
    """What each request would take, in seconds."""

    request: NDArray[np.float64]
    start: NDArray[np.float64]
    """The function's own start, were one for it."""
    placed: NDArray[np.float64]
    """What the platform puts before that."""
    carried: NDArray[np.float64]
    """What it adds to every answer."""


def times(
    draws: Draws, request: Spread, start: Spread, cold_s: Sequence[float], warm_s: Sequence[float]
) -> Times:
    def evenly(bounds: Sequence[float], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = bounds
        return low + (high - low) * shares

    return Times(
        request.at(draws.request),
        start.at(draws.start),
        evenly(cold_s, draws.placed),
        evenly(warm_s, draws.carried),
    )
