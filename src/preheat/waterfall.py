"""A cold start drawn as a waterfall: one SVG, or one self-contained HTML page around it.

Takes a /coldstart report (ColdStartReport.to_dict) as a mapping. Loaded at run time only when a browser asks,
so it needs the standard library alone. Lengths are percentages and type has one size, so that the same
drawing is read on a wide screen and on a telephone. Everything that comes from the report is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

ROW = 42
"""Height of one phase in pixels: its label, and its bar below."""
BAR = 12
HEAD = 22
"""Pixels above the phases, where readiness is named."""
AXIS = 30
GAP = 0.04
"""What is left between readiness and a first request that came much later, as a part of the scale."""

_PHASES = frozenset(
    "platform import download compile warmup restore first_request network unaccounted".split()  # noqa: SIM905
)
"""Those that have a colour of their own below."""


class Row(NamedTuple):
    phase: str
    bars: list[tuple[float, float]]
    """Begin and end of each, in milliseconds on the drawing's scale."""
    milliseconds: float
    note: str = ""


class Chart(NamedTuple):
    rows: list[Row]
    marks: list[tuple[str, float]]
    """Moments to be shown through all rows."""
    extent: float
    """Length of the scale in milliseconds, at least 1."""


def svg(report: Mapping[str, Any], key: str = "waterfall") -> str:
    """The drawing, as wide as what it stands in. ``key``: begins its elements' ids, unique in a page.

    A ``floor_ms`` in the report is drawn as a line.
    """
    chart = _chart(report)
    bottom = HEAD + ROW * len(chart.rows)
    parts = [
        f'<svg class="waterfall" xmlns="http://www.w3.org/2000/svg" role="img" width="100%" '
        f'height="{bottom + AXIS}" aria-labelledby="{_e(key)}-title {_e(key)}-desc">',
        f'<title id="{_e(key)}-title">{_e(_headline(report))}</title>',
        f'<desc id="{_e(key)}-desc">{_e(_in_words(chart))}</desc>',
        f"<style>{DRAWING}</style>",
    ]
    for tick in _ticks(chart.extent):
        x = _percent(tick, chart)
        anchor = "start" if tick == 0 else "end" if tick > 0.93 * chart.extent else "middle"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{HEAD}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="{anchor}">{tick:g} ms</text>'
        )
    for name, at in chart.marks:
        x, anchor = _percent(at, chart), "start" if at < 0.2 * chart.extent else "end"
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{HEAD - 4}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{HEAD - 8}" text-anchor="{anchor}">{name}</text>')
    for index, row in enumerate(chart.rows):
        parts.append(_row(row, HEAD + index * ROW, chart))
    return "".join([*parts, "</svg>"])


def page(report: Mapping[str, Any]) -> str:
    """A whole HTML document: the drawing, the phases as a table, and the facts of the start."""
    name = _text(_of(report, "artifact", "name")) or "Cold start"
    took = milliseconds(_number(report.get("total_ms")))
    restored = _text(report.get("restore"))
    began = f"the restore ({_e(restored)})" if restored else "process start"
    lead = f"<strong>{took}</strong> from {began} to readiness"
    body = [
        f"<header><p>Cold start</p><h1>{_e(name)}</h1><p>{lead}</p></header>",
        f"<section>{svg(report)}</section>",
        "<h2>Phases</h2>",
        table(["phase", "begins", "takes"], _phase_rows(report)),
        "<h2>Facts</h2>",
        facts(_facts(report)),
    ]
    return document(f"Cold start of {name}", "".join(body))


def document(title: str, body: str) -> str:
    """A self-contained page; ``body`` is HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{_e(title)}</title>'
        f"<style>{PAGE}</style></head><body><main>{body}</main></body></html>\n"
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts. The first column names the row; what follows a line break in a cell is a note."""
    lines = []
    for row in rows:
        first, *others = (_cell(text) for text in row)
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{_e(text)}</th>' for text in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    main, _, note = text.partition("\n")
    return _e(main) + (f"<small>{_e(note)}</small>" if note else "")


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values, the empty ones left out."""
    return "<dl>" + "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}</dd></div>" for k, v in pairs if v) + "</dl>"


def milliseconds(value: float) -> str:
    """With as many digits as matter."""
    if value >= 9999.5:
        return f"{value / 1000:,.1f} s"
    places = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{places}f} ms"


def _chart(report: Mapping[str, Any]) -> Chart:
    ready = _number(report.get("total_ms"))
    found: dict[str, list[tuple[float, float]]] = {}
    for phase in report.get("phases", ()):
        begin = _number(phase.get("start_ms"))
        bars = found.setdefault(_text(phase.get("phase")), [])
        bars.append((begin, begin + _number(phase.get("duration_ms"))))
    rows, extent = [], max(ready, 1.0)
    for name, bars in found.items():
        took, note = sum(end - begin for begin, end in bars), ""
        late = bars[0][0] - ready
        if late > 0.25 * extent:  # it would squeeze all that came before it
            at = ready + GAP * extent
            bars, note = [(at, at + took)], f"{milliseconds(late)} after readiness"
        rows.append(Row(name, bars, took, note))
        extent = max(extent, *(end for _, end in bars))
    gaps = _gaps([bar for row in rows for bar in row.bars], ready)
    uncovered = sum(end - begin for begin, end in gaps)
    if gaps and uncovered >= 0.001 * ready:
        seen = [(begin, end) for begin, end in gaps if end - begin >= 0.002 * ready]
        rows.append(Row("unaccounted", seen or gaps[:1], uncovered))
    marks = [("ready", ready)] if ready < 0.995 * extent else []
    if report.get("floor_ms"):
        marks.append(("floor", min(_number(report["floor_ms"]), extent)))
    return Chart(rows, marks, extent)


def _gaps(bars: Iterable[tuple[float, float]], end: float) -> list[tuple[float, float]]:
    """What no bar covers, from 0 to ``end``."""
    found, upto = [], 0.0
    for begin, stop in [*sorted(bars), (end, end)]:
        if min(begin, end) - upto > 1e-3:  # marks are told to a microsecond
            found.append((upto, min(begin, end)))
        upto = max(upto, stop)
    return found


def _row(row: Row, top: int, chart: Chart) -> str:
    y = top + 20
    kind = row.phase if row.phase in _PHASES else "other"
    note = f' <tspan class="note">{_e(row.note)}</tspan>' if row.note else ""
    took = milliseconds(row.milliseconds)
    parts = [
        f'<text x="0" y="{top + 13}">{_e(label(row.phase))}{note}</text>',
        f'<text class="figure" x="100%" y="{top + 13}" text-anchor="end">{took}</text>',
        f'<rect class="track" x="0" y="{y}" width="100%" height="{BAR}" rx="2"/>',
    ]
    for begin, end in row.bars:
        x, width = _percent(begin, chart), _percent(end - begin, chart)
        # The second one keeps what is shorter than a pixel visible.
        parts.append(f'<rect class="bar {kind}" x="{x}" y="{y}" width="{width}" height="{BAR}" rx="1"/>')
        parts.append(f'<rect class="bar {kind}" x="{x}" y="{y}" width="2" height="{BAR}"/>')
    return "".join(parts)


def _ticks(extent: float) -> list[float]:
    """Four to seven round numbers from 0."""
    step = 10.0 ** (len(str(int(extent))) - 1)
    while extent / step > 6:
        step *= 2
    while extent / step < 3:
        step /= 2
    return [step * i for i in range(int(extent / step) + 1)]


def _percent(value: float, chart: Chart) -> str:
    return f"{100 * value / chart.extent:.3f}%"


def _headline(report: Mapping[str, Any]) -> str:
    name = _text(_of(report, "artifact", "name"))
    return f"Cold start{' of ' + name if name else ''}: {milliseconds(_number(report.get('total_ms')))}"


def _in_words(chart: Chart) -> str:
    return "; ".join(
        f"{label(row.phase)}: {milliseconds(row.milliseconds)}, from {milliseconds(row.bars[0][0])}"
        + (f", {row.note}" if row.note else "")
        for row in chart.rows
    )


def _phase_rows(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for phase in sorted(report.get("phases", ()), key=lambda phase: _number(phase.get("start_ms"))):
        noted = ", ".join(f"{_words(k)} {_text(v)}" for k, v in phase.get("attributes", {}).items())
        begins, takes = (milliseconds(_number(phase.get(key))) for key in ("start_ms", "duration_ms"))
        rows.append([f"{label(_text(phase.get('phase')))}\n{noted}", begins, takes])
    if report.get("unaccounted_ms"):
        took = milliseconds(_number(report["unaccounted_ms"]))
        rows.append(["unaccounted\nwhat no phase covers", "", took])
    return rows


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    tick = _number(report.get("resolution_ms"))
    known = [
        ("version", _of(report, "artifact", "version")),
        *((key, report.get(key)) for key in ("variant", "provider", "fallback", "threads", "cache")),
        *((key, report.get(key)) for key in ("kind", "platform", "instance")),
        *((_words(key), value) for key, value in _mapping(report.get("deployment")).items()),
        *((_words(key), value) for key, value in _mapping(report.get("host")).items()),
        ("process start known to", f"{tick:g} ms" if tick else ""),
    ]
    return [(key, _text(value)) for key, value in known]


def label(phase: str) -> str:
    return {"warmup": "warm-up"}.get(phase, _words(phase))


def _words(name: object) -> str:
    return _text(name).replace("_", " ")


def _of(report: Mapping[str, Any], *keys: str) -> Any:
    value: Any = report
    for key in keys:
        value = _mapping(value).get(key)
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return str(value)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _e(text: str) -> str:
    return escape(text, quote=True)


DRAWING = """
.waterfall{display:block;overflow:visible;font:13px/1.3 system-ui,sans-serif;
 --text:#1c1917;--quiet:#57534e;--halo:#fff;--go:#15803d;--platform:#64748b;--import:#2563eb;--download:#0f766e;
 --compile:#c2410c;--warmup:#be185d;--restore:#7c3aed;--network:#a16207;--other:#78716c}
@media(prefers-color-scheme:dark){.waterfall{
 --text:#f5f5f4;--quiet:#a8a29e;--halo:#171412;--go:#4ade80;--platform:#94a3b8;--import:#60a5fa;--download:#2dd4bf;
 --compile:#fb923c;--warmup:#f472b6;--restore:#a78bfa;--network:#facc15;--other:#a8a29e}}
.waterfall text{fill:var(--text);stroke:var(--halo);stroke-width:4px;paint-order:stroke}
.waterfall .tick,.waterfall .note{fill:var(--quiet)}
.waterfall .tick{font-size:12px}
.waterfall .figure{font-variant-numeric:tabular-nums;font-weight:600}
.waterfall .track{fill:var(--text);opacity:.07}
.waterfall .grid{stroke:var(--text);opacity:.15}
.waterfall .mark{stroke:var(--go);stroke-dasharray:4 3}
.waterfall .platform{fill:var(--platform)}
.waterfall .import{fill:var(--import)}
.waterfall .download{fill:var(--download)}
.waterfall .compile{fill:var(--compile)}
.waterfall .warmup{fill:var(--warmup)}
.waterfall .restore{fill:var(--restore)}
.waterfall .first_request{fill:var(--go)}
.waterfall .network{fill:var(--network)}
.waterfall .unaccounted,.waterfall .other{fill:var(--other)}
"""
PAGE = """
:root{--ground:#fff;--ink:#1c1917;--soft:#57534e;--line:#e7e5e4}
@media(prefers-color-scheme:dark){:root{--ground:#171412;--ink:#f5f5f4;--soft:#a8a29e;--line:#3b3532}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 56px}
header p{margin:0;color:var(--soft)}
header strong{color:var(--ink);font-size:22px}
h1{margin:2px 0 4px;font-size:30px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:36px 0 8px;font-size:18px;overflow-wrap:anywhere}
section{margin-top:24px}
.note{color:var(--soft);margin:10px 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600}
thead th{color:var(--soft);font-weight:400}
small{display:block;color:var(--soft);font-size:13px;font-weight:400;overflow-wrap:anywhere}
td{font-variant-numeric:tabular-nums;white-space:nowrap}
td small{overflow-wrap:normal}
dl{margin:0;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:0 32px}
dl div{padding:6px 0;border-bottom:1px solid var(--line)}
dt{color:var(--soft);font-size:13px}
dd{margin:0;overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
@media(max-width:560px){
 th,td{font-size:13px;padding-right:8px}small{font-size:12px}main{padding:20px 16px 40px}}
"""
