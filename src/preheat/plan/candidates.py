"""An option, simulated and priced: from its name to what it would give and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..deploy import container_size, container_tables, sizing
from ..deploy.aws_tables import Prices, Tables
from ..deploy.cost import MONTH_S
from ..deploy.facts import Facts
from ..errors import UsageError
from ..fingerprint import usable_cpus
from ..local.pool import AHEAD, Options
from ..local.scaling import Policy
from . import on_demand, scaled
from .draws import Draws, times
from .figures import Figures, Spread, figures
from .options import LAMBDA, Option
from .outcome import Outcome
from .platforms import Autoscaled, Platforms
from .traffic import Traffic

UNFIT = "unfit"
CONCURRENCY = 8
"""Requests that one instance gets at once, where nothing is said."""
MOST = 100
"""Instances at most, where nothing is said."""
MOST_PINGS = 10_000_000
"""That are simulated."""


class Known(NamedTuple):
    """What all options are simulated with."""

    facts: Facts
    architecture: str
    tables: Tables
    containers: container_tables.Tables
    prices: Prices
    platforms: Platforms
    run: Mapping[str, Any] | None
    latency_ms: float | None


class Candidate(NamedTuple):
    option: Option
    figures: Figures
    outcome: Outcome
    monthly: dict[str, float]
    """US dollars, by what they are for."""

    @property
    def total(self) -> float:
        return sum(self.monthly.values())


def candidate(option: Option, known: Known, traffic: Traffic, draws: Draws) -> Candidate:
    """Raises UsageError where the artifact was not measured; with the code UNFIT where the option cannot be
    had for it."""
    if option.platform == LAMBDA:
        return _on_lambda(option, known, traffic, draws)
    return _autoscaled(option, known, traffic, draws)


def _on_lambda(option: Option, known: Known, traffic: Traffic, draws: Draws) -> Candidate:
    given, platform, tables = option.given, known.platforms.aws, known.tables
    memory = int(given["memory"]) if "memory" in given else None
    found = figures(
        known.facts, known.architecture, tables, memory_mb=memory, run=known.run, latency_ms=known.latency_ms
    )
    provisioned = int(given.get("provisioned", 0))
    snapstart = bool(given.get("snapstart"))
    _check_lambda(option, found, tables, snapstart)
    if given.get("pings", 1) * traffic.span_s / given.get("ping", math.inf) > MOST_PINGS:
        raise UsageError(
            f"{option.name}: more than {MOST_PINGS:,} pings in {traffic.span_s:,.0f} s; ask for fewer"
        )
    start, cold_s = started_anew(found.start, tables.limits.init_s), platform.cold_s
    if snapstart:
        start, cold_s = Spread(*(tables.snapstart.restore_s,) * 3), (0.0, 0.0)
    settings = on_demand.Settings(
        idle_s=tables.assumed.idle_s,
        recycled_s=tables.assumed.recycled_s,
        concurrency=max(int(given.get("concurrency", platform.concurrency)), provisioned),
        provisioned=provisioned,
        ping_every_s=given.get("ping", 0.0),
        ping_count=int(given.get("pings", 1)),
        ping_s=platform.ping_s,
    )
    taken = times(draws, found.request, start, cold_s, platform.warm_s)
    outcome = on_demand.simulate(traffic.arrivals, traffic.span_s, taken, settings)
    return Candidate(option, found, outcome, _lambda_cost(outcome, found, known.prices, traffic, option))


def _check_lambda(option: Option, found: Figures, tables: Tables, snapstart: bool) -> None:
    low, high = tables.limits.memory_mb
    if found.needed_mb > found.memory_mb:
        raise UsageError(
            f"{option.name}: the model needs {found.needed_mb:,} MB, an instance has {found.memory_mb:,}",
            code=UNFIT,
        )
    if not low <= found.memory_mb <= high:
        raise UsageError(f"{option.name}: Lambda's memory is {low} to {high:,} MB", code=UNFIT)
    if snapstart and found.ephemeral_mb > tables.snapstart.ephemeral_mb:
        raise UsageError(
            f"{option.name}: the model needs {found.ephemeral_mb:,} MB of /tmp, SnapStart allows "
            f"{tables.snapstart.ephemeral_mb}",
            code=UNFIT,
        )


def started_anew(start: Spread, limit_s: float) -> Spread:
    """An init that takes longer than Lambda allows is begun anew, inside the invocation."""
    return Spread(*(value + limit_s if value > limit_s else value for value in start))


def _lambda_cost(
    outcome: Outcome, found: Figures, prices: Prices, traffic: Traffic, option: Option
) -> dict[str, float]:
    use, months, gb = outcome.use, MONTH_S / traffic.span_s, found.memory_mb / 1024
    past = max(found.ephemeral_mb - 512, 0) / 1024 * prices.ephemeral
    snapstart, provisioned = option.given.get("snapstart"), option.given.get("provisioned", 0.0)
    parts = {
        "requests": use.requests * prices.request,
        "duration": use.run_s * (gb * prices.duration + past)
        + use.provisioned_s * (gb * prices.provisioned_duration + past),
        "restores" if snapstart else "cold starts": use.starting_s * gb * prices.duration
        + (use.starts * gb * prices.snapshot_restore if snapstart else 0.0),
    }
    monthly = {name: dollars * months for name, dollars in parts.items()}
    if snapstart:
        monthly["snapshot kept"] = MONTH_S * gb * prices.snapshot_cache
    if provisioned:
        monthly["kept ready"] = provisioned * MONTH_S * gb * prices.provisioned
    return monthly


def _autoscaled(option: Option, known: Known, traffic: Traffic, draws: Draws) -> Candidate:
    platform = known.platforms.autoscaled[option.platform]
    cpus = option.given.get("cpu", float(usable_cpus()) if option.platform == "up" else 1.0)
    found = figures(
        known.facts,
        known.architecture,
        known.tables,
        memory_mb=max(round(cpus * known.tables.limits.memory_per_cpu_mb), 1),
        run=known.run,
        latency_ms=known.latency_ms,
    )
    found = found._replace(memory_mb=_container_mb(known, option.platform, cpus))
    taken = times(draws, found.request, found.start, platform.cold_s, platform.warm_s)
    settings = settings_of(option, platform)
    outcome = scaled.simulate(traffic.arrivals, traffic.span_s, taken, settings)
    return Candidate(option, found, outcome, _container_cost(outcome, cpus, found, platform, traffic))


def _container_mb(known: Known, platform: str, cpus: float) -> int:
    """What `preheat render` gives a container there, in MB."""
    on_cloud_run, (_, cloudrun, assumed) = platform == "cloudrun", known.containers
    found = sizing.figures(known.facts, known.architecture)
    memory, _ = container_size.room(known.facts, found, assumed, tmp_is_memory=on_cloud_run)
    return max(memory, cloudrun.least_memory(math.ceil(cpus), gpu=False)) if on_cloud_run else memory


def settings_of(option: Option, platform: Autoscaled) -> scaled.Settings:
    """An option's settings: what it says, and the platform's defaults."""
    given, local = option.given, option.platform == "up"
    concurrency = int(given.get("concurrency", Options.concurrency if local else CONCURRENCY))
    most = int(given.get("max", max(Policy.most if local else MOST, given.get("min", 0))))
    policy = Policy(
        target=given.get("target", concurrency * platform.utilization),
        least=int(given.get("min", 0)),
        most=most,
        stable_s=given.get("window", platform.window_s),
        panic_percentage=given.get("panic", platform.panic_percentage),
        panic_threshold=given.get("threshold", platform.panic_threshold),
        grace_s=given.get("grace", platform.grace_s),
    )
    return scaled.Settings(
        policy,
        tick_s=platform.tick_s,
        at_once=platform.at_once,
        concurrency=concurrency,
        turns=min(int(given.get("turns", 1)), concurrency),
        ahead=AHEAD if local else 0,
        starting=int(given.get("starting", max(usable_cpus() // 2, 1))) if local else 0,
        queue=int(given.get("queue", Options.queue)) if local else 0,
        timeout_s=platform.timeout_s,
        drain_s=platform.drain_s,
        paid_step_s=platform.paid_step_s,
    )


def _container_cost(
    outcome: Outcome, cpus: float, found: Figures, platform: Autoscaled, traffic: Traffic
) -> dict[str, float]:
    use, price, months = outcome.use, platform.price, MONTH_S / traffic.span_s
    gib = found.memory_mb / 1024
    active = cpus * price.cpu_s + gib * price.gib_s
    idle = cpus * price.idle_cpu_s + gib * price.idle_gib_s
    kept_s = use.least_idle_s if platform.idles_free else max(use.alive_s - use.active_s, 0.0)
    parts = {
        "requests": use.requests * price.request,
        "at work": use.active_s * active,
        "kept ready": kept_s * idle,
    }
    return {name: dollars * months for name, dollars in parts.items() if dollars}
