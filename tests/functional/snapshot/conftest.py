"""Templates, and clones that are asked over their own sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from preheat.measure.client import Response, read_response, request
from preheat.snapshot.forkserver import Clone, Ended, Template

PREDICT = {"content": "aW1wb3J0IG9zCgoKZGVmIG1haW4oKToKICAgIHJldHVybiBvcy5nZXRjd2QoKQ=="}


def environ(artifact: Path | str, cache: Path, **more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREHEAT_")}
    own = {"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(cache), "PREHEAT_THREADS": "1"}
    return {**inherited, **own, **more}


_listeners: list[socket.socket] = []


class Instance:
    """A clone and its socket."""

    def __init__(self, template: Template, **environ: str) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        _listeners.append(self.listener)
        self.clone: Clone = template.clone(self.listener, environ)

    def send(self, body: Any = None, **headers: str) -> socket.socket:
        """Connect and send a prediction; the answer is read by ``read_response``."""
        client = socket.create_connection(self.listener.getsockname(), timeout=30)
        raw = json.dumps(PREDICT if body is None else body).encode()
        client.sendall(request("POST", "/predict", raw, {"content-type": "application/json", **headers}))
        return client

    def ask(self, body: Any = None, **headers: str) -> Response:
        with self.send(body, **headers) as client:
            return read_response(client, deadline=time.monotonic() + 30)

    def get(self, path: str, **headers: str) -> Response:
        with socket.create_connection(self.listener.getsockname(), timeout=30) as client:
            client.sendall(request("GET", path, headers={"accept": "application/json", **headers}))
            return read_response(client, deadline=time.monotonic() + 30)

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.clone.pid, number)


_RECVMSG = ("47", "212")
"""Numbers of the system call: x86-64's, arm64's."""


def _busy(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] not in _RECVMSG
    except PermissionError:  # a system that shows nobody's
        time.sleep(1.0)
        return False
    except FileNotFoundError:
        return True


def spare_of(template: Template, timeout: float = 20.0, *, ready: bool = True) -> int:
    """The process id of the template's spare, once there is one; or once it waits to be asked."""
    template.wait_ready()
    deadline = time.monotonic() + timeout
    while True:
        template.ended()
        children = Path(f"/proc/{template.pid}/task/{template.pid}/children").read_text().split()
        spare = {*map(int, children)} - {*template.running}
        if spare and not (ready and _busy(min(spare))):
            return spare.pop()
        assert time.monotonic() < deadline, "no spare was forked"
        time.sleep(0.02)


def until_ended(template: Template, count: int, timeout: float = 20.0) -> list[Ended]:
    """The next clones that end, in order."""
    deadline = time.monotonic() + timeout
    found: list[Ended] = []
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} ended"
        found += template.ended()
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def template_of(environ: Mapping[str, str], output: Path | None = None) -> Iterator[Template]:
    """A template for the length of a block; it and its clones are gone afterwards."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(output.open("ab")) if output is not None else None
        template = Template(environ, output=file.fileno() if file else None)
        template.start()
        try:
            yield template
        finally:
            template.close()
            for pid in template.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while _listeners:
                _listeners.pop().close()


@pytest.fixture
def filetype_template(filetype_artifact: Path, cache: Path, tmp_path: Path) -> Iterator[Template]:
    with template_of(environ(filetype_artifact, cache), tmp_path / "log") as template:
        yield template
