"""`preheat rehearse`, as the command line calls it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..measure.show import progress
from ..waterfall import milliseconds
from .run import rehearse as rehearsed


def rehearse(target: str, *, clones: int, as_json: bool) -> int:
    """Rehearse and print; gives the exit status: 0 where nothing was found, 1 where something was."""
    if find_spec("awslambdaric") is None:
        raise UsageError("Lambda's runtime client is not installed: pip install awslambdaric")
    with progress(f"rehearsing {os.path.basename(os.path.normpath(target))}") as tell:
        found = rehearsed(target, os.environ, clones=clones, progress=tell)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        show(found)
    return 1 if found["findings"] else 0


def show(found: Mapping[str, Any]) -> None:
    """Print a report for a person."""
    console = Console()
    title = Text(f"{found['clones']} clones of {found['target']}", style="bold")
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for head in ("median", "min", "max"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row("init, to the snapshot", milliseconds(found["init_ms"]), "", "")
    for hook in found["before"]:
        table.add_row(f"before: {hook['name']}", milliseconds(hook["ms"]), "", "")
    table.add_section()
    for hook in found["after"]:
        table.add_row(f"after: {hook['name']}", *_cells(hook["ms"]))
    table.add_section()
    for name, key in (
        ("restore, hooks included", "restore_ms"),
        ("restore to first answer", "first_answer_ms"),
    ):
        if found[key]:
            table.add_row(name, *_cells(found[key]), style="bold")
    console.print(table)
    for finding in found["findings"]:
        console.print(
            Text(f"{finding['kind']}: {finding['name']} {finding['said']}", style="red"), soft_wrap=True
        )
    if not found["findings"]:
        console.print(Text("nothing was found that a restore would break or repeat", style="green"))


def _cells(figure: Mapping[str, Any]) -> list[str]:
    return [milliseconds(figure[key]) for key in ("median", "min", "max")]
