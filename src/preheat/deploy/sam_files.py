"""The rendered files, written into a folder."""

from __future__ import annotations

import os

from ..errors import UsageError
from .sam import FILES, Template


def write(template: Template, folder: str, *, force: bool) -> list[str]:
    """Write the template, and the Makefile that it is built by; gives the paths.

    Raises UsageError, without ``force`` also where one is there with another content.
    """
    files = {FILES[template.package]: template.text}
    if template.makefile:
        files["Makefile"] = template.makefile
    paths = {os.path.join(folder, name): text for name, text in files.items()}
    try:
        os.makedirs(folder, exist_ok=True)
        changed = [path for path, text in paths.items() if os.path.exists(path) and _read(path) != text]
        if changed and not force:
            raise UsageError(f"{changed[0]} is there already, with another content: --force overwrites it")
        for path, text in paths.items():
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    return list(paths)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
