"""AWS Lambda, simulated: one request an instance at a time, started when none is free.

What the documentation promises: an instance has one request at once, an invocation that finds none free
starts one, provisioned instances are taken first and what they cannot take runs on demand, past the
concurrency it is throttled (https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html). What
nobody promises: for how long an instance is kept idle, or used at all. That is in ``aws_lambda.toml``, under
``assumed``.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deploy.cost import billed_s
from .draws import Times
from .outcome import Outcome, Use


class Settings(NamedTuple):
    idle_s: float
    """For how long an instance is kept with nothing to do."""
    recycled_s: float
    """After how long one is given up, used or not."""
    concurrency: int
    """Instances at once."""
    provisioned: int = 0
    ping_every_s: float = 0.0
    """Of the scheduled keep-warm event; 0: none."""
    ping_count: int = 1
    """Events at the same moment: each keeps another instance."""
    ping_s: float = 0.0


def simulate(arrivals: NDArray[np.float64], span_s: float, times: Times, settings: Settings) -> Outcome:
    """``arrivals``: seconds from the beginning, in order. Begins with nothing but the provisioned instances.

    The instance that was used last is taken first: so those that are too many are the ones that idle away.
    """
    at, request = _with_pings(arrivals, span_s, settings)
    latency = np.full(len(arrivals), math.inf)
    cold = np.zeros(len(arrivals), np.bool_)
    serve, start = times.request.tolist(), times.start.tolist()
    placed, carried = times.placed.tolist(), times.carried.tolist()
    busy: list[tuple[float, float]] = []
    """When it is free, when it was started."""
    idle: deque[tuple[float, float]] = deque()
    """Since when, and when it was started; used last, last."""
    held: list[float] = []
    """Provisioned ones at work: when each is free."""
    most = starts = answered = 0
    run_s = provisioned_s = starting_s = 0.0
    idle_s, recycled_s = settings.idle_s, settings.recycled_s
    for now, index in zip(at, request, strict=True):
        while busy and busy[0][0] <= now:
            idle.append(heapq.heappop(busy))
        while idle and now - idle[0][0] > idle_s:
            idle.popleft()
        while held and held[0] <= now:
            heapq.heappop(held)
        takes = serve[index] if index >= 0 else settings.ping_s
        if len(held) < settings.provisioned:
            heapq.heappush(held, now + takes)
            provisioned_s += billed_s(takes * 1e3 - 1e-9)  # 0.011 s is not 12 ms for a float's sake
            waited = 0.0
        else:
            while idle and now - idle[-1][1] > recycled_s:
                idle.pop()
            if idle:
                waited, born = 0.0, idle.pop()[1]
            elif len(busy) + settings.provisioned >= settings.concurrency:
                continue
            else:
                # A ping draws with the request that comes next, whose numbers are as good as any.
                drawn = index if index >= 0 else ~index
                waited, born = placed[drawn] + start[drawn], now
                starting_s += start[drawn]
                starts += 1
                if index >= 0:
                    cold[index] = True
            heapq.heappush(busy, (now + waited + takes, born))
            run_s += billed_s(takes * 1e3 - 1e-9)
            most = max(most, len(busy) + len(idle))
        answered += 1
        if index >= 0:
            latency[index] = waited + takes + carried[index]
    use = Use(
        requests=answered,
        run_s=run_s,
        provisioned_s=provisioned_s,
        starts=starts,
        starting_s=starting_s,
    )
    return Outcome(latency, cold, use, most + settings.provisioned)


def _with_pings(
    arrivals: NDArray[np.float64], span_s: float, settings: Settings
) -> tuple[list[float], list[int]]:
    """All events in order: their times, and the request's number; for a ping, before the request of number n
    or after the last one, ``~n``."""
    numbers = np.arange(len(arrivals))
    if not settings.ping_every_s:
        return arrivals.tolist(), numbers.tolist()
    pings = np.repeat(np.arange(0.0, span_s, settings.ping_every_s), settings.ping_count)
    following = np.minimum(np.searchsorted(arrivals, pings), len(arrivals) - 1)
    at = np.concatenate([pings, arrivals])
    order = np.argsort(at, kind="stable")
    return at[order].tolist(), np.concatenate([~following, numbers])[order].tolist()
