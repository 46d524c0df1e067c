"""The samples as one picture: a row each contender, a column each figure; on its own light ground, so that it
can be read on a dark page too."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from . import report

GROUND, INK, SOFT, LINE = "#ffffff", "#1c1917", "#57534e", "#e7e5e4"
OURS, THEIRS = "#c2410c", "#94a3b8"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peers",
    "font.size": 9,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": INK,
}
COLUMNS = (
    ("start to first answer", report.START, "less is better"),
    ("latency, one at a time", report.LATENCY, "less is better"),
    ("answers/s, 32 at once", report.RATES[32], "more is better"),
    ("memory", report.MEMORY, "less is better"),
)


def drawn(found: Mapping[str, Any]) -> str:
    """SVG, letters as text."""
    rows = [row for row in found["rows"] if row["first_ms"]]
    with mpl.rc_context(SETTINGS):
        canvas = Canvas(figsize=(11, 1.2 + 0.3 * len(rows)), layout="constrained", facecolor=GROUND)
        FigureCanvasSVG(canvas)
        each = canvas.subplots(1, len(COLUMNS), sharey=True)
        for axes, (title, figure, side) in zip(each, COLUMNS, strict=True):
            _column(axes, rows, figure)
            axes.set_title(f"{title}\n", loc="left", fontsize=9.5, fontweight="bold")
            unit = "" if figure.unit == "1/s" else f"{figure.unit}, "
            axes.text(0, 1.02, f"{unit}{side}", transform=axes.transAxes, color=SOFT, fontsize=8)
        layout = canvas.get_layout_engine()
        assert layout is not None  # noqa: S101 - constrained, by the call above
        layout.set(h_pad=0.1, w_pad=0.1)  # type: ignore[call-arg] # inches; what every engine shares is less
        note = f"bar: the rounds' median, line: from the least to the most; {found['date']}"
        canvas.supxlabel(note, x=0.01, ha="left", fontsize=8, color=SOFT)
        each[0].set_yticks(range(len(rows)), [row["label"] for row in rows])
        each[0].invert_yaxis()
        for label, row in zip(each[0].get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row["ours"] else "normal")
        buffer = io.StringIO()
        about = {"Title": "Servers side by side", "Date": None, "Creator": None}
        canvas.savefig(buffer, format="svg", facecolor=GROUND, metadata=about)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", buffer.getvalue())


def _column(axes: Axes, rows: Sequence[report.Row], figure: report.Figure) -> None:
    """A bar to each median, a line from the least to the most."""
    axes.set_facecolor(GROUND)
    most = max(max(figure.values(row)) for row in rows)
    for place, row in enumerate(rows):
        values, middle = figure.values(row), figure.of(row)
        axes.barh(place, middle, height=0.62, color=OURS if row["ours"] else THEIRS)
        axes.plot([min(values), max(values)], [place, place], color=INK, linewidth=0.9, solid_capstyle="butt")
        axes.annotate(
            f"{middle:,.{figure.digits}f}",
            (max(max(values), middle), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if row["ours"] else "normal",
        )
    axes.set_xlim(0, most * 1.28)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "left")
        spine.set_color(LINE)
