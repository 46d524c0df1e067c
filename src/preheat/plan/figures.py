"""What a function takes, from what was measured of it: a start, a request, and how both scatter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deploy import sizing
from ..deploy.aws_tables import Tables
from ..deploy.facts import Facts


class Spread(NamedTuple):
    """Seconds. Half of what is drawn lies evenly between the least and the median, half between that and the
    most: no more than three figures tell, and they come out again."""

    least: float
    median: float
    most: float

    def at(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values at these shares, 0 to 1."""
        return np.interp(shares, (0.0, 0.5, 1.0), self)

    def times(self, factor: float) -> Spread:
        return Spread(*(value * factor for value in self))


class Figures(NamedTuple):
    start: Spread
    """From the process's start until it answers."""
    request: Spread
    """A warm request, alone in its instance."""
    memory_mb: int
    """What an instance has."""
    needed_mb: int
    """What it needs at least."""
    ephemeral_mb: int
    variant: str
    measured_start: bool
    """Whether the imports in ``start`` were measured; else they are assumed."""


def figures(
    facts: Facts,
    architecture: str,
    tables: Tables,
    *,
    memory_mb: int | None = None,
    run: Mapping[str, Any] | None = None,
    latency_ms: float | None = None,
) -> Figures:
    """As ``deploy/sizing.py`` scales them to ``memory_mb`` (None: what the model needs) and the CPU that
    Lambda gives with that. ``run``: what `preheat measure --json` printed. ``latency_ms``: of a warm request,
    in place of what was measured. Raises UsageError where nothing was measured."""
    sized = sizing.size(
        facts, architecture, tables, stored=facts.stored, memory_mb=memory_mb, run=dict(run) if run else None
    )
    least, most = tables.limits.memory_mb
    steady = _relative(facts.manifest.measurements, sized.variant, "steady_ms")
    start = Spread(1.0, 1.0, 1.0)
    if run is not None:
        row = next(row for row in run["rows"] if row["variant"] == sized.variant and row["total_ms"])
        start = _spread(row["total_ms"])
    return Figures(
        start=start.times(sized.init_ms / 1e3),
        request=steady.times((sized.request_ms if latency_ms is None else latency_ms) / 1e3),
        memory_mb=min(max(sized.memory_mb, least), most) if memory_mb is None else memory_mb,
        needed_mb=sizing.needed_mb(sized.rss_mib, tables.assumed.python_mib),
        ephemeral_mb=sized.ephemeral_mb,
        variant=sized.variant,
        measured_start=sized.measured_init,
    )


def _relative(measurements: Mapping[str, Any], variant: str, figure: str) -> Spread:
    found = ((measurements.get("variants") or {}).get(variant) or {}).get(figure)
    return _spread(found) if isinstance(found, dict) else Spread(1.0, 1.0, 1.0)


def _spread(found: Mapping[str, Any]) -> Spread:
    """As shares of the median."""
    median = found["median"]
    least, most = found.get("min", median), found.get("max", median)
    return (
        Spread(min(least / median, 1.0), 1.0, max(most / median, 1.0))
        if median > 0
        else Spread(1.0, 1.0, 1.0)
    )
