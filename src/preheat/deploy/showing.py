"""Findings of a check, as a table for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"fits": "green", "beware": "yellow", "does not fit": "red"}


def show_findings(console: Console, findings: Sequence[dict[str, Any]]) -> None:
    """One row for each: what, verdict, what was said, and what to change."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "", box=box.SIMPLE, show_header=False)
    for finding in findings:
        said = Text(finding["said"])
        if finding["change"]:
            said.append(f"\n→ {finding['change']}")
        verdict = Text(finding["verdict"], style=COLOURS[finding["verdict"]])
        table.add_row(Text(finding["what"]), verdict, said)
    console.print(table)
