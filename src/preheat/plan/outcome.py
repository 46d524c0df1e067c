"""What came of a simulated traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..measure.summary import rank


@dataclass(frozen=True)
class Use:
    """What is paid for, over the traffic's whole span. Seconds are summed over instances."""

    requests: int = 0
    """Answered, pings of keep-warm included."""
    run_s: float = 0.0
    """Of requests on instances that were started on demand; on Lambda as it is billed."""
    provisioned_s: float = 0.0
    """Of requests on provisioned instances."""
    starts: int = 0
    """That somebody waited for, or the autoscaler ordered."""
    starting_s: float = 0.0
    """On Lambda: of the functions' own starts, as they are billed."""
    active_s: float = 0.0
    """On what scales on concurrency: starting, or with a request at least; rounded up as it is billed."""
    alive_s: float = 0.0
    """From a start to the end."""
    least_idle_s: float = 0.0
    """By how many instances fewer than the least were at work."""


@dataclass(frozen=True)
class Outcome:
    latency_s: NDArray[np.float64]
    """By request, as a client sees it; infinite where there was no answer: throttled, shed, timed out."""
    cold: NDArray[np.bool_]
    """By request: sent to an instance before it was ready, or the first that one answered. As a server's
    ``x-preheat-start`` tells."""
    use: Use
    most: int
    """Instances at once."""

    def percentiles_s(self, percents: Sequence[float]) -> dict[float, float]:
        """The latencies that these percentages of all requests do not exceed (nearest rank)."""
        ordered = np.sort(self.latency_s)
        return {percent: float(ordered[rank(len(ordered), percent / 100) - 1]) for percent in percents}

    @property
    def cold_share(self) -> float:
        return float(np.mean(self.cold))

    @property
    def unanswered_share(self) -> float:
        return float(np.mean(np.isinf(self.latency_s)))
