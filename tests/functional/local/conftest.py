"""`preheat up` in a process of its own, and a function that fails as it is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from preheat.measure.client import free_port
from preheat.measure.start import children

from ...conftest import ROOT, Answer, Server
from ..store.samples import publish

KIND = {"content-type": "application/octet-stream"}
APP = """
import os, signal, time
from preheat import Function
from preheat.tasks.filetype import FileType

HERE = os.path.dirname(os.path.abspath(__file__))


def noted(name, line=b""):
    with open(os.path.join(HERE, name), "ab", buffering=0) as file:
        file.write(line + b"\\n")


with open(os.path.join(HERE, "start")) as file:
    how = file.read()
noted("starts", b"%d" % os.getpid())
if how == "never":
    time.sleep(600)
elif how == "full":
    os.write(os.open("/dev/full", os.O_WRONLY), b"what a start has to write")
elif how == "slow":
    time.sleep(1.5)
kept = []


class Told(FileType):
    def prepare(self, request):
        word, _, number = bytes(request[:20]).partition(b" ")
        noted("seen", number[:8])
        if word == b"crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == b"crash-late":
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == b"crash-once" and not os.path.exists(os.path.join(HERE, "crashed")):
            noted("crashed")
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == b"sleep":
            time.sleep(1.0)
        elif word == b"leak":
            for _ in range(200):
                kept.append(b"x" * 4 * 1024**2)
                time.sleep(0.02)
        return super().prepare(request)


function = Function(__file__, task=Told)
"""


class Up(Server):
    """`preheat up`. What it and its instances print is in ``log``. ``before``: a command that runs it."""

    def __init__(self, folder: Path, *arguments: str, before: Sequence[str] = (), **environ: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREHEAT_")}
        command = [*before, sys.executable, "-m", "preheat", "up", *arguments, "--state", str(self.state)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={
                    **inherited,
                    "PYTHONPATH": str(ROOT / "src"),
                    "PREHEAT_CACHE": str(folder / "cache"),
                    "PORT": str(self.port),
                    **environ,
                },
                cwd=folder,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.status()  # the socket is there before the rest is

    def predict(self, text: str = "ask 1", name: str = "told", **headers: str) -> Answer:
        body = text.encode().ljust(64)
        told = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.request("POST", f"/{name}/predict", body, {**KIND, **told})

    def status(self) -> Any:
        return self.request("GET", "/_preheat/status").json()

    def function(self, name: str = "told") -> Any:
        return self.status()["functions"][name]

    def scale(self, count: object, name: str = "told") -> Answer:
        return self.request("POST", f"/_preheat/functions/{name}/scale", {"instances": count})

    def wait(self, wanted: Callable[[Any], bool], timeout: float = 20, name: str = "told") -> Any:
        """The function's status, as soon as it is what is wanted."""
        deadline = time.monotonic() + timeout
        while not wanted(found := self.function(name)):
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    def page(self) -> str:
        return self.request("GET", "/_preheat/").body.decode()

    def end(self, timeout: float = 40) -> int:
        """SIGTERM; gives the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def up(folder: Path, *arguments: str, before: Sequence[str] = (), **environ: str) -> Iterator[Up]:
    gateway = Up(folder, *arguments, before=before, **environ)
    try:
        yield gateway
        assert gateway.end() == 0, gateway.log.read_text()
        assert "Traceback" not in gateway.log.read_text()
        assert not list(gateway.state.glob("up-*"))
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(30)


@pytest.fixture
def told(tmp_path: Path, filetype_artifact: Path) -> Path:
    """The folder of a function that does what is asked of it: its requests say so, and the file ``start``."""
    folder = tmp_path / "told"
    folder.mkdir()
    (folder / "artifact").symlink_to(filetype_artifact)
    (folder / "app.py").write_text(APP)
    (folder / "start").write_text("well")
    return folder


def template(gateway: Up, name: str = "told") -> int:
    """The process that instances are made of: the gateway's one child that is no instance."""
    instances = {one["pid"] for one in gateway.function(name)["instances"]}
    (found,) = set(children(gateway.process.pid)) - instances
    return found


def own_artifact(folder: Path) -> None:
    """A copy in place of the link to the artifact, for a test that changes it."""
    artifact = (folder / "artifact").resolve()
    (folder / "artifact").unlink()
    shutil.copytree(artifact, folder / "artifact")


@contextlib.contextmanager
def asking(gateway: Up) -> Iterator[list[int]]:
    """One request after the other, for the length of a block; the statuses of their answers."""
    answers: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(gateway.predict().status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join(60)


def version_of(instance: Any) -> str:
    return str(instance["start"]["artifact"]["version"]) if instance["start"] else ""


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """How instances start, by a test's parameter; for CRIU there has to be one."""
    if request.param == "criu":
        request.getfixturevalue("criu_program")
    named: str = request.param
    return named


@pytest.fixture
def store(filetype_artifact: Path, tmp_path: Path) -> str:
    """A store with one version of an artifact, which ``prod`` names."""
    place = f"file://{tmp_path}/store/filetype"
    publish(filetype_artifact, place)
    return place


def shared(pid: int) -> set[str]:
    """The files of shared memory that a process has mapped: others of this host have theirs there too."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {line.split(maxsplit=5)[5] for line in maps.splitlines() if " /dev/shm/" in line}
