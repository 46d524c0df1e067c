"""What the requests of a run would cost: on AWS Lambda, and on instances that are paid by the hour."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from ..deploy import aws_tables
from ..deploy.cost import billed_s
from ..errors import UsageError
from .fields import checked
from .runs import Run
from .samples import Sample

NOT_OF_THE_START = frozenset({"wait", "run", "first_request"})


class Machine(NamedTuple):
    """US dollars."""

    name: str
    about: str
    source: str
    busy_hour: float
    idle_hour: float
    request: float
    kept_s: float
    gpu: bool


class Table(NamedTuple):
    date: str
    checked: bool
    machines: Sequence[Machine]


class Lambda(NamedTuple):
    memory_mb: int
    architecture: str
    region: str


class Used(NamedTuple):
    """Of one run, in seconds over all instances."""

    busy_s: float
    idle_s: float


def table(path: str | None = None) -> Table:
    """The package's prices, or a file's of one's own. Raises UsageError that names the machine and the
    field."""
    where = path or "the price table"
    if path:
        document = aws_tables.read(path)
    else:
        document = tomllib.loads((files(__package__) / "prices.toml").read_text("utf-8"))
    rows, source = document.get("instances"), document.get("source", {})
    if not isinstance(rows, dict) or not rows or not isinstance(source, dict):
        raise UsageError(f"{where} has no table [instances.NAME]")
    machines = [_machine(name, row, f"{where}, {name}") for name, row in rows.items()]
    return Table(str(source.get("date", "")), source.get("checked") is True, machines)


def check(on: Lambda) -> None:
    """Raises UsageError for a region or architecture without prices, or memory that Lambda does not have."""
    tables = aws_tables.load()
    aws_tables.prices(tables, on.region, on.architecture)
    least, most = tables.limits.memory_mb
    if not least <= on.memory_mb <= most:
        raise UsageError(f"--memory must be from {least} to {most} MB, not {on.memory_mb}")


def _machine(name: str, row: object, where: str) -> Machine:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where} must be a table")
    prices = {}
    for field in ("busy_hour", "idle_hour", "request", "kept_s"):
        prices[field] = checked(row.get(field), f"{where}: {field}", 0.0, 1e9, zero=True)
    return Machine(
        name, str(row.get("about", "")), str(row.get("source", "")), gpu=row.get("gpu") is True, **prices
    )


def costs(run: Run, prices: Table, on_lambda: Lambda) -> list[dict[str, Any]]:
    """A row for each way to pay: dollars of the run by part, a thousand requests and a thousand good ones."""
    final = run.final
    rows = [_on_lambda(run, on_lambda)]
    for machine in prices.machines:
        used = usage(run, machine.kept_s)
        parts = {
            "busy": used.busy_s / 3600 * machine.busy_hour,
            "idle": used.idle_s / 3600 * machine.idle_hour,
            "requests": len(run.samples) * machine.request,
        }
        hours = (used.busy_s + used.idle_s) / 3600
        told = {"instance_hours": round(hours, 6), "gpu_hours": round(hours, 6) if machine.gpu else 0.0}
        rows.append(
            {
                "name": machine.name,
                "about": machine.about,
                "source": machine.source,
                "date": prices.date,
                "checked": prices.checked,
                "parts": parts,
                **told,
            }
        )
    good = sum(one.good for one in final)
    for row in rows:
        total = sum(row["parts"].values())
        row["total"] = total
        row["per_1000"] = total / len(final) * 1000 if final else None
        row["per_1000_good"] = total / good * 1000 if good else None
    return rows


def _on_lambda(run: Run, on: Lambda) -> dict[str, Any]:
    """Each request billed by the server's own time, or the client's where none was told (an upper bound); a
    cold one with its init, a restored one with its restore; a snapshot kept for as long as the run where one
    was restored."""
    tables = aws_tables.load()
    prices = aws_tables.prices(tables, on.region, on.architecture)
    gb, found = on.memory_mb / 1024, defaultdict[str, float](float)
    seconds, guessed = 0.0, 0
    begun: set[str] = set()
    for one in run.samples:
        if not one.status:
            continue  # it never came to a server, or no answer tells what it used
        # What a cold request waited for is its start, which is billed below.
        took = (
            one.server_ms if one.start not in ("cold", "restored") else one.phases.get("run", one.server_ms)
        )
        if took is None:
            took, guessed = one.client_ms - one.lag_ms, guessed + 1
        seconds += billed_s(took)
        found["duration"] += billed_s(took) * gb * prices.duration
        found["requests"] += prices.request
        if one.instance in begun:
            continue  # whoever waits for one start is told of it: it is paid once
        if one.start in ("cold", "restored") and one.instance:
            begun.add(one.instance)
        if one.start == "cold":
            init = sum(ms for name, ms in one.phases.items() if name not in NOT_OF_THE_START)
            seconds += billed_s(init)
            found["starts"] += billed_s(init) * gb * prices.duration
        elif one.start == "restored":
            restore = one.phases.get("restore", tables.snapstart.restore_s * 1e3)
            found["restores"] += gb * (billed_s(restore) * prices.duration + prices.snapshot_restore)
    if found.get("restores"):
        found["snapshot kept"] = run.seconds * gb * prices.snapshot_cache
    return {
        "name": "lambda",
        "about": f"AWS Lambda, {on.memory_mb:,} MB, {on.architecture}, {on.region}",
        "source": prices.source,
        "date": prices.date,
        "checked": prices.checked,
        "parts": dict(found),
        "gb_seconds": round(seconds * gb, 6),
        "by_client_time": guessed,
    }


def usage(run: Run, kept_s: float) -> Used:
    """Instances' time: busy while one has a request, idle between them and for ``kept_s`` after the last,
    where the run lasts so long. A cold start is busy time. Answers that name no instance count as of one."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in run.samples:
        if one.status:
            end = one.at_s + one.client_ms / 1e3
            spans[one.instance].append((end - _busy_s(one), end))
    busy = idle = 0.0
    for of in spans.values():
        of.sort()
        covered, upto = 0.0, of[0][0]
        for begin, end in of:
            if begin > upto + kept_s:  # it had been taken away meanwhile
                idle += kept_s
                upto = begin
            else:
                idle += max(begin - upto, 0.0)
            covered += max(end - max(begin, upto), 0.0)
            upto = max(upto, end)
        busy += covered
        idle += min(kept_s, max(run.seconds - upto, 0.0))
    return Used(busy, idle)


def _busy_s(one: Sample) -> float:
    own = one.server_ms if one.server_ms is not None else one.client_ms - one.lag_ms
    if one.start in ("cold", "restored"):
        own = max(own, one.client_ms - one.lag_ms)
    return own / 1e3
