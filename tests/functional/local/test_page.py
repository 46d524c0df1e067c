"""The status page in a real browser: live, readable on a wide screen and on a telephone, light and dark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import chromium
from .chromium import Page
from .conftest import Up, up

PICTURES = os.environ.get("PICTURES")
"""A folder that gets pictures of the page, to be looked at."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with chromium.page(chromium.browser(), tmp_path / "profile") as found:
        yield found


def fits(page: Page) -> bool:
    """Whether nothing is cut off at the right, and no text runs into another."""
    return bool(
        page.value(
            "document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll("
            "'h1,h2,.tiles div,.outcomes li,summary,p')].every(e => e.scrollWidth <= e.clientWidth + 1)"
        )
    )


def test_the_page_is_live_and_fits_every_screen(told: Path, tmp_path: Path, page: Page) -> None:
    with up(tmp_path, str(told), "--memory", "2000") as gateway:
        page.look(1280)
        page.open(f"http://127.0.0.1:{gateway.port}/_preheat/")
        assert page.value("document.querySelector('.state').textContent") == "at zero"
        gateway.predict()
        page.until("document.querySelector('.state').textContent === 'ready'")
        page.until("document.querySelector('.outcomes')?.textContent === '1 ok'")
        page.until("document.querySelectorAll('details[open] svg.waterfall .bar').length > 6")
        (shown,) = gateway.function()["instances"]
        assert shown["name"] in page.value("document.querySelector('table').textContent")
        gateway.predict("crash-late 1")
        gateway.predict()
        page.until("document.querySelector('#live').textContent.includes('SIGKILL')")
        gateway.scale(3)
        page.until("document.querySelector('.tiles b').textContent === '3'")
        _looks_well(page, gateway, tmp_path)

        page.value("document.querySelectorAll('details')[1].open = true")
        before = page.value("document.querySelectorAll('details')[1].id")
        page.value("document.querySelector('[data-zero]').click()")
        page.until("document.querySelector('.state').textContent === 'at zero'")
        assert gateway.function()["instances"] == []
        assert page.value(f"document.getElementById({before!r}).open"), "what a person opened stays open"
        assert all(url.startswith(gateway.status()["gateway"]["address"]) for url in page.asked[1:])
        assert page.errors == []
    page.until("!document.getElementById('lost').hidden")


def _looks_well(page: Page, gateway: Up, folder: Path) -> None:
    for width in (1280, 390):
        for dark in (False, True):
            page.look(width, dark=dark)
            page.open(f"http://127.0.0.1:{gateway.port}/_preheat/")
            page.until("document.querySelectorAll('svg.waterfall .bar').length > 6")
            assert fits(page), f"at {width} pixels"
            colours = page.value("getComputedStyle(document.body).backgroundColor")
            assert (colours == "rgb(255, 255, 255)") is not dark
            name = f"status-{width}-{'dark' if dark else 'light'}.png"
            page.picture(Path(PICTURES or folder) / name)


def test_what_comes_from_outside_is_text_on_the_page(
    tmp_path: Path, filetype_artifact: Path, page: Page
) -> None:
    folder = tmp_path / "<b>" / "told"
    folder.mkdir(parents=True)
    (folder / "artifact").symlink_to(filetype_artifact)
    (folder / "app.py").write_text("raise ValueError('<script>document.title = 1</script>')")
    with up(tmp_path, str(folder)) as gateway:
        assert gateway.predict().status == 503
        page.look(390)
        page.open(f"http://127.0.0.1:{gateway.port}/_preheat/")
        assert page.value("document.title") == "Preheat: told"
        assert page.value("document.querySelectorAll('#live b, #live script').length") < 20
        assert page.value("document.querySelector('.bad b').textContent") == "failed_start"
        assert "<script>" in page.value("document.querySelector('#live').textContent")
        assert page.value("document.querySelectorAll('#live script').length") == 0
        assert fits(page)
