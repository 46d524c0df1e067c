"""Ten times what the server can do: goodput, the queue's bound, classes, deadlines, and a quiet tenant.

The server has half of the CPUs and the clients the other half, each client process an open loop (Poisson)
over raw sockets, so that what the clients cost is in no figure. The peak is a closed loop's, before and after
each round of the flood. The quiet tenant is alone and beside the others in turns; its p99 is that of a round,
and its figure is a ratio of their medians.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from preheat.measure.run import Progress
from preheat.measure.summary import median

from . import load, tenants
from .figures import Benchmark, Claim, Line
from .models import OUT
from .serving import Counted, counted, sample

TIMES = 10
"""Load over capacity."""
MORE = 1.05
"""As much more is sent: the peak may be higher after a round than it was before."""
SECONDS = 20.0
"""Of overload, and of a quiet tenant alone and beside others, for each round."""
CONNECTIONS = 256
SLACK_MS = 100.0
"""Between a client's clock and the server's: the way of the bytes, and the client's own turn at its CPU."""
NEIGHBOUR = 1
"""Connections of a neighbour that floods nothing: what two tenants cost each other on this machine."""
QUEUE = 64


class Seen(NamedTuple):
    """One round of the flood."""

    peak: float
    """Good answers a second to a closed loop; the mean of before and after."""
    flood: load.Load
    differs: int
    """Requests that client and server have in different classes."""
    deepest: int
    """The most requests that waited or ran at once, as the server saw it."""


class Quiet(NamedTuple):
    """What the quiet tenant saw, a load for each round."""

    alone: list[load.Load]
    neighbour: list[load.Load]
    """Beside a tenant that sends one request at a time."""
    flood: list[load.Load]


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    ours, theirs = tenants.halves()
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overload-", dir=OUT) as folder:
        settings = {"PREHEAT_QUEUE": str(QUEUE), "PREHEAT_API_KEYS": str(tenants.keys(Path(folder)))}
        with counted(artifact, Path(folder), cpus=ours, key=tenants.OTHER, **settings) as server:
            request = sample(artifact)
            progress("peak", 0, 1 + 2 * turns)
            tenants.peak(server, request, theirs)  # the first is lower, on most machines
            before = tenants.peak(server, request, theirs)
            floods: list[Seen] = []
            for turn in range(turns):
                progress(f"{TIMES} times as much", 1 + turn, 1 + 2 * turns)
                seen = _flooded(server, request, theirs, before)
                after = tenants.peak(server, request, theirs)
                floods.append(seen._replace(peak=(before + after) / 2))
                before = after
            one = [load.post("/predict", request, tenants.headers(tenants.OTHER))]
            quiet = Quiet([], [], [])
            for turn in range(turns):
                progress("a quiet tenant, alone and beside others", 1 + turns + turn, 1 + 2 * turns)
                plan = partial(tenants.quiet, server, request, theirs, SECONDS, before, 1000 + turn)
                quiet.alone.append(load.run(plan())[0])
                closed = tenants.closed(server, one, theirs, SECONDS, NEIGHBOUR)
                quiet.neighbour.append(load.run(plan(), closed)[0])
                flood = _flood(server, request, theirs, before)
                quiet.flood.append(load.run(plan(), *flood)[0])
    return _told(artifact, floods, quiet)


def _told(artifact: Path, floods: list[Seen], quiet: Quiet) -> Benchmark:
    flood = load.together(seen.flood for seen in floods)
    late = [ms for ms in flood.latencies() if ms > tenants.DEADLINE_S * 1e3 + SLACK_MS]
    known = {load.OK, "shed", "timed_out"}
    odd = sum(count for outcome, count in flood.counts.items() if outcome not in known)
    bad = sum(len(one.seen) - one.counts.get(load.OK, 0) for one in quiet.flood)
    sent = [len(seen.flood.seen) / seen.flood.seconds for seen in floods]
    more = [one / seen.peak for one, seen in zip(sent, floods, strict=True)]
    good = [seen.flood.goodput / seen.peak for seen in floods]
    alone = Line("quiet tenant's p99, alone", tenants.p99s(quiet.alone))
    beside = Line("quiet tenant's p99, beside the flood", tenants.p99s(quiet.flood))
    lines = [
        alone,
        Line("quiet tenant's p99, beside one that sends one at a time", tenants.p99s(quiet.neighbour)),
        beside,
        Line("quiet tenant, alone", load.together(quiet.alone).latencies()),
        Line("quiet tenant, beside the flood", load.together(quiet.flood).latencies()),
        Line("flood, answered", flood.latencies()),
        Line("flood, shed", flood.latencies("shed")),
    ]
    return Benchmark(
        f"{artifact.parent.name}: {median(sent):.0f} requests a second, {len(floods)} times for "
        f"{SECONDS:.0f} s, on a server that answers {median([seen.peak for seen in floods]):.0f}",
        lines,
        [
            Claim(f"load / capacity, {_between(more)}", median(more), TIMES, at_most=False),
            Claim(f"goodput / peak, {_between(good)}", median(good), 0.9, at_most=False),
            Claim(
                "most that waited or ran",
                max(seen.deepest for seen in floods),
                QUEUE + len(os.sched_getaffinity(0)),
                True,
                "requests",
            ),
            Claim(
                "in no class, or in another than the server's",
                odd + sum(seen.differs for seen in floods),
                0,
                True,
                "requests",
            ),
            Claim("answered after their deadline", len(late), 0, True, "requests"),
            Claim("quiet tenant's p99, beside the flood / alone", beside.median / alone.median, 1.5, True),
            Claim("quiet tenant's requests without an answer", bad, 0, True, "requests"),
        ],
    )


def _between(rounds: Sequence[float]) -> str:
    return f"median of {min(rounds):.3f} to {max(rounds):.3f}"


def _flood(server: Counted, request: object, cpus: Sequence[int], peak: float) -> list[load.Plan]:
    begin, rate = time.monotonic() + 0.5, TIMES * MORE * peak
    body = [load.post("/predict", request, tenants.headers(tenants.OTHER))]
    return [
        load.Plan(
            server.port,
            body,
            begin,
            begin + SECONDS,
            CONNECTIONS // len(cpus),
            rate=rate / len(cpus),
            cpus=[cpu],
            seed=cpu,
        )
        for cpu in cpus
    ]


def _flooded(server: Counted, request: object, cpus: Sequence[int], peak: float) -> Seen:
    before = server.outcomes()
    flood = load.together(load.run(*_flood(server, request, cpus, peak)))
    after = server.outcomes()
    theirs = flood.counts
    names = {*after, *theirs} - {load.UNSENT, "most"}
    differs = sum(abs(after.get(n, 0) - before.get(n, 0) - theirs.get(n, 0)) for n in names)
    sent = [one for one in flood.seen if one.outcome != load.UNSENT]
    return Seen(peak, flood._replace(seen=sent), differs, after["most"])
