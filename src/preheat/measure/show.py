"""What `preheat measure` prints for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..waterfall import label, milliseconds
from . import spans
from .report import began
from .run import Progress as Tell


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """A bar on stderr, where it is a terminal; nothing in a log."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None)

        def tell(label: str, done: int, of: int) -> None:
            bars.update(task, description=f"{what}: {label}", completed=done, total=of)

        yield tell


def report(found: Mapping[str, Any], *, aside: bool = False) -> None:
    """Print a report as tables, one for each row. ``aside``: on standard error."""
    console = Console(stderr=aside)
    for row in found["rows"]:
        console.print(_table(found, row))
        for wrong in [*row["wrong"], *row.get("floor_wrong", ())]:
            console.print(Text(f"wrong start, round {wrong['round']}: {wrong['problem']}", style="red"))


def cold_start(report: Mapping[str, Any], begin_ns: int, end_ns: int) -> Table:
    """One cold start by phase, from the spawn to the first answer: the client's own marks on the clock that
    its processes share."""
    bars = spans.bars(report, begin_ns, end_ns)
    durations = spans.durations_ms(bars, end_ns - begin_ns)
    caption = f"variant {report['variant']}, {report['threads']} threads; phases may overlap"
    table = Table(
        title=Text("cold start", style="bold"), caption=caption, title_justify="left", caption_justify="left"
    )
    for head in ("phase", "begins", "takes", ""):
        table.add_column(head, justify="right" if head in ("begins", "takes") else "left")
    for name, took in durations.items():
        own = [bar for bar in bars if bar.phase == name]
        begins = milliseconds(own[0].begin / 1e6) if own else ""
        of = ", ".join(bar.attributes["of"] for bar in own if name == "import" and "of" in bar.attributes)
        table.add_row(label(name), begins, milliseconds(took), of)
    table.add_section()
    table.add_row("spawn to first answer", "", milliseconds((end_ns - begin_ns) / 1e6), "", style="bold")
    if report["fallback"]:
        table.add_row(Text(f"fallback: {report['fallback']}", style="yellow"))
    return table


def _table(found: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    kind = row.get("start", "fresh")
    restored = "" if kind == "fresh" else f", restored by {kind}"
    title = Text(f"{found['artifact']['name']}, variant {row['variant']}{restored}", style="bold")
    what = "fresh processes" if kind == "fresh" else "instances"
    memory = f", {row['pss_mib']:g} MiB (PSS)" if row["pss_mib"] else ""
    under = " under the Lambda emulator" if found["platform"] == "lambda" else ""
    caption = (
        f"{row['samples']} {what}{under}, from {began(row)} to the first correct answer, page cache "
        f"{found['caches']}, "
        f"{row['threads']} threads{memory}; 95 % interval of the median by order statistics "
        "(below six samples: the extremes)"
    )
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("phase")
    for head in ("median", "min", "max", "95 % interval"):
        table.add_column(head, justify="right")
    if not row["total_ms"]:
        table.add_row("no start gave a correct answer")
        return table
    for name, figure in row["phases"].items():
        table.add_row(label(name), *_cells(figure))
    table.add_section()
    table.add_row("total", *_cells(row["total_ms"]), style="bold")
    if row.get("floor_ms"):
        table.add_row("floor", *_cells(row["floor_ms"]))
        table.add_row("total / floor", f"{row['ratio']:.3f}")
    if row["fallback"]:
        table.add_section()
        table.add_row(Text(f"fallback: {row['fallback']}", style="yellow"))
    return table


def _cells(figure: Mapping[str, Any]) -> list[str]:
    low, high = figure["ci95"]
    medians = [milliseconds(figure[key]) for key in ("median", "min", "max")]
    return [*medians, f"{milliseconds(low)} to {milliseconds(high)}"]
