"""Ten minutes of Poisson arrivals with idle gaps against `preheat up`, a run for each kind of start.

``loadtests/scenarios/poisson-idle.toml`` with the artifact's own sample as its request; the report of all
runs goes to ``out/bench/poisson.html``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from preheat import output
from preheat.errors import EngineError
from preheat.load import cost, figures, runs
from preheat.load.generator import folder as loadtests
from preheat.load.page import page
from preheat.measure import target
from preheat.measure.run import Progress

from .figures import Benchmark, Claim, Line
from .models import OUT, server_environ
from .up import KINDS, started

SHRUNK = ("--stable-window", "20", "--grace", "10")
"""So that the scenario's gaps of 90 s end at zero."""
PRICED = cost.Lambda(1769, "x86_64", "us-east-1")
ADDED_MS = 5.0
"""What the generator itself may add at the median."""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    path, body, headers, _ = target.conversation(subject)
    OUT.mkdir(parents=True, exist_ok=True)
    found: list[runs.Run] = []
    with tempfile.TemporaryDirectory(prefix="poisson-", dir=OUT) as folder:
        scenario = _scenario(Path(folder), path, body, headers)
        for index, (kind, turn) in enumerate((kind, turn) for turn in range(turns) for kind in KINDS):
            progress(kind, index, len(KINDS) * turns)
            with started(server, subject, folder, kind, *SHRUNK) as gateway:
                label = kind if turns == 1 else f"{kind} {turn + 1}"
                out = OUT / f"poisson-{label.replace(' ', '-')}.jsonl"
                _load(scenario, f"http://127.0.0.1:{gateway.port}/{gateway.name}", label, out)
                found.append(runs.read(str(out)))
    summaries = [figures.summary(one) for one in found]
    table = cost.table()
    output.write(
        str(OUT / "poisson.html"),
        page(
            [(one, told, cost.costs(one, table, PRICED)) for one, told in zip(found, summaries, strict=True)]
        ),
    )
    return Benchmark(
        f"{subject.manifest.name} up, Poisson arrivals with idle gaps: {OUT.name}/poisson.html",
        [line for one in found for line in _lines(one)],
        [
            Claim(
                "what the generator itself takes, at the median",
                max(told["generator"]["median_ms"] for told in summaries),
                ADDED_MS,
                True,
                "ms",
            ),
            Claim(
                "requests that failed", sum(t["requests"] - t["good"] for t in summaries), 0, True, "requests"
            ),
        ],
    )


def _lines(run: runs.Run) -> Iterator[Line]:
    for start in ("cold", "restored", "warm"):
        took = [one.client_ms for one in figures.of_start(run.samples, start)]
        if took:
            yield Line(f"{run.name}: {start}", took)


def _scenario(folder: Path, path: str, body: bytes, headers: dict[str, str]) -> Path:
    """The one that comes along, its requests exchanged."""
    text = (loadtests() / "scenarios" / "poisson-idle.toml").read_text()
    before, _, after = text.partition("[[requests]]")
    steps = after[after.index("[[steps]]") :]
    (folder / "body").write_bytes(body)
    told = ", ".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in headers.items())
    request = f'[[requests]]\npath = {json.dumps(path)}\nfile = "body"\nheaders = {{ {told} }}\n\n'
    (folder / "poisson-idle.toml").write_text(f"{before}{request}{steps}")
    return folder / "poisson-idle.toml"


def _load(scenario: Path, url: str, label: str, out: Path) -> None:
    """Raises EngineError where the run could not be finished."""
    command = [sys.executable, "-m", "preheat", "load", str(scenario), "--target", url, "--label", label]
    done = subprocess.run(  # noqa: S603 - ours
        [*command, "-o", str(out)], env=server_environ(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.splitlines() or ["it said nothing"])[-1]
        raise EngineError(f"the load test failed: {last}")
