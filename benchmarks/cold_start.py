"""Process start to the first correct answer over HTTP: Preheat, the floor under it, plain FastAPI."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from preheat.measure import imported, rounds, target
from preheat.measure.run import Progress, told
from preheat.measure.start import PORT, Contender

from .figures import Benchmark, Claim, Line
from .models import server_environ

PEERS = Path(__file__).with_name("peers")


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    peer = fastapi(subject, server)
    first, _ = told(rounds.rehearse(server)), rounds.rehearse(peer)
    known = imported.ask(subject.location, target.with_bytecode(subject.environ))
    with tempfile.TemporaryDirectory(prefix="preheat-floor-") as folder:
        floor = target.floor(subject, first["variant"], first["threads"], known.libraries, folder)
        outcomes = rounds.run([floor, server, peer], turns, progress=progress)
    names = (f"floor ({first['variant']})", "preheat", "FastAPI + onnxruntime")
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
