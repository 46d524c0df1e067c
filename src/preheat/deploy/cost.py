"""What a function costs in a month by how it meets cold starts, and where one way overtakes another.

The model: requests arrive at random at a steady rate, and each goes to the first instance that is free, as
if they stood in a row. On demand, one of them is started when it idled for longer than the platform keeps
it, and when it is recycled. What the platform does there is promised nowhere; the table's ``assumed`` says
what is taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

from ..errors import UsageError
from .aws_tables import HOURS_A_MONTH, Assumed, Prices

MONTH_S = HOURS_A_MONTH * 3600
MOST = 10_000
"""Instances at once, past which a sum by this model says nothing any more."""


class Load(NamedTuple):
    rate: float
    """Requests a second."""
    request_s: float
    """Seconds that a warm request takes."""
    init_s: float
    """Seconds of a plain cold start, which Lambda bills."""
    restore_s: float
    """Seconds of a restore, billed too."""
    memory_mb: int
    ephemeral_mb: int
    provisioned: int
    """Instances of provisioned concurrency; 0: as many as the rate keeps busy."""


class Way(NamedTuple):
    """One way to meet cold starts. US dollars a month."""

    name: str
    total: float
    parts: dict[str, float]
    cold_starts: float
    """A month, that a caller waits for."""


def billed_s(milliseconds: float) -> float:
    """What Lambda bills of a run, in seconds: whole milliseconds."""
    return max(math.ceil(milliseconds), 1) / 1e3


def check_load(load: Load) -> None:
    """Raises UsageError for more than MOST instances at once."""
    at_once = load.rate * load.request_s
    if max(at_once, load.provisioned) > MOST:
        raise UsageError(
            f"{load.rate:g} requests/s of {load.request_s:g} s and {load.provisioned} provisioned instances: "
            f"costs are counted for at most {MOST:,} instances at once; ask for a part of the load"
        )


def busy(load: Load) -> int:
    """Instances that a rate keeps busy, all but one time in a thousand: Poisson, by the normal law."""
    mean = load.rate * load.request_s
    return max(math.ceil(mean + 3.1 * math.sqrt(mean)), 1)


def cold_starts(load: Load, assumed: Assumed, ready: int = 0) -> float:
    """Cold starts a month of the instances on demand: after idleness, and when they are recycled. ``ready``:
    how many stand before them in the row and are never started."""
    found = 0.0
    for blocked in islice(_blocked(load.rate * load.request_s), ready, None):
        reaches = load.rate * blocked
        if reaches * MONTH_S < 1e-3:
            break
        idles = math.exp(-reaches * assumed.idle_s)
        found += reaches * MONTH_S * idles + (1 - idles) * MONTH_S / assumed.recycled_s
    return min(found, load.rate * MONTH_S)


def plain(load: Load, prices: Prices, assumed: Assumed) -> Way:
    """On demand, each cold start paid in full."""
    colds = cold_starts(load, assumed)
    return _way(
        "plain cold starts",
        {
            **_running(load, prices, prices.duration),
            "cold starts": colds * load.init_s * _gb(load) * prices.duration,
        },
        colds,
    )


def snapstart(load: Load, prices: Prices, assumed: Assumed) -> Way:
    """One published version's snapshot kept, and restored where a plain function would start."""
    colds = cold_starts(load, assumed)
    each = load.restore_s * prices.duration + prices.snapshot_restore
    return _way(
        "SnapStart",
        {
            **_running(load, prices, prices.duration),
            "snapshot kept": MONTH_S * _gb(load) * prices.snapshot_cache,
            "restores": colds * _gb(load) * each,
        },
        colds,
    )


def provisioned(load: Load, prices: Prices, assumed: Assumed) -> Way:
    """Instances kept ready. What they cannot take runs on demand: its share by Poisson's law."""
    instances = load.provisioned or busy(load)
    spilt = next(islice(_blocked(load.rate * load.request_s), instances, None))
    ready, over = load._replace(rate=load.rate * (1 - spilt)), load._replace(rate=load.rate * spilt)
    colds = cold_starts(load, assumed, instances)
    running = _running(ready, prices, prices.provisioned_duration)
    beyond = _running(over, prices, prices.duration)
    return _way(
        f"provisioned concurrency of {instances}",
        {
            **{name: running[name] + beyond[name] for name in running},
            "kept ready": instances * MONTH_S * _gb(load) * prices.provisioned,
            "cold starts": colds * load.init_s * _gb(load) * prices.duration,
        },
        colds,
    )


def break_even(load: Load, prices: Prices, assumed: Assumed) -> dict[str, Any]:
    """Where one way becomes the cheaper one.

    ``snapstart_init_s``: the plain start's seconds from which a restore is the cheaper start, at any rate.
    ``snapstart_rate`` and ``provisioned_rate``: the lowest requests a second from which SnapStart is cheaper
    than plain cold starts (idleness makes cold starts most frequent at low rates, so it may not stay so), and
    a fixed number of provisioned instances cheaper than SnapStart; None for never within what they can take.
    ``provisioned_busy``: the share of the time that a provisioned instance must be busy to be cheaper than
    the same work on demand.
    """
    per_cold = load.restore_s * prices.duration + prices.snapshot_restore
    fixed = load._replace(provisioned=load.provisioned or busy(load))
    most = fixed.provisioned / load.request_s
    gain = prices.duration - prices.provisioned_duration
    return {
        "snapstart_init_s": per_cold / prices.duration if prices.duration else None,
        "snapstart_rate": _lowest(
            lambda rate: (
                _total(snapstart, load, rate, prices, assumed) <= _total(plain, load, rate, prices, assumed)
            ),
            most,
        ),
        "provisioned_instances": fixed.provisioned,
        "provisioned_rate": _lowest(
            lambda rate: (
                _total(provisioned, fixed, rate, prices, assumed)
                <= _total(snapstart, fixed, rate, prices, assumed)
            ),
            most,
        ),
        "provisioned_busy": prices.provisioned / gain if gain > 0 else None,
    }


def _lowest(holds: Callable[[float], bool], most: float) -> float | None:
    """The lowest rate at which something holds, from one a month up to ``most``; None where it never does.

    The totals are no straight lines: the rates are gone through in steps, and the step found is halved."""
    low = 1 / MONTH_S
    steps = [low * (most / low) ** (i / 400) for i in range(401)] if most > low else [most]
    found = next((i for i, rate in enumerate(steps) if holds(rate)), None)
    if not found:
        return None if found is None else steps[0]
    under, over = steps[found - 1], steps[found]
    for _ in range(40):
        middle = (under + over) / 2
        under, over = (under, middle) if holds(middle) else (middle, over)
    return over


def _total(
    way: Callable[[Load, Prices, Assumed], Way], load: Load, rate: float, prices: Prices, assumed: Assumed
) -> float:
    return way(load._replace(rate=rate), prices, assumed).total


def _running(load: Load, prices: Prices, duration: float) -> dict[str, float]:
    requests = load.rate * MONTH_S
    past = max(load.ephemeral_mb - 512, 0) / 1024
    return {
        "requests": requests * prices.request,
        "duration": requests * load.request_s * (_gb(load) * duration + past * prices.ephemeral),
    }


def _blocked(mean: float) -> Iterator[float]:
    """The shares of requests that find none, one, two … instances all busy (Erlang's loss formula, by its
    recurrence)."""
    blocked = 1.0 if mean > 0 else 0.0
    for instances in count(1):
        yield blocked
        blocked = mean * blocked / (instances + mean * blocked)


def _gb(load: Load) -> float:
    return load.memory_mb / 1024


def _way(name: str, parts: dict[str, float], colds: float) -> Way:
    return Way(name, sum(parts.values()), parts, colds)
