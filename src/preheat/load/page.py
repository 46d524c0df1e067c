"""`preheat report` of load tests: one self-contained page, for one run or several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..errors import UsageError
from ..waterfall import document, label, milliseconds, table
from ..waterfall import facts as listed
from . import show
from .figures import of_start
from .runs import Run
from .samples import STARTS

Load = tuple[Run, Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""A run, its summary and its costs."""


def page(loads: Sequence[Load], more: str = "") -> str:
    """The page; ``more``: HTML that comes after the load tests. Raises UsageError where nothing can draw
    it."""
    try:
        from . import charts, drawing
    except ImportError as error:
        raise UsageError(
            f"the report of a load test is drawn with {error.name}; "
            "install it with `pip install 'preheat[load]'`"
        ) from None
    names = dict.fromkeys(run.name for run, _, _ in loads)
    title = f"Load test{'s' if len(loads) > 1 else ''}: {', '.join(names)}"
    parts = [f"<style>{drawing.STYLE}</style>", f"<header><p>Preheat</p><h1>{_e(title)}</h1></header>"]
    runs = [run for run, _, _ in loads]
    if len(loads) > 1:
        parts += ["<h2>Side by side</h2>", _overview(loads)]
        if any(found["latency"] for _, found, _ in loads):
            parts += [
                charts.side_by_side("side", [found for _, found, _ in loads]),
                _note("Circles: p50; diamonds: p99; bars: 95 % intervals."),
            ]
    if any(found["latency"] for _, found, _ in loads):
        parts += [
            "<h2>Cold and warm</h2>",
            charts.distributions("cdf", runs),
            _note(
                "Share of answers that came within a time, from the intended moment to the last byte. Cold, "
                "restored and warm are what the server said of each answer."
            ),
        ]
    for index, (run, found, _) in enumerate(loads):
        parts += _section(charts, f"run{index}", run, found, alone=len(loads) == 1)
    parts += [
        "<h2>Cost</h2>",
        charts.costs("cost", [(run.name, costs) for run, _, costs in loads]),
        _prices(loads),
    ]
    return document(title, "".join(parts) + (f"<h2>Cold starts, measured</h2>{more}" if more else ""))


def _section(charts: Any, key: str, run: Run, found: Mapping[str, Any], *, alone: bool) -> list[str]:
    head = run.head
    parts = [] if alone else [f"<h2>{_e(run.name)}</h2>"]
    if found["cut"]:
        parts.append(
            f"<p><strong>Cut short:</strong> {_e(found['cut'])}. The figures are of what was measured.</p>"
        )
    if found["latency"]:
        parts += [
            _h(alone, "Latency"),
            table(("met", "answers", "p50", "p90", "p99", "p99.9"), _latencies(found)),
        ]
        parts.append(
            _note("Below each figure its 95 % interval, by bootstrap; a quantile needs samples past it.")
        )
    else:
        parts.append("<p>No answer is in a latency statistic.</p>")
    if found["requests"]:
        parts += [_h(alone, "Over time"), charts.over_time(f"{key}-time", run, found["instances"])]
    for start in STARTS:
        chosen = of_start(run.samples, start)
        if chosen and any(one.phases for one in chosen):
            parts += [_h(alone, f"Phases, {start}"), charts.waterfall(f"{key}-{start}", run, start)]
            if start in ("cold", "restored"):
                parts.append(
                    _note(
                        "Medians, laid end to end; some phases overlap. The clocks are never mixed: the "
                        "start that the server tells lies in part before the request reached it, in part "
                        "in the wait."
                    )
                )
    if found["requests"]:
        parts += [_h(alone, "Outcomes"), charts.outcomes(f"{key}-outcomes", run)]
    parts += [
        _h(alone, "Steps"),
        table(("step", "asked", "answers", "as asked", "good/s", "p50", "p99"), _steps(found)),
    ]
    if found["told_apart_by"]:
        ways = "".join(f"<li>{_e(way)}</li>" for way in found["told_apart_by"])
        parts.append(f"<p>This server does not say whether it was cold. Ways to tell:</p><ul>{ways}</ul>")
    host = head["host"]
    conditions = [
        ("target", str(head["target"])),
        ("began", str(head["began"])),
        ("scenario", f"{head['scenario']['name']} ({head['scenario']['digest']})"),
        ("about it", str(head["scenario"]["about"])),
        *show.facts(found),
        ("sent from", f"{host['cpus']} CPUs, {host['arch']}"),
    ]
    return [*parts, _h(alone, "Facts"), listed(conditions)]


def _h(alone: bool, text: str) -> str:
    return f"<h2>{_e(text)}</h2>" if alone else f"<h3>{_e(text)}</h3>"


def _latencies(found: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for start, of in found["latency"].items():
        cells = [_figure(of.get(name)) for name in ("p50", "p90", "p99", "p99.9")]
        rows.append([start, f"{of['n']:,}", *cells])
    return rows


def _figure(figure: Sequence[float] | None) -> str:
    if figure is None:
        return "too few"
    value, low, high = (milliseconds(part) for part in figure)
    same = low[-3:] == high[-3:] == " ms"
    return f"{value}\n{low.removesuffix(' ms') if same else low} to {high}"


def _steps(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{step['name']}\nclosed loop" if step["closed"] else step["name"],
            step["asked"],
            f"{step['good']:,} of {step['requests']:,}",
            f"{step['as_asked']:,}",
            f"{step['throughput']:,.1f}",
            *(
                milliseconds(step["latency"][q][0]) if q in step["latency"] else "too few"
                for q in ("p50", "p99")
            ),
        ]
        for step in found["steps"]
    ]


def _overview(loads: Sequence[Load]) -> str:
    rows = []
    for run, found, _ in loads:
        latency = found["latency"]
        cold = latency.get("cold") or latency.get("restored") or {}
        share = found["cold_share"]
        cells = [
            of[q][0] if q in of else None for of in (cold, latency.get("warm", {})) for q in ("p50", "p99")
        ]
        rows.append(
            [
                run.name,
                f"{found['good']:,} of {found['requests']:,}",
                f"{100 * share[0]:.2f} %" if share else "",
                *("too few" if value is None else milliseconds(value) for value in cells),
                f"{found['goodput']:,.2f}",
            ]
        )
    heads = ("", "good", "cold share", "cold p50", "cold p99", "warm p50", "warm p99", "goodput/s")
    return table(heads, rows)


def _prices(loads: Sequence[Load]) -> str:
    rows = []
    for run, _, costs in loads:
        for row in costs:
            parts = ", ".join(
                f"{label(name)} {show.dollars(value)}" for name, value in row["parts"].items() if value
            )
            used = (
                f"{row['gb_seconds']:,.1f} GB-s" if "gb_seconds" in row else f"{row['instance_hours']:,.4f} h"
            )
            name = f"{row['name']}, {run.name}" if len(loads) > 1 else str(row["name"])
            per = [show.dollars(row[key]) for key in ("total", "per_1000", "per_1000_good")]
            rows.append([f"{name}\n{parts}", *per, used])
    every = [row for _, _, costs in loads for row in costs]
    checked = "" if all(row["checked"] for row in every) else ", not checked since"
    dates = ", ".join(dict.fromkeys(str(row["date"]) for row in every))
    note = f"List prices of {dates}{checked}, in US dollars. "
    note += "Busy: with a request; idle: until an instance goes away, as the table assumes."
    guessed = sum(row.get("by_client_time", 0) for row in every)
    if guessed:
        note += f" Lambda's row bills {guessed:,} answers by the client's time, an upper bound: "
        note += "their server told none."
    about = {str(row["name"]): str(row["about"]) for row in every}
    heads = ("", "the run", "per 1,000", "per 1,000 good", "used")
    return table(heads, rows) + _note(note) + listed(list(about.items()))


def _note(text: str) -> str:
    return f'<p class="note">{_e(text)}</p>'


def _e(text: object) -> str:
    return escape(str(text), quote=True)
