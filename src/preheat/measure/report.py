"""`preheat report`: one page from what one or several `preheat measure --json` printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..errors import UsageError
from ..waterfall import document, facts, label, milliseconds, svg, table

HEADS = ("", "median", "min", "max")
LEGEND = (
    "Drawn: the start whose total is nearest the median. Below: all of them; "
    "under each median its 95 % interval, by "
    "order statistics (below six samples, the extremes)."
)
FLOOR = "Floor: interpreter, onnxruntime, the task's library, one session, one inference, a bare socket."


WANTED = "measured cold starts are wanted, which `preheat measure TARGET --json > RUN.json` writes"


def load(path: str, wanted: str = WANTED) -> dict[str, Any]:
    """Read a file that `preheat measure --json` printed. Raises UsageError for anything else, with what is
    ``wanted``."""
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is no JSON document; {wanted}") from None
    if not _is_report(report):
        raise UsageError(f"{path} holds something else; {wanted}")
    found: dict[str, Any] = report
    return found


def page(reports: Sequence[Mapping[str, Any]]) -> str:
    """The whole page of ``body``."""
    title = _title(reports)
    return document(title, f"<header><p>Preheat</p><h1>{_e(title)}</h1></header>{body(reports)}")


def body(reports: Sequence[Mapping[str, Any]]) -> str:
    """For each row its waterfall, the phases with their intervals, the floor; then the planner's table of the
    artifact."""
    parts = []
    if sum(len(report["rows"]) for report in reports) > 1:
        parts += ["<h2>Side by side</h2>", _overview(reports)]
    for i, report in enumerate(reports):
        for j, row in enumerate(report["rows"]):
            parts += _section(report, row, f"start-{i}-{j}")
        parts += _planner(report)
        parts += ["<h2>Conditions</h2>", facts(_conditions(report))]
    return "".join(parts)


def _title(reports: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(str(report["artifact"]["name"]) for report in reports)
    return f"Cold starts of {', '.join(names)}"


def _section(report: Mapping[str, Any], row: Mapping[str, Any], key: str) -> list[str]:
    title = _named(report, row)
    total = row["total_ms"]
    if not total:
        return [f"<h2>{_e(title)}</h2><p>No start gave a correct answer.</p>", _wrong(row)]
    caches = "page cache kept" if report["caches"] == "kept" else f"page cache {report['caches']}"
    what = "fresh processes" if row.get("start", "fresh") == "fresh" else "instances"
    lead = f"from {began(row)} to the first correct answer: median of {row['samples']} {what}, {caches}"
    figures = [(label(name), figure) for name, figure in row["phases"].items()]
    rows = [_figures(name, figure) for name, figure in [*figures, ("total", total)]]
    typical, notes, floor = dict(row["typical"]), LEGEND, row.get("floor_ms")
    if floor:
        rows += [_figures("floor", floor), ["total / floor", f"{row['ratio']:.3f}", "", ""]]
        typical["floor_ms"], notes = floor["median"], f"{LEGEND} {FLOOR}"
    return [
        f"<h2>{_e(title)}</h2>",
        f"<header><p><strong>{milliseconds(total['median'])}</strong> {_e(lead)}</p></header>",
        f"<section>{svg(typical, key)}</section>",
        f'<p class="note">{_e(notes)}</p>',
        table(HEADS, rows),
        _wrong(row),
    ]


def began(row: Mapping[str, Any]) -> str:
    """From what on a row's totals are counted, in words."""
    kind = row.get("start", "fresh")
    return {"fresh": "spawn", "fork": "the request"}.get(kind, "the restore's spawn")


def _named(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    kind = row.get("start", "fresh")
    restored = "" if kind == "fresh" else f", restored by {kind}"
    return f"{report['artifact']['name']}, {row['variant']}{restored}"


def _figures(name: str, figure: Mapping[str, Any]) -> list[str]:
    low, high = (milliseconds(value) for value in figure["ci95"])
    median, least, most = (milliseconds(figure[key]) for key in ("median", "min", "max"))
    unit = low[-2:] == high[-2:] and low.endswith(" ms")
    return [name, f"{median}\n{low.removesuffix(' ms') if unit else low} to {high}", least, most]


def _wrong(row: Mapping[str, Any]) -> str:
    wrong = [f"round {w['round']}: {w['problem']}" for w in [*row["wrong"], *row.get("floor_wrong", ())]]
    if not wrong:
        return ""
    items = "".join(f"<li>{_e(text)}</li>" for text in wrong)
    return f"<p>Starts that were wrong, and are in no figure:</p><ul>{items}</ul>"


def _overview(reports: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for report in reports:
        for row in report["rows"]:
            total, floor = row["total_ms"], row.get("floor_ms")
            rows.append(
                [
                    _named(report, row),
                    milliseconds(total["median"]) if total else "no correct answer",
                    milliseconds(floor["median"]) if floor else "",
                    f"{row['ratio']:.3f}" if row.get("ratio") else "",
                    f"{row['pss_mib']:g} MiB" if row["pss_mib"] else "",
                ]
            )
    return table(("", "total", "floor", "total / floor", "memory (PSS)"), rows)


def _planner(report: Mapping[str, Any]) -> list[str]:
    """What the build measured of each variant, if the report carries it."""
    measured = (report.get("measurements") or {}).get("variants") or {}
    rows = []
    for name, row in measured.items():
        if "left_out" in row:
            rows.append([f"{name}\nleft out: {row['left_out']}", "", "", "", "", ""])
            continue
        medians = [row[figure]["median"] for figure in ("session_ms", "first_ms", "steady_ms")]
        size, memory = row["bytes"] / 1e6, row["rss_mib"]["median"]
        rows.append([name, *map(milliseconds, medians), f"{size:,.1f}", f"{memory:,.0f}"])
    if not rows:
        return []
    heads = ("", "session", "first run", "steady", "files MB", "peak MiB")
    return ["<h2>Variants, as the planner measured them</h2>", table(heads, rows)]


def _conditions(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    host = report["host"]
    return [
        ("target", str(report["target"])),
        ("version", str(report["artifact"]["version"])),
        ("measured at", str(report["measured_at"])),
        ("rounds", str(report["rounds"])),
        ("threads", ", ".join(dict.fromkeys(str(row["threads"]) for row in report["rows"]))),
        ("page cache", str(report["caches"])),
        ("cpus", str(host.get("cpus", ""))),
        ("architecture", str(host.get("arch", ""))),
        ("instruction sets", ", ".join(host.get("isa", ()))),
        ("onnxruntime", str(host.get("onnxruntime", ""))),
    ]


def _is_report(report: object) -> bool:
    if not isinstance(report, dict) or not {"artifact", "host", "caches", "measured_at"} <= report.keys():
        return False
    rows = report.get("rows")
    wanted = {"variant", "total_ms", "phases", "samples", "wrong", "pss_mib", "threads"}
    return isinstance(rows, list) and all(isinstance(row, dict) and wanted <= row.keys() for row in rows)


def _e(text: str) -> str:
    return escape(text, quote=True)
