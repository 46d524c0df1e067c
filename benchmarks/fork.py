"""An instance by fork, and by CRIU where that works: from the request to its answer; and what ten of them
hold.

A clone's time begins when the request is written to a socket that nobody reads yet; a restore's and a fresh
process's at its spawn. The floor is that of a fresh start.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

from preheat.measure import rounds, target
from preheat.measure.client import HOST, read_response
from preheat.measure.restored import restoring, template_of
from preheat.measure.run import Progress, told
from preheat.measure.start import Contender, pss_mib

from . import floors
from .figures import Benchmark, Claim, Line
from .models import server_environ
from .up import by_criu

INSTANCES = 10
SETTLED_S = 0.5
"""Seconds after which a clone has proved its session."""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    with contextlib.ExitStack() as stack:
        floor = stack.enter_context(floors.under(subject, server))
        contenders = [floor, server, stack.enter_context(restoring(server, "fork"))]
        names = [floor.label, "fresh", "by fork"]
        for kind in by_criu(progress):
            contenders.append(stack.enter_context(restoring(server, kind)))
            names.append("by CRIU")
        outcomes = rounds.run(contenders, turns, progress=progress)
    lines = [Line(name, [s.total_ms for s in o.good]) for name, o in zip(names, outcomes, strict=True)]
    claims = [Claim("an instance by fork / floor", lines[2].median / lines[0].median, 0.12, at_most=True)]
    if len(lines) > 3:
        claims.append(
            Claim("an instance by CRIU / floor", lines[3].median / lines[0].median, 0.4, at_most=True)
        )
        restored = [told(start).get("restore") for start in outcomes[3].good]
        outcomes[3].wrong.extend(rounds.Wrong(0, "started fresh") for kind in restored if kind != "criu")
    return Benchmark(
        f"Instances of {subject.manifest.name} by fork: the request to its first correct answer",
        lines,
        [*claims, *_memory(server)],
        sum(len(outcome.wrong) for outcome in outcomes),
    )


def _memory(server: Contender) -> list[Claim]:
    """What the tenth clone holds when ten have answered, by what the first one held beside the template
    alone, and by what the template held before there was any: a process that has the model to itself."""
    with contextlib.ExitStack() as stack:
        template = stack.enter_context(template_of(server))
        alone = pss_mib(template.pid)
        held = []
        for _ in range(INSTANCES):
            listener = stack.enter_context(socket.create_server((HOST, 0)))
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            client.sendall(server.request)
            clone = template.clone(listener)
            read_response(client, deadline=time.monotonic() + 30)
            time.sleep(SETTLED_S)
            held.append(pss_mib(clone.pid))
    first, tenth = held[0], held[-1]
    assert alone is not None  # noqa: S101 - where /proc tells of one process, it tells of all
    assert first is not None  # noqa: S101
    assert tenth is not None  # noqa: S101
    sizes = f"{tenth:.1f} MiB (PSS)"
    return [
        Claim(
            f"the tenth instance, {sizes}, / a process alone, {alone:.1f}", tenth / alone, 0.25, at_most=True
        ),
        Claim(
            f"the tenth instance, {sizes}, / the first clone, {first:.1f}", tenth / first, 0.25, at_most=True
        ),
    ]
