"""What a transfer tells while it runs: a bar with bytes and rate on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Told of stages and bytes, from any thread. This one says nothing."""

    def begin(self, stage: str, total: int) -> None:
        """A stage starts; ``total`` is its bytes."""

    def advance(self, count: int) -> None:
        """So many more bytes are done."""


class _Lines(Progress):
    def begin(self, stage: str, total: int) -> None:
        sys.stderr.write(f"{stage} ({total / 1e6:.1f} MB) …\n")
        sys.stderr.flush()


class _Bar(Progress):
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task: Any = None
        self._lock = threading.Lock()

    def begin(self, stage: str, total: int) -> None:
        with self._lock:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(stage, total=total or None)

    def advance(self, count: int) -> None:
        with self._lock:
            if self._task is not None:
                self._bar.advance(self._task, count)


@contextmanager
def shown() -> Iterator[Progress]:
    """Progress on stderr for the length of a block."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(bar_width=24),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True) as bar:
        yield _Bar(bar)
