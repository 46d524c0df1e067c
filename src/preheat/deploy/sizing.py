"""How large a Lambda function has to be for an artifact: memory, time, /tmp, threads; from measurements."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..errors import UsageError
from ..manifest import PORTABLE, Variant
from .aws_tables import Tables
from .facts import Facts

MIB = 1024 * 1024
MARGIN = 1.15
"""Peak memory differs by machine, and a function that reaches its limit is killed."""
CACHE_MIB = 32
"""What the cache keeps in /tmp beside the artifact's files."""
LEAST_TIMEOUT_S = 30


class Sizing(NamedTuple):
    variant: str
    """The variant that is expected to run."""
    memory_mb: int
    timeout_s: int
    ephemeral_mb: int
    threads: int
    rss_mib: float
    """Measured peak of the largest variant that may run."""
    init_ms: float
    """From process start to the first answer, everything fetched included."""
    request_ms: float
    """A warm request's run."""
    measured_init: bool
    """Whether the imports in ``init_ms`` were measured; else they are assumed."""


def size(
    facts: Facts,
    architecture: str,
    tables: Tables,
    *,
    stored: bool,
    memory_mb: int | None = None,
    objective: str = "",
    run: dict[str, Any] | None = None,
) -> Sizing:
    """Sizes for one architecture. ``stored``: the artifact is fetched from a store at the start.
    ``memory_mb``: given, instead of chosen. ``run``: what `preheat measure --json` printed for it.

    Raises UsageError where the artifact was never measured, or ``run`` is of another one.
    """
    best, rss, session, first, steady, most_opened = figures(facts, architecture, objective)
    memory = (
        max(needed_mb(rss, tables.assumed.python_mib), tables.limits.memory_per_cpu_mb)
        if memory_mb is None
        else memory_mb
    )
    cpus = memory / tables.limits.memory_per_cpu_mb
    slower = max(facts.threads / cpus, 1.0)  # as if every thread of the measurement had been at work
    request = steady * slower
    fetched = facts.opened(best) if stored else 0
    start, measured = _start(facts, best, run, session, first, tables)
    init = start[0] / min(cpus, 1.0) + start[1] * slower + fetched / MIB / tables.assumed.fetch_mb_per_s * 1e3
    longest_s = 2 * (init + request * max(facts.manifest.limits.batch, 1)) / 1e3
    low, high = tables.limits.timeout_s
    most = most_opened / MIB + CACHE_MIB if stored else 0
    return Sizing(
        variant=best.name,
        memory_mb=memory,
        timeout_s=min(max(rounded_up(longest_s, 5), LEAST_TIMEOUT_S, low), high),
        ephemeral_mb=max(rounded_up(most, 64), tables.limits.ephemeral_mb[0]),
        threads=max(int(cpus), 1),
        rss_mib=rss,
        init_ms=init,
        request_ms=request,
        measured_init=measured,
    )


class Figures(NamedTuple):
    """What was measured of the variant that is expected to run; for room, the larger of it and portable."""

    best: Variant
    rss_mib: float
    session_ms: float
    first_ms: float
    steady_ms: float
    most_opened: int
    """Bytes that a start fetches at most."""


def figures(facts: Facts, architecture: str, objective: str = "", *, gpu: bool = False) -> Figures:
    """``gpu``: whether a variant that takes one may run. Raises UsageError where the artifact was never
    measured."""
    fits, _ = facts.fitting(architecture, objective, gpu=gpu)
    best = fits[0]
    rooms = (best, _portable(fits))
    mapped = [facts.manifest.measured(v.name, "rss_mib") for v in rooms]
    rss = max((figure for figure in mapped if figure is not None), default=None)
    session, first, steady = (
        facts.manifest.measured(best.name, figure) for figure in ("session_ms", "first_ms", "steady_ms")
    )
    if rss is None or session is None or first is None or steady is None:
        raise UsageError(
            f"{facts.location} carries no measurements of the variant {best.name}: build it again, "
            "with --rounds of at least 1"
        )
    return Figures(best, rss, session, first, steady, max(facts.opened(v) for v in rooms))


def needed_mb(rss_mib: float, python_mib: float) -> int:
    """The least memory that holds the model and what runs beside it, in MB: one rule for every platform. Each
    gives more where it sells none so small (Lambda: a whole vCPU comes with 1,769 MB; Cloud Run: 512)."""
    return rounded_up((rss_mib + python_mib) * MARGIN, 64)


def _portable(fits: list[Variant]) -> Variant:
    return next(variant for variant in fits if variant.name == PORTABLE)


def _start(
    facts: Facts,
    best: Variant,
    run: dict[str, Any] | None,
    session: float,
    first: float,
    tables: Tables,
) -> tuple[tuple[float, float], bool]:
    """Milliseconds of a start on one thread, and of what the threads share; whether both were measured."""
    if run is None:
        return (tables.assumed.import_ms, session + first), False
    if run.get("artifact", {}).get("version") != facts.manifest.version:
        raise UsageError(f"--run holds measurements of another artifact than {facts.location}")
    rows = [row for row in run["rows"] if row["variant"] == best.name and row["total_ms"]]
    if not rows:
        raise UsageError(
            f"--run holds no start of the variant {best.name}, which would run: `preheat measure --variant "
            f"{best.name} --json` prints one"
        )
    total, phases = rows[0]["total_ms"]["median"], rows[0]["phases"]
    shared = sum(phases[name]["median"] for name in ("compile", "warmup") if name in phases)
    return (total - shared, shared), True


def rounded_up(value: float, step: int) -> int:
    return math.ceil(value / step) * step
