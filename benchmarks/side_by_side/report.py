"""The samples as Markdown: a page with everything, and the short table for README."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from preheat.errors import UsageError
from preheat.measure.summary import median

from .measure import LEVELS, SAME, TEXTS, WARM_S

Row = Mapping[str, Any]
_PAGE = """# Side by side

Written by `make bench-peers`; not by hand.

    {command}

{date}, {machine}, Python {python}. {took} in {minutes:g} minutes; in each one every server runs
once in a fresh process, and who begins changes. Servers have CPU {servers}, the client CPU {clients};
each session has {threads}, and each server one process that runs the model, its documentation's default.
Page cache warm.

The model is all-MiniLM-L6-v2 ({model}): a text in, its embedding out, as JSON. Peers open the exported ONNX
file with onnxruntime's default options but for the threads. Preheat opens the variant that its build chose:
for the objective `cold`, which trades warm speed for an early first answer, and in a row of its own for
`warm`; its session's threads do not spin while they wait. All tokenise by `tokenizers`, optimum through
transformers.

![Start, latency, throughput and memory of each server](peers.svg)

Medians, and in brackets the least and the most of a round; best in bold.

- *start*: from the spawn to the first answer with status 200, which has to be the right one; the client
  tries again every 2 ms until then.
- *latency*, *p99*, *answers/s*: 1, 8 or 32 connections, each of which sends the next text when it has its
  answer, for {seconds:g} s, after {warm:g} s of 32 that are not counted. Latency: the median with one.
- *memory*: proportional set size of all of a server's processes, after the last load.
- Each server's embeddings of {texts} texts, sent at once before the rounds and at the end of each, are
  Preheat's, and that of the sample is the one that the build recorded: cosine at least {same}.
"""
_NONE = "None is better than Preheat in any of it."
BEGIN, END = "<!-- side by side: written by make bench-peers -->", "<!-- end of side by side -->"


class Figure(NamedTuple):
    """Something that is measured of each contender."""

    head: str
    unit: str
    values: Callable[[Row], Sequence[float]]
    more_is_better: bool = False
    digits: int = 0

    def of(self, row: Row) -> float:
        return median(self.values(row))

    def best(self, rows: Sequence[Row]) -> float:
        """The best median, as it is printed."""
        each = [round(self.of(row), self.digits) for row in rows]
        return max(each) if self.more_is_better else min(each)


def _level(connections: int, key: str) -> Callable[[Row], Sequence[float]]:
    return lambda row: [one[key] for one in row["levels"][str(connections)]]


START = Figure("start", "ms", lambda row: row["first_ms"])
LATENCY = Figure("latency", "ms", _level(1, "p50_ms"), digits=1)
MEMORY = Figure("memory", "MiB", lambda row: row["memory_mib"])
RATES = {n: Figure(f"answers/s, {n} at once", "1/s", _level(n, "rate"), more_is_better=True) for n in LEVELS}
TAILS = {n: Figure(f"p99, {n} at once", "ms", _level(n, "p99_ms"), digits=1) for n in LEVELS}
SHORT = (START, LATENCY, *RATES.values(), MEMORY)
EVERY = (START, LATENCY, *RATES.values(), *TAILS.values(), MEMORY)


def short(found: Mapping[str, Any]) -> str:
    """The plot, a row of medians each, and who is better in what."""
    rows = _counted(found)
    picture = "![Start, latency, throughput and memory of each server](docs/peers.svg)"
    return "\n".join(
        [
            picture,
            "",
            *_table(("server", *map(_head, SHORT)), [_medians(row, rows, SHORT) for row in rows]),
            "",
            f"MiniLM: a text in, its embedding out. Medians of {_amount(found['rounds'], 'round')}",
            "of fresh processes,",
            f"best in bold; {found['machine']}, {found['date']}.",
            f"Servers have {_amount(found['server_cpus'], 'CPU')} and as many threads in their sessions.",
            "[docs/peers.md](docs/peers.md): how, versions, and the ranges.",
            "",
            better(found),
        ]
    )


def placed(readme: str, table: str) -> str:
    """README with the table in its place. Raises UsageError where it has none."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.S)
    if len(pattern.findall(readme)) != 1:
        raise UsageError(f"README.md must have {BEGIN} and {END} once")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", readme)


def better(found: Mapping[str, Any]) -> str:
    """In what another contender's median is better than Preheat's, and the best of them, in a sentence."""
    parts = []
    for figure, mine, ahead in _ahead(found):
        (label, value), *others = ahead
        more = f" and {len(others)} more" if others else ""
        parts.append(f"{figure.head}: {label} {_number(value, figure)}{more} against {_number(mine, figure)}")
    return f"Better than Preheat in {'; '.join(parts)}." if parts else _NONE


def _ahead(found: Mapping[str, Any]) -> list[tuple[Figure, float, list[tuple[str, float]]]]:
    """The figures in which others' medians, as they are printed, are better than Preheat's: with its own and
    theirs, the best first."""
    ours, *others = _counted(found)
    peers = [row for row in others if not row["ours"]]
    every = []
    for figure in EVERY:
        mine, sign = round(figure.of(ours), figure.digits), -1 if figure.more_is_better else 1
        each = [(row["label"], round(figure.of(row), figure.digits)) for row in peers]
        ahead = [(label, value) for label, value in each if sign * value < sign * mine]
        if ahead:
            every.append((figure, mine, sorted(ahead, key=lambda pair: sign * pair[1])))
    return every


def page(found: Mapping[str, Any]) -> str:
    """docs/peers.md, whole."""
    rows = _counted(found)
    starts, loads = (START, LATENCY, TAILS[1], MEMORY), (*RATES.values(), *(TAILS[n] for n in LEVELS[1:]))
    told = {**found, "texts": len(TEXTS), "same": SAME, "warm": WARM_S}
    told["servers"], told["clients"] = _list(found["server_cpus"]), _list(found["client_cpus"])
    told["took"] = _amount(found["rounds"], "round")
    told["threads"] = _amount(found["threads"], "intra-op thread")
    lines = [
        _PAGE.format_map(told),
        *_table(("server", *map(_head, starts)), [_ranges(row, rows, starts) for row in rows]),
        "",
        *_table(("server", *map(_head, loads)), [_ranges(row, rows, loads) for row in rows]),
        "",
        *_better_in_full(found),
        "",
        "| server | versions | joins requests |",
        "|---|---|---|",
        *(f"| {row['label']} | {_versions(row)} | {row['joins']} |" for row in rows),
    ]
    wrong = [(row["label"], problem) for row in found["rows"] for problem in row["wrong"]]
    if wrong:
        lines += ["", "Rounds that gave no measurement, and are in no figure:", ""]
        lines += [f"- {label}: {problem}" for label, problem in wrong]
    none = [row["label"] for row in found["rows"] if not row["first_ms"]]
    if none or found["left_out"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {label}: no round gave a measurement" for label in none]
        lines += [f"- {one['label']}: {one['why']}" for one in found["left_out"]]
    return "\n".join(lines) + "\n"


def _better_in_full(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- {_head(figure)}, {_number(mine, figure)}: "
        + ", ".join(f"{label} {_number(value, figure)}" for label, value in ahead)
        for figure, mine, ahead in _ahead(found)
    ]
    return ["Better than Preheat, by median:", "", *lines] if lines else [_NONE]


def _counted(found: Mapping[str, Any]) -> list[Row]:
    """Those with at least one measurement, Preheat first. Raises UsageError where it has none."""
    rows = [row for row in found["rows"] if row["first_ms"]]
    if not rows or rows[0] is not found["rows"][0]:
        raise UsageError("no round of Preheat gave a measurement")
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _medians(row: Row, rows: Sequence[Row], figures: Sequence[Figure]) -> list[str]:
    return [row["label"], *(_cell(row, rows, figure) for figure in figures)]


def _ranges(row: Row, rows: Sequence[Row], figures: Sequence[Figure]) -> list[str]:
    cells = [row["label"]]
    for figure in figures:
        values = figure.values(row)
        around = f"{_number(min(values), figure)} to {_number(max(values), figure)}"
        cells.append(f"{_cell(row, rows, figure)} ({around})")
    return cells


def _cell(row: Row, rows: Sequence[Row], figure: Figure) -> str:
    value = round(figure.of(row), figure.digits)
    text = _number(value, figure)
    return f"**{text}**" if value == figure.best(rows) else text


def _number(value: float, figure: Figure) -> str:
    return f"{value:,.{figure.digits}f}"


def _head(figure: Figure) -> str:
    return figure.head if figure.unit == "1/s" else f"{figure.head}, {figure.unit}"


def _versions(row: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in row["versions"].items())


def _amount(what: Any, noun: str) -> str:
    number = what if isinstance(what, int) else len(what)
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _list(cpus: Sequence[int]) -> str:
    return ", ".join(map(str, cpus))
