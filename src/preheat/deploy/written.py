"""Rendered files, written where nobody changed them."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import UsageError


def write(files: Mapping[str, str], *, force: bool) -> list[str]:
    """Write texts by path, and make their folders; gives the paths.

    Raises UsageError, without ``force`` also where one is there with another content; then none is written.
    """
    try:
        changed = [path for path, text in files.items() if os.path.exists(path) and _read(path) != text]
        if changed and not force:
            raise UsageError(f"{changed[0]} is there already, with another content: --force overwrites it")
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(
            f"{error.filename or next(iter(files))} cannot be written: {error.strerror}"
        ) from None
    return list(files)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
