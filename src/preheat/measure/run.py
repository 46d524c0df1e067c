"""`preheat measure`: cold starts of a TARGET, phase by phase, and the floor under them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..errors import UsageError
from . import imported, lambda_runtime, rounds, spans, target
from .caches import Dropper, dropper
from .restored import KINDS, restoring
from .rounds import Outcome, Wrong
from .spans import Bar
from .start import Contender, Start
from .summary import median, summary

Progress = Callable[[str, int, int], None]


def measure(
    location: str,
    environ: Mapping[str, str],
    *,
    rounds_wanted: int,
    variants: Sequence[str] = (),
    floor: bool = False,
    drop_caches: bool = False,
    rie: str = "",
    starts: Sequence[str] = ("fresh",),
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure, and give the report that ``--json`` prints.

    ``rows``: one for each variant, or one for what the server chooses, by each of ``starts`` (``fresh``,
    ``fork``, ``criu``); ``floor_ms`` and ``ratio``: of the first row. ``rie``: the Runtime Interface
    Emulator, to start the function as Lambda does. A template and a snapshot are made before the rounds, and
    not counted; the floor of what is restored is that of the first row, because a restore opens no session.
    Before the rounds each row is started once and thrown away: that start writes the bytecode and the
    verification stamps that a deployed image has, and tells the variant that runs. Raises PreheatError where
    nothing can be started.
    """
    if rounds_wanted < 1:
        raise UsageError("--rounds must be at least 1")
    kinds = list(dict.fromkeys(starts))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UsageError(f"a start is {', '.join(KINDS)}; not {', '.join(unknown) or 'none of them'}")
    if kinds != ["fresh"] and (rie or drop_caches):
        raise UsageError("--platform lambda and --drop-caches are about fresh starts alone")
    subject = target.find(location, environ)
    with contextlib.ExitStack() as stack:
        progress("templates and snapshots, not counted", 0, len(kinds))
        servers = [
            lambda_runtime.contender(subject, rie, variant)
            if rie
            else stack.enter_context(restoring(target.server(subject, variant), kind))
            for variant in dict.fromkeys(variants) or [""]
            for kind in kinds
        ]
        return _measured(subject, servers, kinds, rounds_wanted, floor, drop_caches, bool(rie), progress)


def _measured(
    subject: target.Target,
    servers: Sequence[Contender],
    kinds: Sequence[str],
    rounds_wanted: int,
    floor: bool,
    drop_caches: bool,
    on_lambda: bool,
    progress: Progress,
) -> dict[str, Any]:
    known = (
        imported.ask(subject.importable, target.with_bytecode(subject.environ))
        if floor or drop_caches
        else None
    )
    drop: Dropper | None = None
    if drop_caches and known is not None:
        drop = dropper([*known.files, *(subject.path(file.path) for file in subject.manifest.files)])
    opened = []
    for index, server in enumerate(servers):
        progress("first start, not counted", index, len(servers))
        opened.append(told(rounds.rehearse(server)))
    with tempfile.TemporaryDirectory(prefix="preheat-floor-") as folder:
        floors: dict[str, Contender] = {}
        if floor and known is not None:
            for facts in opened[:: len(kinds)]:
                floors[facts["variant"]] = target.floor(
                    subject, facts["variant"], facts["threads"], known.libraries, folder
                )
        outcomes = rounds.run(
            [*servers, *floors.values()],
            rounds_wanted,
            before=drop.drop if drop else lambda: None,
            progress=progress,
        )
    under = {name: outcome for name, outcome in zip(floors, outcomes[len(servers) :], strict=True)}
    rows = []
    for index, (facts, outcome) in enumerate(zip(opened, outcomes, strict=False)):
        first = opened[index - index % len(kinds)]
        rows.append(_row(subject, facts, outcome, under.get(first["variant"]), kinds[index % len(kinds)]))
    return {
        "preheat": __version__,
        "target": subject.location,
        "platform": "lambda" if on_lambda else "process",
        "artifact": {"name": subject.manifest.name, "version": subject.manifest.version},
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds_wanted,
        "caches": f"dropped ({drop.how})" if drop else "kept",
        "host": opened[0]["host"],
        "rows": rows,
        "floor_ms": rows[0].get("floor_ms"),
        "ratio": rows[0].get("ratio"),
        "measurements": subject.manifest.measurements,
    }


def told(start: Start) -> dict[str, Any]:
    """The report of a start that told its phases."""
    assert start.coldstart is not None  # noqa: S101 - without a problem there is one
    return start.coldstart


def _row(
    subject: target.Target,
    facts: dict[str, Any],
    outcome: Outcome,
    under: Outcome | None,
    kind: str = "fresh",
) -> dict[str, Any]:
    good, wrong = _as_asked(outcome, facts, kind)
    row: dict[str, Any] = {
        "start": kind,
        "target": subject.location,
        "variant": facts["variant"],
        "provider": facts["provider"],
        "threads": facts["threads"],
        "fallback": facts["fallback"],
        "total_ms": None,
        "phases": {},
        "coverage": None,
        "pss_mib": None,
        "correct": bool(good) and not wrong,
        "samples": len(good),
        "wrong": [problem._asdict() for problem in wrong],
    }
    if good:
        row.update(_figures(good))
    if under is not None:
        row["floor_wrong"] = [problem._asdict() for problem in under.wrong]
        row["floor_ms"] = summary([start.total_ms for start in under.good]) if under.good else None
        if good and under.good:
            row["ratio"] = round(row["total_ms"]["median"] / row["floor_ms"]["median"], 3)
    return row


def _as_asked(
    outcome: Outcome, facts: dict[str, Any], wanted: str = "fresh"
) -> tuple[list[Start], list[Wrong]]:
    """Leave out the starts that were not what was asked for: another variant, or another kind of start."""
    good: list[Start] = []
    wrong = list(outcome.wrong)
    for start in outcome.good:
        variant = told(start)["variant"]
        kind = told(start).get("restore", told(start)["kind"])
        if variant != facts["variant"]:
            wrong.append(Wrong(0, f"the variant {variant} ran, not {facts['variant']}"))
        elif kind != wanted:
            why = told(start).get("not_restored")
            wrong.append(Wrong(0, f"the start was {kind}, not {wanted}{f': {why}' if why else ''}"))
        else:
            good.append(start)
    return good, wrong


def _figures(good: Sequence[Start]) -> dict[str, Any]:
    told = [(start, _bars(start)) for start in good]
    durations = [spans.durations_ms(found, start.end_ns - start.begin_ns) for start, found in told]
    names = sorted(
        {name for found in durations for name in found},
        key=lambda name: (name == spans.UNACCOUNTED, _median_begin(name, [found for _, found in told])),
    )
    phases = {name: summary([found.get(name, 0.0) for found in durations]) for name in names}
    totals = [start.total_ms for start in good]
    uncovered = [found[spans.UNACCOUNTED] / total for found, total in zip(durations, totals, strict=True)]
    sizes = [start.pss_mib for start in good if start.pss_mib is not None]
    middle = sorted(told, key=lambda pair: pair[0].total_ms)[(len(told) - 1) // 2]
    return {
        "total_ms": summary(totals),
        "phases": phases,
        "coverage": round(1 - max(uncovered), 4),
        "pss_mib": round(median(sizes), 1) if sizes else None,
        "typical": _waterfall(*middle),
    }


def _bars(start: Start) -> list[Bar]:
    return spans.bars(told(start), start.begin_ns, start.end_ns)


def _median_begin(name: str, found: Sequence[list[Bar]]) -> float:
    begins = [min(bar.begin for bar in bars if bar.phase == name) for bars in found if _has(name, bars)]
    return median(begins) if begins else 0.0


def _has(name: str, bars: list[Bar]) -> bool:
    return any(bar.phase == name for bar in bars)


def _waterfall(start: Start, found: list[Bar]) -> dict[str, Any]:
    """One start in the shape of a /coldstart report, from spawn to answer, for waterfall.svg."""
    return {
        **told(start),
        "origin_ns": start.begin_ns,
        "resolution_ms": 0,
        "total_ms": round(start.total_ms, 3),
        "phases": [
            {
                "phase": bar.phase,
                "start_ms": round(bar.begin / 1e6, 3),
                "duration_ms": round((bar.end - bar.begin) / 1e6, 3),
                "attributes": dict(bar.attributes),
            }
            for bar in found
        ],
    }
