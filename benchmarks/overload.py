"""Ten times what the server can do: goodput, the queue's bound, classes, deadlines, and a quiet tenant.

The server has half of the CPUs and the clients the other half, each client process an open loop (Poisson)
over raw sockets, so that what the clients cost is in no figure. The peak is a closed loop's.
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

from . import load, tenants
from .figures import Benchmark, Claim, Line
from .models import OUT
from .serving import Counted, counted, sample

TIMES = 10
"""Load over capacity."""
SECONDS = 10.0
"""Of overload, for each round."""
CONNECTIONS = 256
SLACK_MS = 100.0
"""Between a client's clock and the server's: the way of the bytes, and the client's own turn at its CPU."""
NEIGHBOUR = 1
"""Connections of a neighbour that floods nothing: what two tenants cost each other on this machine."""
QUEUE = 64


class Seen(NamedTuple):
    peak: float
    """Good answers a second to a closed loop; the mean of before and after."""
    flood: load.Load
    differs: int
    """Requests that client and server have in different classes."""
    deepest: int
    """The most requests that waited or ran at once, as the server saw it."""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    ours, theirs = tenants.halves()
    seconds = SECONDS * turns
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="overload-", dir=OUT) as folder:
        settings = {"PREHEAT_QUEUE": str(QUEUE), "PREHEAT_API_KEYS": str(tenants.keys(Path(folder)))}
        with counted(artifact, Path(folder), cpus=ours, key=tenants.OTHER, **settings) as server:
            request = sample(artifact)
            progress("peak", 0, 5)
            before = tenants.peak(server, request, theirs)
            progress(f"{TIMES} times as much, {seconds:.0f} s", 1, 5)
            seen = _flooded(server, request, theirs, seconds, before)
            seen = seen._replace(peak=(before + tenants.peak(server, request, theirs)) / 2)
            progress("a quiet tenant, alone", 2, 5)
            quiet = partial(tenants.quiet, server, request, theirs, seconds, seen.peak)
            solo = load.run(quiet())[0]
            progress("beside one that sends one at a time", 3, 5)
            one = [load.post("/predict", request, tenants.headers(tenants.OTHER))]
            neighbour = load.run(quiet(), tenants.closed(server, one, theirs, seconds, NEIGHBOUR))[0]
            progress("and beside a flood", 4, 5)
            plans = _flood(server, request, theirs, seconds, TIMES * seen.peak)
            beside = load.run(quiet(), *plans)[0]
    return _told(artifact, seen, solo, neighbour, beside, seconds)


def _told(
    artifact: Path, seen: Seen, solo: load.Load, neighbour: load.Load, beside: load.Load, seconds: float
) -> Benchmark:
    late = [ms for ms in seen.flood.latencies() if ms > tenants.DEADLINE_S * 1e3 + SLACK_MS]
    known = {load.OK, "shed", "timed_out"}
    odd = sum(count for outcome, count in seen.flood.counts.items() if outcome not in known)
    bad = sum(count for outcome, count in beside.counts.items() if outcome != load.OK)
    sent = len(seen.flood.seen) / seen.flood.seconds
    lines = [
        Line("quiet tenant, alone", solo.latencies()),
        Line("quiet tenant, beside one that sends one at a time", neighbour.latencies()),
        Line("quiet tenant, beside the flood", beside.latencies()),
        Line("flood, answered", seen.flood.latencies()),
        Line("flood, shed", seen.flood.latencies("shed")),
    ]
    return Benchmark(
        f"{artifact.parent.name}: {sent:.0f} requests a second for {seconds:.0f} s on a server that answers "
        f"{seen.peak:.0f}",
        lines,
        [
            Claim("load / capacity", sent / seen.peak, TIMES * 0.9, at_most=False),
            Claim("goodput / peak", seen.flood.goodput / seen.peak, 0.9, at_most=False),
            Claim(
                "most that waited or ran",
                seen.deepest,
                QUEUE + len(os.sched_getaffinity(0)),
                True,
                "requests",
            ),
            Claim("in no class, or in another than the server's", odd + seen.differs, 0, True, "requests"),
            Claim("answered after their deadline", len(late), 0, True, "requests"),
            Claim(
                "quiet tenant's p99, beside / alone", beside.percentile(99) / solo.percentile(99), 1.5, True
            ),
            Claim("quiet tenant's requests without an answer", bad, 0, True, "requests"),
        ],
    )


def _flood(
    server: Counted, request: object, cpus: Sequence[int], seconds: float, rate: float
) -> list[load.Plan]:
    begin = time.monotonic() + 0.5
    body = [load.post("/predict", request, tenants.headers(tenants.OTHER))]
    return [
        load.Plan(
            server.port,
            body,
            begin,
            begin + seconds,
            CONNECTIONS // len(cpus),
            rate=rate / len(cpus),
            cpus=[cpu],
            seed=cpu,
        )
        for cpu in cpus
    ]


def _flooded(server: Counted, request: object, cpus: Sequence[int], seconds: float, peak: float) -> Seen:
    before = server.outcomes()
    flood = load.together(load.run(*_flood(server, request, cpus, seconds, TIMES * peak)))
    after = server.outcomes()
    theirs = flood.counts
    names = {*after, *theirs} - {load.UNSENT, "most"}
    differs = sum(abs(after.get(n, 0) - before.get(n, 0) - theirs.get(n, 0)) for n in names)
    sent = [one for one in flood.seen if one.outcome != load.UNSENT]
    return Seen(peak, flood._replace(seen=sent), differs, after["most"])
