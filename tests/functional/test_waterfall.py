"""The drawn cold start: a page that needs nothing else, says what it draws, and runs nothing it was given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from preheat import waterfall
from preheat.waterfall import milliseconds, page, svg

from ..conftest import Server

VOID = {"meta", "br", "hr", "img", "input", "link"}
SVG = "{http://www.w3.org/2000/svg}"


def phase(name: str, begin: float, took: float, **attributes: Any) -> dict[str, Any]:
    return {"phase": name, "start_ms": begin, "duration_ms": took, "attributes": attributes}


def report(**changes: Any) -> dict[str, Any]:
    return {
        "id": "0123",
        "instance": "4567",
        "kind": "fresh",
        "platform": "process",
        "artifact": {"name": "embed", "version": "sha256:abc"},
        "variant": "packed",
        "provider": "CPUExecutionProvider",
        "threads": 4,
        "fallback": None,
        "cache": "local",
        "host": {"arch": "x86_64", "isa": ["avx", "avx2"], "cpus": 4, "onnxruntime": "1.31.1"},
        "origin_ns": 1,
        "resolution_ms": 10.0,
        "total_ms": 180.0,
        "unaccounted_ms": 5.0,
        "phases": [
            phase("platform", 0, 20),
            phase("import", 20, 70),
            phase("download", 25, 2, cache="local", bytes=90_000_000),
            phase("download", 40, 30, verified_bytes=90_000_000),
            phase("compile", 95, 75, variant="packed"),
            phase("warmup", 170, 10, runs=1, drift=0.0),
        ],
        **changes,
    }


def test_a_restored_start_counts_from_its_restore() -> None:
    assert "from process start to readiness" in page(report())
    assert "from the restore (fork) to readiness" in page(report(kind="restored", restore="fork"))


class Page(HTMLParser):
    """A page taken apart; tags must nest, and void ones stand alone."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> names an attribute twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)

    def all(self, tag: str) -> Iterator[dict[str, str]]:
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def bars(drawing: str, kind: str) -> list[tuple[float, float]]:
    """Begin and width of a phase's bars, in percent of the drawing."""
    found = []
    for rect in ElementTree.fromstring(drawing).iter(f"{SVG}rect"):
        if rect.get("class") == f"bar {kind}" and rect.get("width", "").endswith("%"):
            found.append((float(rect.get("x", "").rstrip("%")), float(rect.get("width", "").rstrip("%"))))
    return found


def near(*wanted: tuple[float, float]) -> list[Any]:
    return [pytest.approx(pair, abs=1e-3) for pair in wanted]


def test_the_page_stands_alone_and_fits_any_screen() -> None:
    text = page(report())
    found = Page(text)
    assert text.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags for name in a if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    (viewport,) = (meta for meta in found.all("meta") if meta.get("name") == "viewport")
    assert "width=device-width" in viewport["content"]
    assert text.count("prefers-color-scheme:dark") == 2  # the page's and the drawing's


def test_the_drawing_says_what_it_draws() -> None:
    drawing = svg(report(), "one")
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    named = {e.get("id"): e.text for e in root if e.tag in (f"{SVG}title", f"{SVG}desc")}
    assert list(named) == str(root.get("aria-labelledby")).split() == ["one-title", "one-desc"]
    assert named["one-title"] == "Cold start of embed: 180 ms"
    assert "warm-up: 10.0 ms, from 170 ms" in str(named["one-desc"])
    texts = ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]
    for expected in ("platform", "20.0 ms", "import", "70.0 ms", "warm-up", "0 ms", "100 ms"):
        assert expected in texts


def test_bars_lie_where_the_phases_were() -> None:
    drawing = svg(report())
    assert bars(drawing, "platform") == near((0, 11.111))
    assert bars(drawing, "compile") == near((52.778, 41.667))
    # Two spans of one phase stand in one row, and overlap with others is drawn as it was.
    assert bars(drawing, "download") == near((13.889, 1.111), (22.222, 16.667))
    # What no phase covers: from 90 to 95 ms.
    assert bars(drawing, "unaccounted") == near((50, 2.778))


def test_a_request_long_after_readiness_does_not_squeeze_the_start() -> None:
    started = report()
    late = report(phases=[*started["phases"], phase("first_request", 73_180, 7)])
    drawing = svg(late)
    ((begin, width),) = bars(drawing, "first_request")
    assert 90 < begin < 100
    assert begin + width <= 100.001
    assert bars(drawing, "compile")[0][1] > 35
    assert "73.0 s after readiness" in drawing
    assert ">ready</text>" in drawing
    soon = svg(report(phases=[*started["phases"], phase("first_request", 190, 10)]))
    assert bars(soon, "first_request") == [(95, 5)]
    assert "after readiness" not in soon


def test_the_floor_is_a_line() -> None:
    assert ">floor</text>" in svg(report(floor_ms=150.0))
    assert ">floor</text>" not in svg(report())


def test_facts_and_phases_are_told_in_words() -> None:
    found = Page(page(report(fallback="packed: made for another CPU")))
    for expected in (
        *(
            "sha256:abc",
            "packed",
            "CPUExecutionProvider",
            "packed: made for another CPU",
            "avx, avx2",
            "1.31.1",
        ),
        *("x86_64", "10 ms", "verified bytes 90,000,000", "what no phase covers", "180 ms"),
    ):
        assert expected in found.text
    assert [a["scope"] for a in found.all("th")][:3] == ["col"] * 3


HOSTILE = '"><script>alert(1)</script><b onclick="x" \'&amp;'


def test_nothing_in_a_report_becomes_markup() -> None:
    hostile = report(
        artifact={"name": HOSTILE, "version": HOSTILE},
        variant=HOSTILE,
        fallback=HOSTILE,
        instance=HOSTILE,
        host={HOSTILE: HOSTILE, "isa": [HOSTILE]},
        phases=[phase(HOSTILE, 0, 180, **{HOSTILE: HOSTILE})],
    )
    found = Page(page(hostile))
    assert not {"script", "b"} & {tag for tag, _ in found.tags}
    assert not any("onclick" in attributes for _, attributes in found.tags)
    assert found.text.count(HOSTILE) >= 7
    ElementTree.fromstring(svg(hostile, HOSTILE))


@pytest.mark.parametrize(
    "changes",
    [
        {"phases": []},
        {"total_ms": 0.0, "phases": []},
        {"total_ms": 0.4, "phases": [phase("platform", 0, 0.4)]},
        {"total_ms": 125_000.0, "phases": [phase("compile", 0, 125_000)]},
        {"phases": [phase("restore", 0, 180, kind="criu")]},
        {"host": None, "artifact": None, "resolution_ms": None, "unaccounted_ms": None},
        {"phases": [phase("first_request", 500, 3)]},
    ],
)
def test_odd_reports_are_drawn_too(changes: dict[str, Any]) -> None:
    text = page(report(**changes))
    Page(text)
    drawing = re.search(r"<svg.*</svg>", text, re.DOTALL)
    assert drawing is not None
    for rect in ElementTree.fromstring(drawing.group()).iter(f"{SVG}rect"):
        x, width = rect.get("x", ""), rect.get("width", "")
        if x.endswith("%") and width.endswith("%"):
            assert 0 <= float(x[:-1]) <= float(x[:-1]) + float(width[:-1]) <= 100.01


@pytest.mark.parametrize("extent", [1, 3, 7, 9.9, 10, 42, 99, 100, 186, 999, 1000, 5500, 98_765])
def test_the_scale_has_a_few_round_numbers(extent: float) -> None:
    ticks = waterfall._ticks(extent)
    assert ticks[0] == 0
    assert 4 <= len(ticks) <= 7
    assert ticks[-1] <= extent < ticks[-1] + ticks[1]
    assert f"{ticks[1]:.0e}"[0] in "1245"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((0.0, "0.00 ms"), (4.517, "4.52 ms"), (18.26, "18.3 ms"), (186.3, "186 ms")),
        *((1234.5, "1,234 ms"), (12_340, "12.3 s")),
    ],
)
def test_milliseconds_have_the_digits_that_matter(value: float, shown: str) -> None:
    assert milliseconds(value) == shown


def test_the_server_draws_its_own_start_for_a_browser(filetype_server: Server) -> None:
    browser = filetype_server.request("GET", "/coldstart", headers={"accept": "text/html,*/*;q=0.8"})
    assert browser.status == 200
    assert browser.headers["content-type"].startswith("text/html")
    found = Page(browser.body.decode())
    assert "filetype" in found.text
    assert "compile" in found.text
    program = filetype_server.request("GET", "/coldstart").json()
    assert {p["phase"] for p in program["phases"]} >= {"platform", "import", "download", "compile", "warmup"}
