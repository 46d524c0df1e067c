"""LISTEN_FDS: the server takes over a socket that somebody else opened, by systemd's protocol."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat.measure.client import connect, read_response, request

from .snapshot.conftest import PREDICT, environ


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(16)
        yield opened


LAUNCH = """
import os, sys
number, pid, count = map(int, sys.argv[1:])
if number >= 0:
    os.dup2(number, 3)
else:
    os.closerange(3, 4)
os.environ.update(LISTEN_PID=str(pid or os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.executable, [sys.executable, "-m", "preheat.server"])
"""


def started(
    environ: dict[str, str], passed: socket.socket | None, *, pid: int = 0, count: int = 1
) -> subprocess.Popen[str]:
    """A server with the socket as descriptor 3, told so for the process ``pid``; 0: its own."""
    number = passed.fileno() if passed is not None else -1
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(number), str(pid), str(count)],
        env=environ,
        pass_fds=[number] if number >= 0 else [],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(server: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = server.communicate(timeout=30)
    return server.returncode, err


def test_a_request_waits_in_the_backlog_while_the_server_starts(
    filetype_artifact: Path, cache: Path, listener: socket.socket
) -> None:
    raw = request("POST", "/predict", json.dumps(PREDICT).encode(), {"content-type": "application/json"})
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(raw)  # nobody is there to accept it yet
        server = started(environ(filetype_artifact, cache), listener)
        answer = read_response(client, deadline=time.monotonic() + 10)
    assert (answer.status, answer.headers["x-preheat-start"]) == (200, "cold")
    server.terminate()
    assert ended(server)[0] == 0
    # The socket is its opener's still: another server goes on with it.
    with socket.create_connection(listener.getsockname()) as client:
        client.sendall(raw)
        second = started(environ(filetype_artifact, cache), listener)
        assert read_response(client, deadline=time.monotonic() + 30).status == 200
    second.terminate()
    assert ended(second)[0] == 0


def test_variables_for_another_process_are_not_looked_at(filetype_artifact: Path, cache: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = started({**environ(filetype_artifact, cache), "PORT": str(port)}, None, pid=os.getpid())
    deadline = time.monotonic() + 20
    with connect(port, deadline=deadline, alive=lambda: server.poll() is None) as client:
        client.sendall(request("GET", "/v2/health/live"))
        assert read_response(client, deadline=deadline).status == 200
    server.terminate()
    assert ended(server)[0] == 0


@pytest.mark.parametrize("wrong", ["two", "none", "unix", "silent"])
def test_anything_but_one_socket_that_listens_is_refused_in_words(
    wrong: str, filetype_artifact: Path, cache: Path, listener: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as silent:
        passed = {"two": listener, "none": None, "unix": unix, "silent": silent}[wrong]
        count = 2 if wrong == "two" else 1
        status, err = ended(started(environ(filetype_artifact, cache), passed, count=count))
    assert status == 2, err
    said = {"two": "pass one", "none": "no socket"}.get(wrong, "no TCP socket that listens")
    assert said in err
    assert err.count("\n") == 1
