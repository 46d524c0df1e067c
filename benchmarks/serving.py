"""Warm servers for the benchmarks that put load on them, each a fresh process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preheat import manifest as manifests
from preheat.errors import EngineError
from preheat.measure.client import HOST, Response, connect, free_port, read_response, request
from preheat.measure.start import START_S, stop
from preheat.measure.target import with_bytecode

from .models import OUT, server_environ


class Warm(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]

    def ask(
        self, method: str, path: str, document: Any = None, headers: dict[str, str] | None = None
    ) -> Response:
        """One request on a connection of its own."""
        body = b"" if document is None else json.dumps(document).encode()
        with self.connect() as client:
            client.sendall(
                request(method, path, body, {"content-type": "application/json", **(headers or {})})
            )
            return read_response(client, deadline=time.monotonic() + 60)

    def connect(self) -> socket.socket:
        alive = self.process.poll
        return connect(self.port, deadline=time.monotonic() + START_S, alive=lambda: alive() is None)


@contextlib.contextmanager
def serving(
    target: Path, *, asked: Any = None, cpus: Sequence[int] = (), key: str = "", **environ: str
) -> Iterator[Warm]:
    """A server of its own that has answered once; ``asked``: what, else the artifact's sample.
    ``cpus``: where it runs; ``key``: an API key that it takes."""
    asked = sample(target) if asked is None else asked
    OUT.mkdir(parents=True, exist_ok=True)
    port = free_port()
    here = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="cache-", dir=OUT) as cache:
        command = [sys.executable, "-m", "preheat.server"]
        settings = {"PREHEAT_ARTIFACT": str(target), "PREHEAT_HOST": HOST, "PREHEAT_CACHE": cache}
        if cpus:
            os.sched_setaffinity(0, cpus)
        try:
            process = subprocess.Popen(  # noqa: S603 - the server itself
                command,
                env=with_bytecode({**server_environ(), **settings, "PORT": str(port), **environ}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        finally:
            os.sched_setaffinity(0, here)
        warm = Warm(port, process)
        try:
            answer = warm.ask("POST", "/predict", asked, {"x-api-key": key} if key else {})
            if answer.status != 200:
                raise EngineError(f"the server answered {answer.status}: {answer.body[:200]!r}")
            yield warm
        finally:
            stop(process)


COUNTING = """
import json, os, signal
from preheat import Function
from preheat.admission import Admission

function = Function(__file__)
enter, most = Admission.enter, 0


def entered(admission, *args, **kwargs):
    global most
    place = enter(admission, *args, **kwargs)
    most = max(most, admission.taken)
    return place


def tell(*_):
    counts = {"most": most}
    for (method, _, outcome), count in function.service.telemetry.metrics.requests.read().items():
        if method == "POST":
            counts[outcome] = counts.get(outcome, 0) + count
    with open(os.environ["COUNTS"] + ".new", "w") as file:
        json.dump(counts, file)
    os.rename(os.environ["COUNTS"] + ".new", os.environ["COUNTS"])


Admission.enter = entered
signal.signal(signal.SIGUSR1, tell)
"""
"""A function that counts what its server answers."""


class Counted(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]
    told: Path

    def outcomes(self) -> dict[str, int]:
        """Inference that was answered, by outcome; under ``most`` the most that waited or ran at once."""
        self.told.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not self.told.exists():
            if time.monotonic() > deadline:
                raise EngineError("the server did not tell what it counted")
            time.sleep(0.01)
        found: dict[str, int] = json.loads(self.told.read_text())
        return found


@contextlib.contextmanager
def counted(
    artifact: Path, folder: Path, *, cpus: Sequence[int] = (), key: str = "", **environ: str
) -> Iterator[Counted]:
    """A server that counts; its function lies in ``folder``."""
    (folder / "artifact").symlink_to(artifact.resolve())
    (folder / "app.py").write_text(COUNTING)
    told = folder / "counts.json"
    with serving(
        folder / "app.py", cpus=cpus, key=key, asked=sample(artifact), COUNTS=str(told), **environ
    ) as warm:
        yield Counted(warm.port, warm.process, told)


def sample(artifact: Path) -> Any:
    """The request that the build recorded."""
    found = manifests.load((artifact / manifests.FILENAME).read_bytes()).sample
    if found is None:
        raise EngineError(f"{artifact} has no sample; build it again")
    return found["request"]
