"""The report, looked at in a headless browser: it renders, says nothing, asks nobody, and can be read."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from preheat.load.runs import Run, Writer, read

from ...unit.load.runs_of import HEAD, sample
from ..local import chromium
from ..test_measure import preheat

EVIL = '<script>alert("x")</script>'
PICTURES = os.environ.get("PICTURES")
"""A folder that gets pictures of the page, to be looked at."""
SMALLEST = 10.5
"""Pixels, of any text."""
CONTRAST = 3.0
"""WCAG's least for large text and for what is drawn."""


def _run(name: str, seed: int) -> Run:
    chance, samples = random.Random(seed), []
    for i in range(400):
        start = "cold" if i % 20 == 0 else "restored" if i % 33 == 0 else "warm"
        took = chance.lognormvariate({"cold": 6, "restored": 4, "warm": 2.5}[start], 0.3)
        phases = {"wait": took * 0.5, "run": took * 0.3}
        if start != "warm":
            phases = {"platform": 30.0, "import": took * 0.5, "compile": 20.0, "warmup": 9.0, **phases}
        fields: dict[str, Any] = {"start": start, "phases": phases, "server_ms": took * 0.8, "lag_ms": 0.4}
        if i % 40 == 7:
            fields |= {"outcome": "shed" if i % 80 == 7 else EVIL, "status": 503}
        samples.append(sample(i, took, at_s=i / 4, instance=f"i{i // 60 % 4}", **fields))
    return Run({**HEAD, "label": name}, samples, {"seconds": 100.0, "forced": [], "cpu_s": 1.0})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two runs, one with a name that is HTML."""
    folder = tmp_path_factory.mktemp("report")
    paths = []
    for name, seed in (("fresh", 1), (f"fork {EVIL}", 2)):
        run = _run(name, seed)
        paths.append(folder / f"{seed}.jsonl")
        with Writer(str(paths[-1]), run.head) as writer:
            writer.add(run.samples)
            writer.end(run.tail)
        assert read(str(paths[-1])).samples == run.samples
    done = preheat("report", *paths, "-o", folder / "report.html")
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    with chromium.page(chromium.browser(), tmp_path_factory.mktemp("profile")) as found:
        yield found


def opened(tab: chromium.Page, file: Path, width: int, scheme: str) -> chromium.Page:
    """The tab with the file, which said nothing and asked for nothing else."""
    tab.errors.clear()
    tab.asked.clear()
    tab.look(width, dark=scheme == "dark")
    tab.open(file.as_uri())
    assert tab.errors == []
    assert tab.asked == [file.as_uri()]
    assert tab.value("document.documentElement.scrollWidth") <= width
    return tab


def test_it_is_one_file_that_names_no_other(page: Path) -> None:
    text = page.read_text()
    assert EVIL not in text
    assert not re.findall(r"<(?:script|link|img|iframe)\b|@import|url\((?!#)", text)
    assert set(re.findall(r'https?://[^\s"<>)]+', text)) <= {
        *("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink", HEAD["target"])
    }
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)
    assert len(text) < 2_000_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_renders_and_can_be_read(
    tab: chromium.Page, page: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    found = opened(tab, page, width, scheme)
    shown = "[...document.querySelectorAll('.chart svg')].filter(s => s.getBoundingClientRect().width)"
    boxes = found.value(f"{shown}.map(s => s.getBoundingClientRect().toJSON())")
    # Side by side, distributions, and for each run time, cold, restored, warm and outcomes; then cost.
    assert len(boxes) == 2 + 2 * 5 + 1
    assert all(box["left"] >= 0 and box["right"] <= width and box["height"] > 60 for box in boxes)
    texts = found.value(
        f"{shown}.flatMap(s => [...s.querySelectorAll('text')].map(t => {{"
        "const m = t.getScreenCTM(), b = t.getBoundingClientRect(), o = s.getBoundingClientRect();"
        "const size = parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b);"
        "return {text: t.textContent, size, out: Math.max(o.left - b.left, b.right - o.right)}}))"
    )
    assert sum(text["text"] == "instances that answered" for text in texts) == 2
    assert min(text["size"] for text in texts) >= SMALLEST, min(texts, key=lambda text: text["size"])
    assert max(text["out"] for text in texts) <= 6, max(texts, key=lambda text: text["out"])
    found.picture(tmp_path / "page.png")
    if PICTURES is not None:
        shutil.copy(tmp_path / "page.png", Path(PICTURES) / f"load-{width}-{scheme}.png")
    picture = Image.open(tmp_path / "page.png").convert("RGB")
    ground = picture.getpixel((2, 2))
    assert isinstance(ground, tuple)
    assert (sum(ground) > 600) is (scheme == "light")
    colours = found.value(
        "['ink','soft','cold','restored','warm','bad','outside','server'].map(n => "
        "getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    )
    assert all(_contrast(_rgb(colour), ground) >= CONTRAST for colour in colours)
    counted = picture.getcolors(1 << 24)
    assert counted is not None
    assert {_rgb(colour) for colour in colours} <= {
        pixel for _, pixel in counted
    }  # drawn, in this theme's own


def _rgb(colour: str) -> tuple[int, ...]:
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    return tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))


def _contrast(one: Any, other: Any) -> float:
    """WCAG 2.2's contrast ratio."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: tuple[int, ...]) -> float:
    parts = [part / 255 for part in rgb]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_measured_cold_starts_stand_on_the_same_page(
    tab: chromium.Page, page: Path, filetype_artifact: Path, tmp_path: Path
) -> None:
    done = preheat("measure", filetype_artifact, "--rounds", "1", "--json", PREHEAT_CACHE=str(tmp_path))
    (tmp_path / "measured.json").write_text(done.stdout)
    both = tmp_path / "both.html"
    done = preheat("report", page.with_name("1.jsonl"), tmp_path / "measured.json", "-o", both)
    assert done.returncode == 0, done.stderr
    text = both.read_text()
    assert "Cold starts, measured" in text
    assert 'class="waterfall"' in text
    assert text.count("<!doctype html>") == 1
    opened(tab, both, 390, "light")


def test_a_run_of_which_nothing_was_answered_has_its_page_too(tmp_path: Path) -> None:
    for name, samples in (
        ("none", []),
        ("refused", [sample(1, 2, status=0, outcome="refused", start="unknown")]),
    ):
        path = tmp_path / f"{name}.jsonl"
        with Writer(str(path), {**HEAD, "label": name}) as writer:
            writer.add(samples)
            writer.end({"seconds": 1.0, "cut": "interrupted"})
        done = preheat("report", path, "-o", tmp_path / f"{name}.html")
        assert done.returncode == 0, done.stderr
        assert "No answer is in a latency statistic" in (tmp_path / f"{name}.html").read_text()
