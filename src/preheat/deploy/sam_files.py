"""The rendered files, written into a folder."""

from __future__ import annotations

import os

from ..errors import UsageError
from .sam import FILES, Template


def write(template: Template, folder: str) -> list[str]:
    """Write the template, and the Makefile that it is built by; gives the paths. Raises UsageError."""
    files = {FILES[template.package]: template.text}
    if template.makefile:
        files["Makefile"] = template.makefile
    paths = []
    try:
        os.makedirs(folder, exist_ok=True)
        for name, text in files.items():
            paths.append(os.path.join(folder, name))
            with open(paths[-1], "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    return paths
