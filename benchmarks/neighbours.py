"""A quiet tenant beside one that sends giant requests, or nothing but what is refused.

One server has half of the CPUs, the clients the other half. In each round the quiet tenant sends alone and
beside each of the others, at the same moments of a Poisson process. Its p99 is that of a round, and
figures are ratios of their medians.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from preheat import manifest as manifests
from preheat.measure.run import Progress

from . import load, tenants
from .figures import Benchmark, Claim, Line
from .models import OUT
from .serving import sample, serving

SECONDS = 20.0
"""Of each kind in each round."""
ALONE_EACH = 4
"""Kinds between two times alone."""
PATIENCE_S = 60.0
"""Deadline of a giant request."""
TEXTS, WORDS = 32, 280
"""Of a giant request: the words are more than the model reads of a text."""
REFUSED = "rejected"


class Kind(NamedTuple):
    name: str
    requests: Sequence[str]
    connections: int
    """In a closed loop."""
    outcome: str = load.OK
    """What its requests come to."""


def kinds(artifact: Path) -> list[Kind]:
    """What the other tenant sends, to a model of texts."""
    limits = manifests.load((artifact / manifests.FILENAME).read_bytes()).limits
    text = "warm " * WORDS
    numbers = [[0.5] * 1000] * (limits.bytes // 6000)

    def sent(value: object) -> list[str]:
        return [load.post("/predict", value, tenants.headers(tenants.OTHER, PATIENCE_S))]

    no_json = [one.replace("octet-stream", "json") for one in sent(b'{"input": "warm')]
    return [
        Kind("one giant request after another", sent({"input": [text] * TEXTS}), 1),
        Kind("four giant ones at once", sent({"input": [text] * TEXTS}), 4),
        Kind("the largest that there may be", sent({"input": [text] * limits.batch}), 1),
        Kind("sixteen long texts at once", sent({"input": text}), 16),
        Kind("the largest body that there may be", sent({"input": "warm " * (limits.bytes // 5 - 9)}), 1),
        Kind("two at once, refused for its numbers", sent({"input": numbers}), 2, REFUSED),
        Kind("sixteen at once that are no JSON", no_json, 16, REFUSED),
        Kind("sixteen at once that the task refuses", sent({"input": [10**9]}), 16, REFUSED),
    ]


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    ours, theirs = tenants.halves()
    others, request = kinds(artifact), sample(artifact)
    alone: list[load.Load] = []
    beside: dict[str, list[load.Load]] = {kind.name: [] for kind in others}
    odd = 0
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="neighbours-", dir=OUT) as folder:
        settings = {"PREHEAT_API_KEYS": str(tenants.keys(Path(folder)))}
        with serving(artifact, cpus=ours, key=tenants.QUIET, **settings) as server:
            peak = tenants.peak(server, request, theirs)
            for turn in range(turns):
                for index, kind in enumerate(others):
                    if index % ALONE_EACH == 0:
                        progress("alone", turn * len(others) + index, turns * len(others))
                        alone += load.run(tenants.quiet(server, request, theirs, SECONDS, peak, turn))
                    progress(kind.name, turn * len(others) + index, turns * len(others))
                    other = tenants.closed(server, kind.requests, theirs, SECONDS, kind.connections)
                    quiet, sent = load.run(
                        tenants.quiet(server, request, theirs, SECONDS, peak, turn),
                        other._replace(grace_s=PATIENCE_S),
                    )
                    beside[kind.name].append(quiet)
                    odd += len(sent.seen) - sent.counts.get(kind.outcome, 0)
    title = f"{artifact.parent.name}: a quiet tenant, {tenants.QUIET_SHARE * peak:.0f} requests a second"
    return _told(title, alone, beside, odd)


def _told(title: str, alone: list[load.Load], beside: dict[str, list[load.Load]], odd: int) -> Benchmark:
    bad = sum(
        len(one.seen) - one.counts.get(load.OK, 0) for rounds in (alone, *beside.values()) for one in rounds
    )
    base = Line("p99, alone", tenants.p99s(alone))
    lines = [Line(f"p99, beside {name}", tenants.p99s(rounds)) for name, rounds in beside.items()]
    return Benchmark(
        title,
        [
            base,
            *lines,
            Line("all, alone", load.together(alone).latencies()),
            *(
                Line(f"all, beside {name}", load.together(rounds).latencies())
                for name, rounds in beside.items()
            ),
        ],
        [
            *(Claim(f"{line.name} / alone", line.median / base.median, 1.5, True) for line in lines),
            Claim("quiet tenant's requests without an answer", bad, 0, True, "requests"),
            Claim("others' that came to something else than is meant", odd, 0, True, "requests"),
        ],
    )
