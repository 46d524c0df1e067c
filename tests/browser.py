"""A page looked at in the machine's own headless Chromium, driven by playwright, which fetches none."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Looked(NamedTuple):
    """A page as a person meets it."""

    page: Any
    """playwright's."""
    said: list[str]
    """What came to its console, and errors of its scripts."""
    asked: list[str]
    """URLs that it asked for, its own first."""


def found() -> str:
    """Where Chromium is; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no Chromium on this machine: none of {', '.join(NAMES)} is on PATH")


@contextlib.contextmanager
def browser() -> Iterator[Callable[[Path, int, Any], Looked]]:
    """One browser (a process can have but one): gives a function of a file, a width and a colour scheme."""
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    executable = found()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:

            def look(file: Path, width: int, scheme: Any) -> Looked:
                page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                said: list[str] = []
                asked: list[str] = []
                page.on("console", lambda message: said.append(message.text))
                page.on("pageerror", lambda error: said.append(str(error)))
                page.on("request", lambda request: asked.append(request.url))
                page.goto(file.as_uri())
                return Looked(page, said, asked)

            yield look
        finally:
            chromium.close()
