"""On a GPU: MiniLM by every provider that this machine has, from the process's start to the first answer, and
running. Raises NoGpuError with the reason where there is no GPU to measure on.
"""

from __future__ import annotations

from pathlib import Path

from preheat import device, fingerprint
from preheat.build import build
from preheat.manifest import FILENAME, load
from preheat.measure import rounds, target
from preheat.measure.run import Progress
from preheat.providers import NVIDIA, TENSORRT

from . import models
from .figures import Benchmark, Claim, Line

TOLERANCE = 0.05
"""Half precision differs by about a thousandth; more than this is another answer."""


def artifact(say: models.Say) -> Path:
    """MiniLM's graph, built on this GPU with all that can be built here."""
    gpu = device.find()
    here = fingerprint.with_runtime(fingerprint.machine())
    provider = "tensorrt" if TENSORRT in here.providers and "tensorrt" in here.libraries else "cuda"
    folder = models.OUT / f"gpu-{provider}-{gpu.arch}"
    if not (folder / FILENAME).exists():
        source = models.minilm(say)
        manifest = load((source / FILENAME).read_bytes())
        say(f"building {folder} on {gpu.name}, for {provider}")
        build(
            str(source / manifest.variants[0].model),
            str(folder),
            name="minilm",
            objective="cold",
            only=("packed",),
            limits={"batch": 32, "sequence": 256},
            tolerance=TOLERANCE,
            provider=provider,
        )
    return folder


def run(folder: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(folder), models.server_environ())
    manifest = subject.manifest
    variants = [variant for variant in manifest.variants if variant.name != "portable"]
    names = [variant.name for variant in variants]
    contenders = {name: target.server(subject, name) for name in names}
    for variant in variants:
        if variant.requires.provider in NVIDIA:
            without, name = contenders[variant.name], f"{variant.name}, device ahead"
            environ = {**without.environ, "PREHEAT_DEVICE_AHEAD": "on"}
            contenders[name] = without._replace(label=f"{without.label}, device ahead", environ=environ)
    outcomes = rounds.run([*contenders.values()], turns, progress=progress)
    started = {
        n: Line(f"{n}: start", [s.total_ms for s in o.good])
        for n, o in zip(contenders, outcomes, strict=True)
    }
    running = {name: Line(f"{name}: a run", [manifest.measured(name, "steady_ms") or 0.0]) for name in names}
    claims = []
    for name in names:
        if name != "packed":
            faster = running["packed"].median / max(running[name].median, 1e-6)
            claims.append(Claim(f"{name} runs faster than the CPU by", faster, 1.0, at_most=False))
            ahead = started[f"{name}, device ahead"].median / started[name].median
            claims.append(Claim(f"{name}'s start, device ahead / without", ahead, 1.0, at_most=True))
    if "tensorrt" in names:
        # An engine that is built at the start takes minutes.
        ratio = started["tensorrt"].median / started["cuda"].median
        claims.append(Claim("tensorrt's start / cuda's", ratio, 2.0, at_most=True))
    return Benchmark(
        f"MiniLM on {device.find().name}: spawn to the first correct answer over HTTP, and a run",
        [*started.values(), *running.values()],
        claims,
        sum(len(outcome.wrong) for outcome in outcomes),
    )
