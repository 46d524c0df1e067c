"""A build's progress: what it tells, and how it is shown on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Step(NamedTuple):
    """Where a build stands, for a person who waits."""

    stage: str
    detail: str = ""
    done: int = 0
    total: int = 0
    """0: not countable."""


Progress = Callable[[Step], None]


def quiet(step: Step) -> None:
    """Progress for nobody."""


@contextmanager
def shown() -> Iterator[Progress]:
    """Yields what ``build`` takes as ``progress``."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn()
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(step: Step) -> None:
            text = f"{step.stage}: {step.detail}" if step.detail else step.stage
            bar.update(task, description=f"{text:<28}", completed=step.done, total=step.total or None)

        yield show


def _lines() -> Progress:
    last = ""

    def show(step: Step) -> None:
        nonlocal last
        if step.stage != last:
            last = step.stage
            sys.stderr.write(f"{step.stage} …\n")
            sys.stderr.flush()

    return show
