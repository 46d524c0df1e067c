"""The report's charts, each from runs or their summaries."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..waterfall import label, milliseconds
from .drawing import BY_NAME, GRID, SOFT, chart, legend, milliseconds_axis, short
from .figures import of_start, outcomes_over_time, phases
from .runs import Run
from .samples import GOOD, LATE, OUTSIDE, STARTS, Sample
from .show import dollars

LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
POINTS = 2500
"""Drawn of a run: every start and failure, and of the rest as many as fit, at random."""
LOST = 0.001


def distributions(key: str, runs: Sequence[Run]) -> str:
    """For each state and run, the share of answers that came within a time."""

    lines = []
    for index, run in enumerate(runs):
        for start in STARTS:
            took = np.sort([one.client_ms for one in of_start(run.samples, start)])
            if len(took):
                name = f"{start}, {short(run.name)}" if len(runs) > 1 else start
                points = _thin(np.maximum(took, LOST), np.arange(1, len(took) + 1) / len(took))
                lines.append((points, BY_NAME[start], LINES[index % len(LINES)], f"{name} ({len(took):,})"))

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for (took, share), colour, style, name in lines:
            axes.step(
                took, share * 100, where="post", color=colour, linestyle=style, linewidth=1.8, label=name
            )
        milliseconds_axis(axes, "x", narrow)
        axes.set_ylim(0, 102)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        legend(figure, narrow)

    words = "share of answers that came within a time, for each state that was met"
    return chart(key, words, draw, height=3.4, narrow_height=2.9 + 0.2 * len(lines))


def _thin(values: Any, shares: Any, most: int = 1500) -> tuple[Any, Any]:
    """Enough of a line's points to look the same, the last hundred all of them: there the tail is."""
    if len(values) <= most:
        return values, shares
    kept = np.unique(
        np.r_[np.linspace(0, len(values) - 1, most).astype(int), np.arange(len(values) - 100, len(values))]
    )
    return values[kept], shares[kept]


def over_time(key: str, run: Run, counts: Mapping[str, Any]) -> str:
    """Every answer's latency at its intended moment, and below how many instances answered."""
    final = run.final
    shown = _some(final)
    named = bool(counts["counts"])

    def draw(figure: Figure, narrow: bool) -> None:
        if named:
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        else:
            above, below = figure.subplots(), None
        for start in reversed(STARTS):  # the starts on top
            of = [one for one in shown if one.good and one.start == start]
            _dots(above, of, start, start, 14 if start in ("cold", "restored") else 7)
        _dots(above, [one for one in shown if not one.good], "bad", "failed", 14)
        milliseconds_axis(above, "y", narrow)
        last = below or above
        if below is not None:
            edges = np.arange(len(counts["counts"]) + 1) * counts["step_s"]
            below.stairs(counts["counts"], edges, fill=True, color=BY_NAME["other"], alpha=0.55)
            below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
            below.set_title("instances that answered")
            below.set_ylim(bottom=0)
        last.set_xlim(-0.01 * run.seconds, max(1.01 * run.seconds, 1e-3))
        last.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        last.xaxis.set_major_locator(MaxNLocator(4 if narrow else 9))
        legend(figure, narrow, markerscale=1.6)

    words = "latency of each request over time, and how many instances answered"
    return chart(key, words, draw, height=3.9 if named else 3.2, narrow_height=3.9)


def _dots(axes: Any, of: Sequence[Sample], colour: str, name: str, size: float) -> None:
    if of:
        at, took = [one.at_s for one in of], [max(one.client_ms, LOST) for one in of]
        axes.scatter(at, took, s=size, color=BY_NAME[colour], alpha=0.75, linewidths=0, label=name)


def _some(samples: Sequence[Sample]) -> list[Sample]:
    rare = [one for one in samples if not one.good or one.start in ("cold", "restored")]
    common = [one for one in samples if one.good and one.start not in ("cold", "restored")]
    chance = random.Random(1)  # noqa: S311 - which dots are drawn
    rare = chance.sample(rare, POINTS) if len(rare) > POINTS else rare
    return rare + (chance.sample(common, POINTS) if len(common) > POINTS else common)


def waterfall(key: str, run: Run, start: str) -> str:
    """Medians of what a state's request went through: the client's view, and the server's own phases."""
    of = of_start(run.samples, start)
    found = {name: float(np.median(took)) for name, took in phases(of).items()}
    took = float(np.median([one.client_ms for one in of]))
    client = [
        (name, found[name], colour)
        for name, colour in ((LATE, "late"), (OUTSIDE, "outside"))
        if name in found
    ]
    served: list[tuple[str, float, str]] = [
        (name, found[name], "server") for name in ("wait", "run") if name in found
    ]
    if served:
        client.append(("in the server", sum(ms for _, ms, _ in served), "server"))
    left_out = {LATE, OUTSIDE, "gateway waited", "first_request", *(name for name, _, _ in served)}
    begun = [(name, found[name], start) for name in sorted(found, key=_place) if name not in left_out]
    every: list[list[tuple[str, float, str]]] = [client, served, begun]
    titles = ("what the client saw", "the server, of this request", "the start that it met")
    lanes = [(title, lane) for title, lane in zip(titles, every, strict=True) if lane]

    def draw(figure: Figure, narrow: bool) -> None:
        heights = [len(lane) + 0.3 for _, lane in lanes]
        rows = figure.subplots(len(lanes), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        extent = max(took, *(sum(ms for _, ms, _ in lane) for _, lane in lanes))
        for axes, (title, lane) in zip(rows, lanes, strict=True):
            upto = 0.0
            for row, (_, ms, colour) in enumerate(lane):
                wide = max(ms, extent * 0.003)  # what is shorter than a pixel stays visible
                axes.barh(row, wide, left=upto, height=0.62, color=BY_NAME[colour])
                place = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(milliseconds(ms), (upto + wide, row), **place)
                upto += ms
            axes.set_yticks(range(len(lane)), [label(name) for name, _, _ in lane])
            axes.set_ylim(len(lane) - 0.4, -0.6)
            axes.set_title(title)
            axes.grid(axis="y", visible=False)
            axes.set_xlim(0, extent * (1.3 if narrow else 1.1))
        rows[-1].xaxis.set_major_locator(MaxNLocator(3 if narrow else 7))
        rows[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g} ms")

    bars = sum(len(lane) for _, lane in lanes) + 1.2 * len(lanes)
    words = f"phases of a {start} request, medians: " + ", ".join(
        f"{n} {milliseconds(ms)}" for n, ms in found.items()
    )
    return chart(key, words, draw, height=0.3 + 0.27 * bars)


_FIRST = ("platform", "restore", "import", "download", "compile", "warmup")


def _place(name: str) -> int:
    """Of a phase in its start."""
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def outcomes(key: str, run: Run) -> str:
    """How many requests ended how, over time."""
    step, counts = outcomes_over_time(run)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        base: Any = np.zeros(len(next(iter(counts.values()), [])))
        at = (np.arange(len(base)) + 0.5) * step
        hatches = iter(["", "///", "...", "xxx", "\\\\\\", "ooo"] * 4)
        for name, each in counts.items():
            colour = {GOOD: "server", "throttled": "throttled", "shed": "throttled"}.get(name, "bad")
            hatch = "" if name == GOOD else next(hatches)
            axes.bar(
                at,
                each,
                step * 0.9,
                base,
                color=BY_NAME[colour],
                hatch=hatch,
                edgecolor=GRID,
                linewidth=0,
                label=name,
            )
            base = base + np.asarray(each)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 9))
        axes.set_xlim(0, max(run.seconds, step))
        axes.set_title(f"requests in {step:.3g} s")
        legend(figure, narrow)

    words = "outcomes over time: " + ", ".join(f"{name} {sum(each):,}" for name, each in counts.items())
    return chart(key, words, draw, height=2.5, narrow_height=2.6 + 0.1 * len(counts))


def costs(key: str, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Dollars for a thousand good answers, by way to pay; a bar each run."""
    names = [str(row["name"]) for row in runs[0][1]]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        tall = 0.8 / len(runs)
        most = max((row["per_1000_good"] or 0.0 for _, rows in runs for row in rows), default=0.0) or 1.0
        for index, (run, rows) in enumerate(runs):
            each = [row["per_1000_good"] or 0.0 for row in rows]
            at = np.arange(len(rows)) + (index - (len(runs) - 1) / 2) * tall
            axes.barh(
                at,
                each,
                tall * 0.85,
                color=BY_NAME["outside"],
                alpha=1 - 0.55 * index / len(runs),
                label=short(run),
            )
            for place, value in zip(at, each, strict=True):
                axes.annotate(
                    f"${dollars(value)}",
                    (value, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, most * (1.35 if narrow else 1.12))
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(3 if narrow else 6))
        axes.xaxis.set_major_formatter(lambda value, _: f"${value:g}")
        axes.set_title("US dollars for a thousand good answers")
        if len(runs) > 1:
            legend(figure, narrow)

    words = "; ".join(
        f"{run}: " + ", ".join(f"{r['name']} {dollars(r['per_1000_good'])}" for r in rows)
        for run, rows in runs
    )
    height = 0.8 + 0.32 * len(names) * max(len(runs) * 0.7, 1)
    return chart(
        key, f"dollars for a thousand good answers: {words}", draw, height=height, narrow_height=height + 0.2
    )


def side_by_side(key: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    """p50 and p99 of each state with their intervals, a row for each run."""
    rows = [
        (start, name, short(found["name"]), found["latency"][start][name])
        for start in STARTS
        for name in ("p50", "p99")
        for found in summaries
        if name in found["latency"].get(start, {})
    ]

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        for place, (start, name, _, (value, low, high)) in enumerate(rows):
            colour = BY_NAME[start]
            axes.plot(
                [max(low, LOST), max(high, LOST)], [place, place], color=colour, linewidth=3, alpha=0.45
            )
            axes.plot(max(value, LOST), place, "o" if name == "p50" else "D", color=colour, markersize=6)
        names = [
            f"{start} {name}\n{run}" if narrow else f"{start} {name}, {run}" for start, name, run, _ in rows
        ]
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        milliseconds_axis(axes, "x", narrow)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", labelcolor=SOFT)

    words = "; ".join(
        f"{start} {name} of {run}: {milliseconds(value[0])}" for start, name, run, value in rows
    )
    return chart(key, words, draw, height=0.7 + 0.28 * len(rows), narrow_height=0.7 + 0.4 * len(rows))
