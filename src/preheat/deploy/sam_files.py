"""The files that a rendered template is made of."""

from __future__ import annotations

import os

from . import written
from .sam import FILES, Template


def write(template: Template, folder: str, *, force: bool) -> list[str]:
    """Write the template, and the Makefile that it is built by; gives the paths.

    Raises UsageError, without ``force`` also where one is there with another content.
    """
    files = {FILES[template.package]: template.text}
    if template.makefile:
        files["Makefile"] = template.makefile
    return written.write({os.path.join(folder, name): text for name, text in files.items()}, force=force)
