"""Requests run together against requests run alone: sixteen at once, in fresh servers that take turns."""

from __future__ import annotations

import time
from pathlib import Path

from preheat.measure.run import Progress

from . import load
from .figures import Benchmark, Claim, Line
from .serving import sample, serving

AT_ONCE = 16
SECONDS = 4.0
KINDS = {"joined": "-1", "each alone": "0"}
"""By name, PREHEAT_BATCH_MS."""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    loads: dict[str, list[load.Load]] = {name: [] for name in KINDS}
    body = [load.post("/predict", sample(artifact))]
    for turn in range(turns):
        for index, (name, window) in enumerate(KINDS.items()):
            progress(name, turn * len(KINDS) + index, turns * len(KINDS))
            with serving(artifact, PREHEAT_BATCH_MS=window) as server:
                for seconds in (1.0, SECONDS):  # the first is not counted
                    begin = time.monotonic() + 0.5
                    plan = load.Plan(server.port, body, begin, begin + seconds, AT_ONCE)
                    (found,) = load.run(plan)
                loads[name].append(found)
    joined, alone = ([found.goodput for found in loads[name]] for name in KINDS)
    tails = {
        name: Line(f"{name}, p99", [one.percentile(99) for one in found]) for name, found in loads.items()
    }
    wrong = sum(
        count for found in loads.values() for one in found for o, count in one.counts.items() if o != "ok"
    )
    ratio = Line("", [j / a for j, a in zip(joined, alone, strict=True)]).median
    return Benchmark(
        f"{artifact.parent.name}, {AT_ONCE} connections, answers a second: joined {min(joined):.0f} to "
        f"{max(joined):.0f}, alone {min(alone):.0f} to {max(alone):.0f}",
        [
            *(
                Line(f"{name}, one answer", [1e3 / one.goodput for one in found])
                for name, found in loads.items()
            ),
            *tails.values(),
        ],
        [
            Claim("answers a second, joined / alone, at the median", ratio, 1.3, at_most=False),
            Claim(
                "p99, joined / alone", tails["joined"].median / tails["each alone"].median, 1.0, at_most=True
            ),
            Claim("requests that were not answered", wrong, 0, at_most=True, unit="requests"),
        ],
    )
