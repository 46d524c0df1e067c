"""What the server adds to a request: a warm server over one connection, and the same work done bare.

Bare is the tokenizer and ``session.run`` in this process, as the floor does it, on the variant that the
server opened and with as many threads. Blocks of both take turns; within a block the caches stay warm for
whoever runs.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from preheat.errors import EngineError
from preheat.measure import floor, target
from preheat.measure.client import connect, free_port, read_response, request
from preheat.measure.run import Progress
from preheat.measure.start import START_S, ask_for_phases, stop

from .figures import Benchmark, Claim, Line
from .models import server_environ

BLOCK = 50
"""Requests in a block; a round has one of each kind."""
LIMIT_MS = 1.0


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    port = free_port()
    process = subprocess.Popen(  # noqa: S603 - the server itself
        server.command,
        env={**server.environ, "PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + START_S
        connect(port, deadline=deadline, alive=lambda: process.poll() is None).close()
        return _measure(subject, port, turns, progress)
    finally:
        stop(process)


def _measure(subject: target.Target, port: int, turns: int, progress: Progress) -> Benchmark:
    facts = ask_for_phases(port)
    assert subject.manifest.sample is not None  # noqa: S101 - text embedding has one
    asked = subject.manifest.sample["request"]
    deadline = time.monotonic() + 600
    with connect(port, deadline=deadline, alive=lambda: True) as client:

        def over(path: str, body: dict[str, object]) -> Callable[[], None]:
            headers = {"content-type": "application/json"}
            whole = request("POST", path, json.dumps(body).encode(), headers, keep=True)

            def send() -> None:
                client.sendall(whole)
                response = read_response(client, deadline=deadline)
                if response.status != 200:
                    raise EngineError(f"{path} answered {response.status}: {response.body[:200]!r}")

            return send

        work = {
            "bare tokenizer and session.run": _bare(subject, facts["variant"], facts["threads"]),
            "POST /predict": over("/predict", asked),
            "POST /v1/embeddings": over("/v1/embeddings", {**asked, "model": subject.manifest.name}),
        }
        taken: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(-1, turns):  # one round before the first, which is not counted
            for index, (name, once) in enumerate(work.items()):
                progress(name, max(turn, 0) * len(work) + index, turns * len(work))
                block = _block(once)
                if turn >= 0:
                    taken[name] += block
    lines = [Line(name, values) for name, values in taken.items()]
    bare, *served = lines
    return Benchmark(
        f"One request to a warm server, variant {facts['variant']}, over one keep-alive connection",
        lines,
        [
            Claim(f"{line.name} over bare, at the median", line.median - bare.median, LIMIT_MS, True, "ms")
            for line in served
        ],
    )


def _bare(subject: target.Target, variant: str, threads: int) -> Callable[[], None]:
    plan = target.floor_plan(subject, variant, threads, ())
    session, encode = floor.open_session(plan), floor.encoder(plan["text"])
    assert subject.manifest.sample is not None  # noqa: S101 - text embedding has one
    text, outputs = subject.manifest.sample["request"]["input"], plan["outputs"]

    def once() -> None:
        session.run(outputs, encode(text))

    return once


def _block(once: Callable[[], None]) -> list[float]:
    taken = []
    for _ in range(BLOCK):
        begin = time.perf_counter()
        once()
        taken.append((time.perf_counter() - begin) * 1e3)
    return taken
