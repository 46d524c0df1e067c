"""`preheat plan`, as the command line calls it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .. import output
from ..deploy import aws_tables, container_tables, cost, sizing
from ..deploy.facts import Facts, check_architecture, read
from ..errors import UsageError
from . import objective as objectives
from . import options, platforms, traffic
from .candidates import UNFIT, Candidate, Known, candidate
from .decide import decide, document
from .draws import draw
from .figures import figures
from .record import record

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_MS = 900_000.0
"""A request that takes longer is cut off on Lambda, and is none that anybody waits for."""
FEW = 20
"""Requests beyond a percentile, below which it rests on too few."""


def plan(
    target: str,
    *,
    rate: str,
    objective: Sequence[str],
    named: Sequence[str],
    requests: int,
    seed: int,
    run: str | None,
    latency_ms: float | None,
    architecture: str | None,
    region: str,
    prices: str | None,
    platforms_path: str | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Plan and print; gives the exit status: 0 an option meets the objective, 1 none does. ``out``: where the
    decision record goes."""
    from ..measure.report import load

    wanted = objectives.parse(objective)
    if latency_ms is not None and not 0 < latency_ms <= LONGEST_MS:
        raise UsageError(f"--latency-ms must be more than 0 and at most {LONGEST_MS:,.0f}")
    chosen = options.parse(named)
    table = platforms.load(platforms_path)
    if out is not None:
        output.make_room(out, as_json=as_json)
    if architecture is not None:
        check_architecture(architecture)
    tables = aws_tables.load()
    met = traffic.of(rate, requests, seed)
    facts = read(target, os.environ)
    architecture = architecture or facts.architecture
    known = Known(
        facts,
        architecture,
        tables,
        container_tables.load(),
        aws_tables.prices(tables, region, architecture, prices),
        table,
        None if run is None else load(run),
        latency_ms,
    )
    candidates, left_out = _simulated(chosen, known, met, seed)
    decision = decide(candidates, wanted)
    found: dict[str, Any] = {
        "target": target,
        "artifact": {"name": facts.manifest.name, "version": facts.manifest.version},
        "traffic": {
            "said": met.said,
            "rate": met.rate,
            "requests": len(met.arrivals),
            "span_s": met.span_s,
            "seed": seed,
        },
        "objective": [str(bound) for bound in wanted],
        **document(decision),
        "left_out": left_out,
        "measured": _measured(facts, run),
        "assumptions": _assumptions(candidates, known, met),
        "risks": _risks(candidates, known, met, wanted),
        "prices": known.prices._asdict(),
    }
    if out is not None:
        output.write(out, record(found, datetime.now(UTC).date()))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        from rich.console import Console

        _show(Console(stderr=out == output.STDOUT), found)
    return 0 if decision.chosen is not None else 1


def _simulated(
    chosen: list[options.Option], known: Known, met: traffic.Traffic, seed: int
) -> tuple[list[Candidate], list[str]]:
    """What was simulated, and what could not be had. What was named and cannot be had is an error."""
    from ..measure.show import progress

    named = bool(chosen)
    if not named:
        alone = figures(
            known.facts, known.architecture, known.tables, run=known.run, latency_ms=known.latency_ms
        )
        load = cost.Load(met.rate, alone.request.median, alone.start.median, 0.0, alone.memory_mb, 512, 0)
        cost.check_load(load)
        chosen = options.usual(cost.busy(load))
    draws, found, left_out = draw(len(met.arrivals), seed), [], []
    with progress("plan") as tell:
        for index, option in enumerate(chosen):
            tell(option.name, index, len(chosen))
            try:
                found.append(candidate(option, known, met, draws))
            except UsageError as error:
                if named or error.code != UNFIT:
                    raise
                left_out.append(str(error))
    return found, left_out


def _measured(facts: Facts, run: str | None) -> str:
    measured = facts.manifest.measurements
    host = measured.get("host") or {}
    said = (
        f"the build's measurements: {measured.get('rounds', '?')} rounds on "
        f"{host.get('cpu', 'an unnamed CPU')}, {facts.threads} threads"
    )
    return said if run is None else f"{said}; starts from {run}"


def _assumptions(candidates: Sequence[Candidate], known: Known, met: traffic.Traffic) -> list[str]:
    """Each with its source."""
    used = dict.fromkeys(one.option.platform for one in candidates)
    lines = [
        "A request takes as long as measured, scaled to the CPU; an instance answers one at a time unless "
        "`turns` says more, joins none, and keeps the others that it has in line.",
        f"The traffic stands for every month: {met.span_s:,.0f} s of it, times as many as fit. It begins "
        "with no instance but the least and the provisioned ones.",
    ]
    least = {
        options.LAMBDA: f"on Lambda a vCPU's {known.tables.limits.memory_per_cpu_mb:,} MB at least",
        "cloudrun": f"on Cloud Run /tmp too, {known.containers.cloudrun.memory_mb[0]} MiB at least",
    }
    memory = (
        f"An instance has the memory that `preheat render` gives it: the measured peak, "
        f"{known.tables.assumed.python_mib:g} MiB beside it and {sizing.MARGIN - 1:.0%} more"
    )
    lines.append("; ".join([memory, *(said for name, said in least.items() if name in used)]) + ".")
    if known.run is None:
        lines.append(
            f"Interpreter and imports take {known.tables.assumed.import_ms:g} ms at one CPU: `preheat "
            "measure TARGET --json` measures them, --run takes that."
        )
    if options.LAMBDA in used:
        aws, assumed = known.platforms.aws, known.tables.assumed
        lines += [
            f"Lambda keeps an idle instance {assumed.idle_s:g} s and a busy one "
            f"{assumed.recycled_s / 3600:g} h, restores a snapshot in "
            f"{known.tables.snapstart.restore_s:g} s (promised nowhere).",
            f"Lambda: {_between(aws.cold_s)} before a start, {_between(aws.warm_s)} with each answer "
            f"({aws.source}).",
            f"Lambda's list prices of {known.prices.region} as of {known.prices.date} ({known.prices.source})"
            f"{'' if known.prices.checked else ', not checked since'}.",
        ]
    for name, platform in known.platforms.autoscaled.items():
        if name in used:
            price = platform.price
            before = (
                f"{_between(platform.cold_s)} before a start" if any(platform.cold_s) else "a start as it is"
            )
            charged = (
                "nothing is charged: the machine is there anyway."
                if price.free
                else f"${price.cpu_s * 3600:.4f} a CPU-hour, ${price.gib_s * 3600:.4f} a GiB-hour as of "
                f"{price.date} ({price.source}){'' if price.checked else ', not checked since'}."
            )
            lines += [
                f"{name}: {before}, {_between(platform.warm_s)} with each answer, a window of "
                f"{platform.window_s:g} s, a decision every {platform.tick_s:g} s, "
                f"{platform.utilization:.0%} of the concurrency aimed at ({platform.source}).",
                f"{name}: {charged}",
            ]
    return lines


def _risks(
    candidates: Sequence[Candidate], known: Known, met: traffic.Traffic, wanted: Sequence[objectives.Bound]
) -> list[str]:
    lines = []
    thin = [bound for bound in wanted if len(met.arrivals) * (1 - bound.percent / 100) < FEW]
    if thin:
        lines.append(
            f"{', '.join(bound.name for bound in thin)} of {len(met.arrivals):,} requests rests on fewer "
            f"than {FEW} of them: a longer trace, or --requests, would tell more."
        )
    if any(not one.figures.measured_start for one in candidates):
        lines.append("The start is partly assumed, and was not measured.")
    lines.append(
        f"Measured on {known.facts.threads} threads of the machine that built it: another CPU gives others."
    )
    if any(one.option.platform == options.LAMBDA for one in candidates):
        lines.append(
            "Whether it fits Lambda's limits (package, init, SnapStart) `preheat check lambda` says."
        )
    if any(one.option.platform == "up" for one in candidates):
        lines.append("up: its instances are simulated as if none took another one's CPU.")
    if any(one.option.platform in ("knative", "cloudrun") for one in candidates):
        lines.append("No image is pulled in these starts: on a node without it a start takes as much longer.")
    if any(one.monthly for one in candidates):
        lines.append("Prices are list prices, and the platforms' own parts of a start change without notice.")
    return lines


def _between(bounds: Sequence[float]) -> str:
    low, high = (f"{value * 1e3:g}" for value in bounds)
    return f"{low} to {high} ms"


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    say(f"{found['artifact']['name']}: {found['traffic']['said']}; {', '.join(found['objective'])}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    percentiles = list(found["options"][0]["latency_ms"]) if found["options"] else []
    for head in (*(f"{name}\nms" for name in percentiles), "cold", "inst.", "$ a\nmonth", ""):
        table.add_column(head, justify="right")
    for one in found["options"]:
        latencies = [one["latency_ms"][name] for name in percentiles]
        table.add_row(
            Text(one["name"], style="bold" if one["name"] == found["chosen"] else ""),
            *("none" if value is None else f"{value:,.0f}" for value in latencies),
            f"{one['cold_share']:.2%}",
            str(one["instances"]),
            f"{one['monthly_usd']['total']:,.2f}",
            Text("meets", style="green") if one["meets"] else Text("misses", style="red"),
        )
    console.print(table)
    for line in found["why"]:
        say(line)
    for line in found["left_out"]:
        say(f"Left out: {line}")
    say(f"Figures: {found['measured']}.", "dim")
    for line in (*found["assumptions"], *found["risks"]):
        say(f"- {line}", "dim")
