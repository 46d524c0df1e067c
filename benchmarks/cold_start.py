"""Process start to the first correct answer over HTTP: Preheat, the floor under it, plain FastAPI."""

from __future__ import annotations

import sys
from pathlib import Path

from preheat.measure import rounds, target
from preheat.measure.run import Progress
from preheat.measure.start import PORT, Contender

from . import floors
from .figures import Benchmark, Claim, Line
from .models import server_environ

PEERS = Path(__file__).with_name("peers")


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    peer = fastapi(subject, server)
    rounds.rehearse(peer)
    with floors.under(subject, server) as floor:
        outcomes = rounds.run([floor, server, peer], turns, progress=progress)
    names = (floor.label, "preheat", "FastAPI + onnxruntime")
    lines = [Line(name, [s.total_ms for s in o.good]) for name, o in zip(names, outcomes, strict=True)]
    under, ours, plain = (line.median for line in lines)
    return Benchmark(
        f"Cold start of {subject.manifest.name}: spawn to the first correct answer over HTTP",
        lines,
        [
            Claim("preheat / floor", ours / under, 1.12, at_most=True),
            Claim("FastAPI + onnxruntime / preheat", plain / ours, 2.0, at_most=False),
        ],
        sum(len(outcome.wrong) for outcome in outcomes),
    )


def fastapi(subject: target.Target, server: Contender) -> Contender:
    """uvicorn and the exported model, asked what the server is asked, held against the same answer."""
    portable = subject.manifest.variant("portable")
    assert portable is not None  # noqa: S101 - every artifact has it
    serve = ("-m", "uvicorn", "--app-dir", str(PEERS), "fastapi_onnxruntime:app")
    return Contender(
        "FastAPI + onnxruntime",
        (sys.executable, *serve, "--host", "127.0.0.1", "--port", PORT),
        {
            **target.with_bytecode(server_environ()),
            "MODEL": subject.path(portable.model),
            "TOKENIZER": subject.path(subject.manifest.assets["tokenizer"]),
        },
        server.request,
        server.check,
    )
