"""Opening a session: the variants that are best here, and the exported model with default options."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from preheat import manifest
from preheat.choice import choose
from preheat.errors import EngineError
from preheat.fingerprint import machine
from preheat.measure.run import Progress
from preheat.measure.target import with_bytecode

from .figures import Benchmark, Claim, Line
from .models import server_environ

DEFAULT = "default"


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    found = manifest.load((artifact / manifest.FILENAME).read_bytes())
    # What opens soonest may run slower ever after: the one that weighs both is held to the same bounds.
    best = [choose(found, machine(), objective=o).variants[0].name for o in ("cold", "balanced")]
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in (*best, DEFAULT)}
    for turn in range(-1, turns):  # one round before the first, which is not counted
        order = [*taken] if turn % 2 else [*taken][::-1]
        for index, name in enumerate(order):
            progress(f"{found.name}, {name}", max(turn, 0) * len(order) + index, turns * len(order))
            time.sleep(0.05)
            one = _one(artifact, name, found.tolerance)
            if turn >= 0:
                taken[name].append(one)
    opened = {name: Line(name, [one["session_ms"] for one in ones]) for name, ones in taken.items()}
    answered = {
        name: Line(f"{name}, first answer included", [one["session_ms"] + one["first_ms"] for one in ones])
        for name, ones in taken.items()
    }
    claims = []
    for name in dict.fromkeys(best):
        faster = opened[DEFAULT].median / opened[name].median
        claims.append(Claim(f"{name} opens faster by", faster, 3.0, at_most=False))
        faster = answered[DEFAULT].median / answered[name].median
        claims.append(Claim(f"{name}, first answer included", faster, 2.5, at_most=False))
    size = sum(file.size for file in found.files if file.path.startswith("variants/portable/")) / 1e6
    return Benchmark(
        f"Opening {found.name} ({size:.0f} MB): the best variants here, and default options on the export",
        [*opened.values(), *answered.values()],
        claims,
    )


def _one(artifact: Path, name: str, tolerance: float) -> dict[str, float]:
    """One fresh process. Raises EngineError where it fails or answers wrong."""
    script = [sys.executable, "-m", "benchmarks.one_session", str(artifact), name]
    root = Path(__file__).resolve().parent.parent
    environ = with_bytecode(server_environ())
    done = subprocess.run(script, env=environ, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EngineError(f"{artifact}, {name}: {words[-1]}")
    figures: dict[str, float] = json.loads(done.stdout)
    if figures["drift"] > tolerance:
        raise EngineError(f"{artifact}, {name}: the first answer is {figures['drift']:.3g} off")
    return figures
