"""The requests that a plan is made for: at a steady rate, or as a trace has them."""

from __future__ import annotations

import math
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deploy.cost import MONTH_S
from ..errors import UsageError
from ..load import traces

MOST = 10_000_000
"""Requests that are simulated at most."""
LEAST = 1_000
"""Requests of a steady rate at least, though they may take more than a month."""


class Traffic(NamedTuple):
    arrivals: NDArray[np.float64]
    """Seconds from the beginning, never going back."""
    span_s: float
    """What it stands for: a month's costs are this times as much as fits."""
    said: str
    """In words."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.arrivals) / self.span_s


def of(rate: str, requests: int, seed: int) -> Traffic:
    """``--rate``: requests a second, or a trace's path. Raises UsageError."""
    try:
        number = float(rate)
    except ValueError:
        return trace(rate)
    return steady(number, requests, seed)


def steady(rate: float, requests: int, seed: int) -> Traffic:
    """A Poisson process of ``rate`` requests a second: ``requests`` of them, or a month's where that is less,
    and at least LEAST (or ``requests``). Raises UsageError for a rate that is none."""
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--rate must be above 0 requests a second, not {rate:g}; or name a trace")
    if not 0 < requests <= MOST:
        raise UsageError(f"--requests must be 1 to {MOST:,}")
    if rate < 1e-7:
        raise UsageError(
            f"--rate {rate:g} is less than one request in three months: there is nothing to plan"
        )
    count = min(requests, max(math.ceil(rate * MONTH_S), LEAST))
    gaps = np.random.default_rng([seed, 0]).exponential(1 / rate, count)
    return Traffic(
        np.cumsum(gaps), count / rate, f"{rate:g} requests/s at random (Poisson), {count:,} of them"
    )


def trace(path: str) -> Traffic:
    """A file with a timestamp for each request, as ``load.traces`` reads it. Raises UsageError."""
    times = np.fromiter((row.at for row in islice(traces.rows(path), MOST + 1)), np.float64)
    if len(times) > MOST:
        raise UsageError(f"{path} has more than {MOST:,} requests: plan for a part of it")
    took = float(times[-1] - times[0])
    if took <= 0:
        raise UsageError(
            f"{path} has {len(times)} requests at one and the same time, which is no rate: it needs two "
            "times at least"
        )
    span = took * len(times) / (len(times) - 1)
    return Traffic(times - times[0], span, f"{len(times):,} requests in {span:,.0f} s, as {path} has them")
