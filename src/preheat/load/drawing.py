"""matplotlib's SVG made part of a page: two widths, colours of the page's light or dark theme, nothing
fetched.

matplotlib, because its SVG stands in the page as it is: no script runs, text stays text, and a chart is some
tens of kilobytes; a drawing library of the browser's would put megabytes of script into every report.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, SOFT, GRID = "#010101", "#020202", "#030303"
COLOURS: Mapping[str, str] = {
    INK: "ink",
    SOFT: "soft",
    GRID: "line",
    "#aa0001": "cold",
    "#aa0002": "restored",
    "#aa0003": "warm",
    "#aa0004": "unknown",
    "#aa0005": "bad",
    "#aa0006": "throttled",
    "#aa0007": "other",
    "#aa0008": "outside",
    "#aa0009": "late",
    "#aa000a": "server",
}
"""What is drawn with, and the page's variable that it becomes."""
BY_NAME = {name: colour for colour, name in COLOURS.items()}
STYLE = """
:root{--cold:#2563eb;--restored:#7c3aed;--warm:#c2410c;--unknown:#78716c;--bad:#b91c1c;--throttled:#a16207;
 --other:#64748b;--outside:#0f766e;--late:#a8a29e;--server:#15803d}
@media(prefers-color-scheme:dark){:root{--cold:#60a5fa;--restored:#a78bfa;--warm:#fb923c;--unknown:#a8a29e;
 --bad:#f87171;--throttled:#facc15;--other:#94a3b8;--outside:#2dd4bf;--late:#78716c;--server:#4ade80}}
.scroll th[scope=row]{min-width:96px}
.chart svg{display:block;width:100%;height:auto}
.chart .narrow{display:none}
@media(max-width:760px){.chart .wide{display:none}.chart .narrow{display:block;max-width:520px}}
"""
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.borderpad": 0.2,
}
LETTERS, MOST = 12.0, 26
"""Of a legend, an inch; of a run's name in a chart."""
WIDE, NARROW = 10.0, 3.7
"""Inches, at 72 points: on a page of 1,000 and of 360 pixels the letters come out alike."""

Draw = Callable[[Figure, bool], None]
"""Draws on a figure; told whether it is the narrow one."""


def chart(key: str, words: str, draw: Draw, *, height: float, narrow_height: float = 0.0) -> str:
    """Both widths of a chart; heights in inches. ``key`` is unique in a page; ``words`` say what is drawn,
    for those who do not see it."""
    sizes = (("wide", WIDE, height), ("narrow", NARROW, narrow_height or height))
    drawn = [_svg(f"{key}-{kind}", kind, words, draw, width, tall) for kind, width, tall in sizes]
    return f'<div class="chart">{"".join(drawn)}</div>'


def _svg(key: str, kind: str, words: str, draw: Draw, width: float, height: float) -> str:
    # The salt makes ids (clip paths, markers) that no other chart of the page has.
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": key}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure, kind == "narrow")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|legend|PathCollection)[^"]*"', "", text
    )
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    head = f'<svg class="{kind}" role="img" aria-label="{escape(words, quote=True)}"'
    return re.sub(
        r'<svg([^>]*?) width="[^"]*"([^>]*?) height="[^"]*"|<svg', lambda m: _head(m, head), text, count=1
    )


def _head(match: re.Match[str], head: str) -> str:
    return head + (match[1] or "") + (match[2] or "")


def legend(figure: Figure, narrow: bool, **options: Any) -> None:
    """Below the drawing, in as many columns as its longest name leaves room for."""
    names = [
        str(handle.get_label()) for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]
    ]
    room, longest = (LETTERS * (NARROW if narrow else WIDE), max(map(len, names), default=0))
    figure.legend(loc="outside lower left", ncols=max(int(room / (longest + 8)), 1), **options)


def short(name: str) -> str:
    """Of a run, for a chart."""
    return name if len(name) <= MOST else f"{name[: MOST - 1]}…"


def milliseconds_axis(axes: Axes, which: str, narrow: bool) -> None:
    """Make an axis that has its data logarithmic, with ticks that are read as times; at least two of them."""
    axis, low_high = (axes.xaxis, axes.get_xlim) if which == "x" else (axes.yaxis, axes.get_ylim)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = low_high()
    decades = math.log10(max(high, 1e-9) / max(low, 1e-9))
    between = (1.0,) if decades > 2 else (1.0, 3.0) if narrow or decades > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=between, numticks=12))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_time(value)))


def short_time(ms: float) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"
