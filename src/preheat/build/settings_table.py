"""The settings as a person or a program reads them: name, default, and the docstring under each field."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING, Any

from ..settings import PREFIX, Settings

if TYPE_CHECKING:
    from rich.console import Console


def described() -> list[dict[str, Any]]:
    """``name``, ``type``, ``default``, ``doc`` of every setting, in the order in which they are declared."""
    docs = _docstrings()
    return [
        {
            "name": PREFIX + field.upper(),
            "type": type(default).__name__,
            "default": default,
            "doc": docs[field],
        }
        for field, default in Settings._field_defaults.items()
    ]


def print_settings(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("variable", "default", "what it does", box=box.SIMPLE_HEAD)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(row["name"], str(row["default"]), Text(row["doc"].replace("``", "")))
    console.print(table)


def _docstrings() -> dict[str, str]:
    """Field -> the string that follows it in the source."""
    (declared,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(declared, ast.ClassDef)  # noqa: S101 - for the type checker
    docs: dict[str, str] = {}
    for field, after in zip(declared.body, declared.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = after.value if isinstance(after, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) else ""
            docs[field.target.id] = " ".join(str(text).split())
    return docs
