"""What `preheat load` and `preheat compare` print for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..waterfall import label, milliseconds
from .run import Tell


@contextmanager
def progress(name: str) -> Iterator[Tell]:
    """A bar on stderr, where it is a terminal; nothing in a log."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=None)

        def tell(what: str, done: float, of: float, samples: int) -> None:
            bars.update(task, description=f"{name}: {what}, {samples:,} answered", completed=done, total=of)

        yield tell


def summary(console: Console, found: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> None:
    """Latencies by the state that was met, their phases, outcomes, cost, and what the generator itself
    takes."""
    console.print(_latencies(found))
    if any(set(of) - {"generator late"} for of in found["phases"].values()):
        console.print(_phases(found))
    console.print(_facts(found))
    console.print(_costs(costs))
    if found["told_apart_by"]:
        console.print(
            Text("unknown: this server does not say whether it was cold. Ways to tell:", style="yellow")
        )
        for way in found["told_apart_by"]:
            console.print(Text(f"  - {way}"))
    if found["cut"]:
        console.print(
            Text(f"cut short: {found['cut']}; the figures are of what was measured", style="yellow")
        )


def _latencies(found: Mapping[str, Any]) -> Table:
    title = f"{found['name']}, {found['requests']:,} requests in {found['seconds']:,.1f} s, {found['target']}"
    caption = "from the intended moment to the last byte; below: 95 % interval, by bootstrap"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("met")
    for head in ("answers", "p50", "p90", "p99", "p99.9"):
        table.add_column(head, justify="right")
    for start, of in found["latency"].items():
        cells = [_cell(of.get(name)) for name in ("p50", "p90", "p99", "p99.9")]
        table.add_row(start, f"{of['n']:,}", *cells)
    if not found["latency"]:
        table.add_row("no answer is in a statistic")
    return table


def _cell(figure: Sequence[float] | None) -> str:
    if figure is None:
        return "too few"
    value, low, high = (milliseconds(part) for part in figure)
    return f"{value}\n{low} to {high}"


def _phases(found: Mapping[str, Any]) -> Table:
    caption = "the server's phases by its own clock; they overlap, and wait holds a start that it waited for"
    table = Table(
        title="where the time went, p50", caption=caption, title_justify="left", caption_justify="left"
    )
    table.add_column("phase")
    starts = list(found["phases"])
    for start in starts:
        table.add_column(start, justify="right")
    for phase in dict.fromkeys(phase for start in starts for phase in found["phases"][start]):
        cells = [found["phases"][start].get(phase) for start in starts]
        table.add_row(label(phase), *(milliseconds(of["p50"][0]) if of else "" for of in cells))
    return table


def facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run was beside its latencies, in words."""
    generator = found["generator"]
    late = generator["run_late"].get("p99") or generator["run_late"].get("p50")
    cold = found["cold_share"]
    twice = found["duplicates"]
    return [
        ("outcomes", ", ".join(f"{name} {count:,}" for name, count in found["outcomes"].items())),
        ("throughput", f"{found['throughput']:,.2f} good answers/s"),
        ("goodput", f"{found['goodput']:,.2f}/s within {milliseconds(found['objective_ms'])}"),
        ("met", ", ".join(f"{name} {count:,}" for name, count in found["starts"].items())),
        ("cold share", f"{100 * cold[0]:.2f} % ({100 * cold[1]:.2f} to {100 * cold[2]:.2f})" if cold else ""),
        ("made cold, confirmed", f"{found['forced']:,} times" if found["forced"] else ""),
        (
            "left out of the latencies",
            ", ".join(f"{why} {count:,}" for why, count in found["left_out"].items()),
        ),
        ("throttled or shed", f"{found['throttled']:,}" if found["throttled"] else ""),
        ("retries", f"{found['retries']:,}" if found["retries"] else ""),
        (
            "duplicates",
            f"{twice['sent']:,} sent, {twice['replayed']:,} answers replayed, "
            f"{twice['differing']:,} keys with answers that differ"
            if twice["sent"] or twice["replayed"]
            else "",
        ),
        ("instances that answered", f"{found['instances']['all']:,}" if found["instances"]["all"] else ""),
        (
            "the generator's own",
            f"{milliseconds(generator['median_ms'])} (p99 {milliseconds(generator['p99_ms'])}) against a "
            f"bare socket on this machine, {milliseconds(generator['cpu_ms'])} of CPU a request"
            + (f"; in this run 99 of 100 were sent at most {milliseconds(late[0])} late" if late else ""),
        ),
    ]


def _facts(found: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in facts(found):
        if text:
            table.add_row(name, text)
    return table


def _costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    dates = ", ".join(dict.fromkeys(row["date"] for row in rows))
    unchecked = "" if all(row["checked"] for row in rows) else ", not checked since"
    caption = f"US dollars, list prices of {dates}{unchecked}; instances stay as long as the table assumes"
    table = Table(
        title="what these requests cost", caption=caption, title_justify="left", caption_justify="left"
    )
    for head in ("", "this run", "per 1,000", "per 1,000 good", "GB-s or hours"):
        table.add_column(head, justify="left" if not head else "right")
    for row in rows:
        used = f"{row['gb_seconds']:,.2f} GB-s" if "gb_seconds" in row else f"{row['instance_hours']:,.4f} h"
        used += f", GPU {row['gpu_hours']:,.4f} h" if row.get("gpu_hours") else ""
        per = [dollars(row[key]) for key in ("total", "per_1000", "per_1000_good")]
        table.add_row(f"{row['name']}\n{row['about']}", *per, used)
    return table


def dollars(value: float | None) -> str:
    if value is None:
        return "none"
    return "0" if value == 0 else f"{value:,.2f}" if value >= 10 else f"{value:.3g}"


def comparison(console: Console, found: Mapping[str, Any]) -> None:
    """A row for each thing that was held against the base."""
    title = f"{found['new']} against {found['base']}, fails above {100 * found['fail_above']:g} %"
    table = Table(title=title, title_justify="left", caption_justify="left")
    for head in ("", "base", "new", "change, interval", "verdict"):
        table.add_column(head, justify="left" if head in ("", "verdict") else "right")
    for row in found["rows"]:
        table.add_row(row["what"], *values(row), change(row), verdict(row), style=STYLES[row["verdict"]])
    console.print(table)
    for name, why in found["cut"].items():
        console.print(Text(f"{name} was cut short: {why}", style="yellow"))
    console.print(Text(found["verdict"]), soft_wrap=True)


def reason(found: Mapping[str, Any], *, strict: bool) -> str:
    """Why a comparison passes or fails, in a line."""
    rows = found["rows"]
    worse = [row for row in rows if row["verdict"] == "regression"]
    undecided = ", ".join(row["what"] for row in rows if row["verdict"] == "undecided")
    if worse:
        named = ", ".join(f"{row['what']} ({change(row)})" for row in worse)
        return f"{len(worse)} of {len(rows)} figures got worse past the limit: {named}"
    if not undecided:
        return f"none of {len(rows)} figures got worse past the limit"
    strictly = "which --strict does not let pass" if strict else "which only --strict would not let pass"
    if all(row["verdict"] == "undecided" for row in rows):
        return f"nothing was decided, {strictly}: it takes more samples"
    return f"no figure got worse past the limit for certain; undecided: {undecided}, {strictly}"


STYLES = {"regression": "red", "better": "green", "no regression": "", "undecided": "yellow"}


def values(row: Mapping[str, Any]) -> list[str]:
    if "values" not in row:
        return [f"{count:,} samples" for count in row["samples"]]
    if row["unit"] == "ms":
        return [milliseconds(value) for value in row["values"]]
    return [f"{100 * value:.2f} %" for value in row["values"]]


def change(row: Mapping[str, Any]) -> str:
    if "change" not in row:
        return ""
    unit = "%" if row["unit"] == "ms" else "points"
    return " to ".join(f"{100 * part:+.1f}" for part in row["change"]) + f" {unit}"


def verdict(row: Mapping[str, Any]) -> str:
    phase = row.get("phase")
    if not phase:
        return f"{row['verdict']}: {row['why']}" if row.get("why") else str(row["verdict"])
    grew = phase.get("grew_ms")
    more = f", {milliseconds(grew[0])} more" if grew else ""
    return f"{row['verdict']}, by: {label(phase['name'])}{more}"
