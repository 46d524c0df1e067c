"""Two sessions for a large model: the first answer of the one that opens soonest, then the steady latency of
the one that took over, each beside a server that opens the latter alone."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from preheat.errors import EngineError
from preheat.measure import rounds, target
from preheat.measure.client import connect, free_port, read_response
from preheat.measure.run import Progress, told
from preheat.measure.start import START_S, Contender, ask_for_phases, spawn, stop

from .figures import Benchmark, Claim, Line
from .models import server_environ

PAIRS = 40
"""Requests to each of both servers in a round, in turns, once a session has taken over."""
SOONER, AS_FAST = 0.7, 1.03


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    with tempfile.TemporaryDirectory(prefix="preheat-tiered-") as cache:
        environ = {**server_environ(), "PREHEAT_CACHE": cache}
        tiered = target.server(target.find(str(artifact), {**environ, "PREHEAT_TIERED": "on"}))
        first = told(rounds.rehearse(tiered))
        if "takeover" not in first:
            raise EngineError(f"{artifact}: no variant opens sooner than the one that runs fastest")
        names = (first["variant"], first["takeover"]["variant"])
        subject = target.find(str(artifact), {**environ, "PREHEAT_TIERED": "off"})
        alone = [target.server(subject, name) for name in names]
        for contender in alone:
            rounds.rehearse(contender)
        answered: list[list[float]] = [[], [], []]
        steady: list[list[float]] = [[], []]
        for turn in range(turns):
            with contextlib.ExitStack() as running:
                ports = [0, 0, 0]
                contenders = [tiered, alone[1], alone[0]]
                for offset in range(3):
                    index = (turn + offset) % 3
                    progress(contenders[index].label, 3 * turn + offset, 3 * turns)
                    time.sleep(0.05)
                    ports[index], taken = running.enter_context(_started(contenders[index]))
                    answered[index].append(taken)
                    if index == 0:
                        _taken_over(ports[0])
                for block, found in zip(steady, _in_turns(ports[:2], tiered.request), strict=True):
                    block += found
    both = f"{names[0]}, then {names[1]}"
    lines = [
        *(Line(f"first answer: {n}", v) for n, v in zip((both, names[1], names[0]), answered, strict=True)),
        *(Line(f"steady: {n}", v) for n, v in zip((both, names[1]), steady, strict=True)),
    ]
    size = sum(f.size for f in subject.manifest.files if f.path.startswith("variants/portable/")) / 1e6
    return Benchmark(
        f"{subject.manifest.name} ({size:.0f} MB): one session answers first, another takes over",
        lines,
        [
            Claim("first answer, from spawn", lines[0].median / lines[1].median, SOONER, at_most=True),
            Claim("steady, once taken over", lines[3].median / lines[4].median, AS_FAST, at_most=True),
        ],
    )


@contextlib.contextmanager
def _started(contender: Contender) -> Iterator[tuple[int, float]]:
    """A server, its port, and milliseconds from its spawn to its first answer. Raises EngineError for a wrong
    one."""
    port = free_port()
    with tempfile.TemporaryFile() as printed:
        begin = time.perf_counter_ns()
        process = spawn(contender, port, printed)
        try:
            deadline = time.monotonic() + START_S
            with connect(port, deadline=deadline, alive=lambda: process.poll() is None) as client:
                client.sendall(contender.request)
                response = read_response(client, deadline=deadline)
            taken = (time.perf_counter_ns() - begin) / 1e6
            problem = contender.check(response)
            if problem is not None:
                raise EngineError(f"{contender.label}: {problem}")
            yield port, taken
        finally:
            stop(process)


def _taken_over(port: int) -> None:
    """Wait until another session answers. Raises EngineError where none does."""
    deadline = time.monotonic() + START_S
    while (found := ask_for_phases(port)["takeover"])["state"] != "done":
        if found["state"] == "failed" or time.monotonic() > deadline:
            raise EngineError(f"no session took over: {json.dumps(found)}")
        time.sleep(0.05)


def _in_turns(ports: list[int], whole: bytes) -> list[list[float]]:
    """Milliseconds of requests to several servers, one at a time."""
    found: list[list[float]] = [[] for _ in ports]
    kept = whole.replace(b"connection: close", b"connection: keep-alive", 1)
    deadline = time.monotonic() + START_S
    with contextlib.ExitStack() as opened:
        clients: list[socket.socket] = [
            opened.enter_context(connect(port, deadline=deadline, alive=lambda: True)) for port in ports
        ]
        for pair in range(-3, PAIRS):  # three before the first, which are not counted
            for client, values in zip(clients, found, strict=True):
                begin = time.perf_counter_ns()
                client.sendall(kept)
                if read_response(client, deadline=deadline).status != 200:
                    raise EngineError("a warm server gave no answer")
                if pair >= 0:
                    values.append((time.perf_counter_ns() - begin) / 1e6)
    return found
