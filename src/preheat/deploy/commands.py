"""`preheat check` and `preheat render`, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import output
from ..errors import UsageError
from . import aws_tables, cost, fit, sizing
from .facts import check_architecture, read
from .showing import show_findings

if TYPE_CHECKING:
    from rich.console import Console


def check_lambda(
    target: str,
    plan: fit.Plan,
    *,
    architecture: str | None,
    rate: float,
    latency_ms: float | None,
    region: str,
    prices: str | None,
    run: str | None,
    as_json: bool,
) -> int:
    """Check a target against AWS Lambda and print; gives the exit status: 0 it fits, 1 it does not.

    In ``plan``, memory and timeout of 0 stand for those that fit the measurements.
    """
    rate = fit.finite(rate, "--requests-per-second")
    if latency_ms is not None and fit.finite(latency_ms, "--latency-ms") == 0:
        raise UsageError("--latency-ms must be more than 0")
    tables = aws_tables.load()
    named = check_architecture(architecture) if architecture is not None else None
    facts = read(target, os.environ)
    plan = plan._replace(architecture=named or facts.architecture)
    table = aws_tables.prices(tables, region, plan.architecture, prices)
    sized = sizing.size(
        facts,
        plan.architecture,
        tables,
        stored=facts.stored,
        memory_mb=plan.memory_mb or None,
        run=_run(run),
    )
    plan = plan._replace(
        memory_mb=plan.memory_mb or min(sized.memory_mb, tables.limits.memory_mb[1]),
        timeout_s=plan.timeout_s or sized.timeout_s,
    )
    fit.check_plan(plan, tables)
    found = fit.findings(facts, plan, sized, tables)
    load = cost.Load(
        rate=rate,
        request_s=cost.billed_s(sized.request_ms if latency_ms is None else latency_ms),
        init_s=sized.init_ms / 1e3,
        restore_s=tables.snapstart.restore_s,
        memory_mb=plan.memory_mb,
        ephemeral_mb=plan.ephemeral_mb,
        provisioned=plan.provisioned,
    )
    cost.check_load(load)
    ways = [way(load, table, tables.assumed) for way in (cost.plain, cost.snapstart, cost.provisioned)]
    document = {
        "target": target,
        "artifact": {"name": facts.manifest.name, "version": facts.manifest.version},
        "platform": "lambda",
        "plan": {**plan._asdict(), "layers": list(plan.layers)},
        "sizing": sized._asdict(),
        "fits": fit.worst(found) == 0,
        "findings": [finding._asdict() for finding in found],
        "load": load._asdict(),
        "monthly_usd": [way._asdict() for way in ways],
        "break_even": cost.break_even(load, table, tables.assumed),
        "prices": table._asdict(),
        "assumed": {**tables.assumed._asdict(), "restore_s": tables.snapstart.restore_s},
    }
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        from rich.console import Console

        _show(Console(), document)
    return fit.worst(found)


def _run(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    from ..measure.report import load

    return load(path)


def _show(console: Console, document: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    plan, artifact = document["plan"], document["artifact"]
    console.print(
        f"{artifact['name']} {artifact['version'][:19]}… as a Lambda function: {plan['package']}, "
        f"{plan['architecture']}, Python {plan['python']}, {plan['memory_mb']} MB",
        highlight=False,
        soft_wrap=True,
    )
    show_findings(console, document["findings"])
    load = document["load"]
    costs = Table(
        f"{load['rate']:g} requests/s, {load['request_s'] * 1e3:.0f} ms each",
        "$ a month",
        "cold starts a month",
        "of which",
        box=box.SIMPLE_HEAD,
    )
    for way in document["monthly_usd"]:
        parts = ", ".join(f"{name} {_dollars(value)}" for name, value in way["parts"].items())
        costs.add_row(way["name"], _dollars(way["total"]), f"{way['cold_starts']:,.0f}", parts)
    console.print(costs)
    for line in _break_even(document["break_even"], load):
        console.print(line, highlight=False, soft_wrap=True)
    prices, assumed = document["prices"], document["assumed"]
    console.print(
        f"List prices of {prices['region']} as of {prices['date']} ({prices['source']})"
        f"{'' if prices['checked'] else ': check them'}. Assumed: an idle instance lives "
        f"{assumed['idle_s']:.0f} s, a busy one {assumed['recycled_s'] / 3600:.0f} h, a restore takes "
        f"{assumed['restore_s']:g} s.",
        highlight=False,
        soft_wrap=True,
    )


def _break_even(found: dict[str, Any], load: dict[str, Any]) -> list[str]:
    def rate(value: float | None) -> str:
        return "at no rate" if value is None else f"from {value:.3g} requests/s"

    threshold = found["snapstart_init_s"]
    lines = []
    if threshold is not None:
        lines.append(
            f"SnapStart is cheaper than plain cold starts {rate(found['snapstart_rate'])}: a restore costs "
            f"as much as {threshold:.1f} s of init, and this init takes {load['init_s']:.1f} s."
        )
    busy = found["provisioned_busy"]
    lines.append(
        f"{found['provisioned_instances']} provisioned instances are cheaper than SnapStart "
        f"{rate(found['provisioned_rate'])}"
        + ("." if busy is None else f": they must be busy {busy:.0%} of the time.")
    )
    return lines


def _dollars(value: float) -> str:
    return f"{value:,.2f}"


def render_sam(
    targets: Sequence[str],
    *,
    out: str,
    package: str,
    python: str,
    architecture: str | None,
    layers: str,
    force: bool = False,
) -> int:
    """Write a template, or print it; gives the exit status."""
    try:
        from .sam import render
    except ImportError as missing:
        raise UsageError(
            f"templates need the package {missing.name}: pip install 'preheat[deploy]'", code="unsupported"
        ) from missing
    from .sam_files import write

    if architecture is not None:
        check_architecture(architecture)
    functions = [read(target, os.environ) for target in targets]
    template = render(
        functions,
        aws_tables.load(),
        folder="." if out == output.STDOUT else out,
        package=package,
        python=python,
        architecture=architecture,
        layers=layers,
    )
    if out == output.STDOUT:
        output.write(out, template.text)
    else:
        for path in write(template, out, force=force):
            output.wrote(path)
    return 0
