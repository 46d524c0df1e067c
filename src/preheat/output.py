"""Where a command's ``-o`` goes, one rule for all that write a text: into a file. Its folder is made,
and what was there is replaced. ``-`` is standard output; what is for a person goes to standard error then.
"""

from __future__ import annotations

import os
import sys

from .errors import UsageError

STDOUT = "-"


def make_room(path: str, *, as_json: bool = False) -> None:
    """Make the folder that a file goes to. ``as_json``: standard output is a document's already.

    Raises UsageError where the file could not be written: better before minutes of work than after.
    """
    if path == STDOUT:
        if as_json:
            raise UsageError("--json and - both want standard output: name a file")
        return
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    place = path if os.path.exists(path) else folder
    if os.path.isdir(path) or not os.access(place, os.W_OK):
        raise UsageError(f"{path} cannot be written: name a file in a folder of yours")


def write(path: str, text: str) -> None:
    """Write a text, its folder made where there is none. Raises UsageError where that cannot be done."""
    if path == STDOUT:
        sys.stdout.write(text)
        return
    make_room(path)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def wrote(path: str) -> None:
    """Say so, unless it is seen."""
    if path != STDOUT:
        sys.stderr.write(f"wrote {path}\n")
