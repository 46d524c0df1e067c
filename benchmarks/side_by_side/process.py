"""One server in a fresh process: from its start to its first answer, what it holds, and its end with all that
it started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from preheat.errors import EngineError
from preheat.measure.client import Response, connect, free_port, read_response, request
from preheat.measure.start import OTHER_PORT, PORT, STOP_S, descendants, last_words, own_pss_mib, stop

START_S = 120.0
"""From the spawn to a first answer."""
AGAIN_S = 0.002
"""Between two tries to be answered: what the client can add to a start."""
THIRD_PORT = "{third port}"
"""Beside PORT and OTHER_PORT: one more free port."""


class Server(NamedTuple):
    port: int
    process: subprocess.Popen[bytes]
    first: Response
    """The first answer with status 200."""
    first_ms: float
    """From the spawn to that answer's last byte."""


@contextlib.contextmanager
def started(
    command: Sequence[str],
    environ: Mapping[str, str],
    files: Mapping[str, str],
    cpus: Sequence[int],
    asked: bytes,
) -> Iterator[Server]:
    """A server, once it has answered ``asked``; what it says before that, 503 for one, is no answer.

    ``files``: what its working folder holds; ``cpus``: where it and its children run. Raises EngineError for
    one that ends or gives no answer in time.
    """
    ports = {PORT: str(free_port()), OTHER_PORT: str(free_port()), THIRD_PORT: str(free_port())}
    port = int(ports[PORT])
    whole = {name: _placed(value, ports) for name, value in environ.items()}
    here = os.sched_getaffinity(0)
    with (
        tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as printed,
    ):
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        os.sched_setaffinity(0, cpus)
        try:
            begin = time.perf_counter_ns()
            process = subprocess.Popen(  # noqa: S603 - the server that is measured
                [_placed(word, ports) for word in command],
                env=whole,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.sched_setaffinity(0, here)
        try:
            try:
                first = _first_answer(process, port, asked)
                took = (time.perf_counter_ns() - begin) / 1e6
            except (OSError, ValueError) as error:
                _end(process)
                raise EngineError(f"{error}; {last_words(process.returncode, printed)}") from None
            yield Server(port, process, first, took)
        finally:
            _end(process)


def _placed(text: str, ports: Mapping[str, str]) -> str:
    for name, port in ports.items():
        text = text.replace(name, port)
    return text


def _first_answer(process: subprocess.Popen[bytes], port: int, asked: bytes) -> Response:
    deadline = time.monotonic() + START_S
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            with connect(port, deadline=deadline, alive=lambda: process.poll() is None) as client:
                client.sendall(asked)
                response = read_response(client, deadline=deadline)
            if response.status == 200:
                return response
            said = f"{response.status}, {response.body[:200].decode(errors='replace')}"
        except ConnectionError:
            if process.poll() is not None:
                raise
        time.sleep(AGAIN_S)
    raise TimeoutError(f"it gave no answer in {START_S:g} s, but {said}")


def ask(server: Server, path: str, body: bytes) -> Response:
    """One request over a connection of its own."""
    deadline = time.monotonic() + START_S
    with connect(server.port, deadline=deadline, alive=lambda: server.process.poll() is None) as client:
        client.sendall(request("POST", path, body, {"content-type": "application/json"}))
        return read_response(client, deadline=deadline)


def memory_mib(pid: int) -> float:
    """Proportional set size (proc(5)) of a process and of all that it started, in MiB."""
    return sum(own_pss_mib(each) or 0.0 for each in (pid, *descendants(pid)))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it started where it did not see to that itself."""
    handles = []
    for pid in descendants(process.pid) if process.poll() is None else []:
        with contextlib.suppress(OSError):
            handles.append(os.pidfd_open(pid))  # stays this process, whoever gets its number next
    stop(process)
    for handle in handles:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], STOP_S)  # readable once it has ended
        os.close(handle)
