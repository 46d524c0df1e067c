"""AWS Lambda under its own emulator: start to the first correct answer, a plain handler's too; and a restore.

Both functions are started by the Runtime Interface Emulator and awslambdaric, once a round each; after the
rounds of starts, as many clones of a rehearsed snapshot answer once each.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from preheat.measure import rounds, target
from preheat.measure.lambda_runtime import command, contender, find_rie, lambda_environ
from preheat.measure.run import Progress
from preheat.measure.start import Contender
from preheat.rehearse.run import rehearse

from .figures import Benchmark, Claim, Line
from .models import ROOT, server_environ

PEER = Path(__file__).with_name("peers") / "mangum_onnxruntime.py"
OURS = ("onnxruntime", "numpy", "tokenizers", "httptools")
THEIRS = (
    "onnxruntime",
    "numpy",
    "tokenizers",
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_core",
    "anyio",
    "mangum",
)
SDK = ("boto3", "botocore", "s3transfer", "python-dateutil", "urllib3", "jmespath")


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    environ = server_environ()
    rie = find_rie("", environ)
    app = str(ROOT / "functions" / "embed" / "app.py")
    environ = {**environ, "PREHEAT_ARTIFACT": str(artifact)}
    subject = target.find(app, environ)
    ours = contender(subject, rie)
    plain = peer(subject, ours, rie)
    for one in (ours, plain):
        rounds.rehearse(one)
    outcomes = rounds.run([ours, plain], turns, progress=progress)
    restored = rehearse(app, environ, clones=max(turns, 2), progress=progress)
    lines = [
        Line("preheat", [start.total_ms for start in outcomes[0].good]),
        Line("Mangum + FastAPI + boto3 + onnxruntime", [start.total_ms for start in outcomes[1].good]),
        Line("preheat, restored (rehearsed)", restored["samples"]),
    ]
    started, usual, again = (line.median for line in lines)
    sizes = {"preheat": _mib(OURS), "the plain handler": _mib((*THEIRS, *SDK))}
    told = ", ".join(f"{name} {size:.0f} MiB" for name, size in sizes.items())
    return Benchmark(
        f"{subject.manifest.name} on Lambda: start to the first correct answer (packages: {told})",
        lines,
        [
            Claim("plain handler / preheat", usual / started, 2.5, at_most=False),
            Claim("plain handler / preheat restored", usual / again, 10.0, at_most=False),
        ],
        sum(len(outcome.wrong) for outcome in outcomes) + len(restored["findings"]),
    )


def peer(subject: target.Target, ours: Contender, rie: str) -> Contender:
    """The plain handler under the emulator, asked what ours is asked, held against the same answer."""
    portable = subject.manifest.variant("portable")
    assert portable is not None  # noqa: S101 - every artifact has it
    environ = {
        **target.with_bytecode(server_environ()),
        "MODEL": subject.path(portable.model),
        "TOKENIZER": subject.path(subject.manifest.assets["tokenizer"]),
    }
    return ours._replace(
        label="Mangum + FastAPI + boto3 + onnxruntime",
        command=command(rie, str(PEER)),
        environ=lambda_environ(environ, str(PEER)),
        phases=b"",
    )


def _mib(packages: tuple[str, ...]) -> float:
    """What packages take unpacked, in MiB; those that are not installed nothing."""
    total = 0
    for name in packages:
        try:
            files = distribution(name).files or ()
        except PackageNotFoundError:
            continue
        paths = (str(file.locate()) for file in files)
        total += sum(
            os.path.getsize(path) for path in paths if os.path.isfile(path) and not path.endswith(".pyc")
        )
    return total / 1024**2
