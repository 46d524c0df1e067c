"""A measured figure, its bound, and how both are printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from preheat.measure.summary import median, summary


class Line(NamedTuple):
    """One thing that was measured, in milliseconds."""

    name: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.values)


class Claim(NamedTuple):
    """What is claimed of the lines, and whether it holds."""

    text: str
    value: float
    bound: float
    at_most: bool
    """Whether the bound is the largest value allowed, or the least."""
    unit: str = "x"

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        return f"{self.text}: {self.value:.3f} {self.unit} ({side} {self.bound:g} {self.unit})"


class Benchmark(NamedTuple):
    title: str
    lines: Sequence[Line]
    """The first one is what the others are divided by, for the column ``ratio``."""
    claims: Sequence[Claim]
    wrong: int = 0
    """Starts that gave no correct answer; they are in no figure."""


def show(console: Console, benchmark: Benchmark, command: str) -> None:
    """Print the table, each claim with its verdict, and the command that gives them."""
    table = Table(title=Text(benchmark.title, style="bold"), title_justify="left")
    table.add_column("milliseconds")
    for head in ("median", "min", "max", "95 % interval", "ratio", "n"):
        table.add_column(head, justify="right", no_wrap=True)
    base = benchmark.lines[0].median
    for line in benchmark.lines:
        found = summary(line.values)
        low, high = found["ci95"]
        table.add_row(
            line.name,
            *(f"{found[key]:.2f}" for key in ("median", "min", "max")),
            f"{low:.2f} to {high:.2f}",
            f"{line.median / base:.2f}",
            str(len(line.values)),
        )
    console.print(table)
    for claim in benchmark.claims:
        verdict = Text("PASS", style="green") if claim.holds else Text("MISS", style="red")
        console.print(verdict, Text(str(claim)))
    if benchmark.wrong:
        console.print(Text(f"{benchmark.wrong} starts gave no correct answer, and are left out", style="red"))
    console.print(Text(f"$ {command}", style="dim"), soft_wrap=True)
    console.print()
