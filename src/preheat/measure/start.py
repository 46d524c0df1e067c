"""One cold start: a fresh process, one request, one clock; and nothing of it left behind."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

from .client import Response, connect, free_port, read_response, request

START_S = 180.0
"""Seconds from spawn to answer after which a start counts as failed."""
STOP_S = 10.0
"""Seconds that a process has to end after SIGTERM before it is killed."""
PORT = "{port}"
"""Stands for the port in a command."""
OTHER_PORT = "{other port}"
"""Stands for another free port."""
REPORT = request("GET", "/coldstart", headers={"accept": "application/json"})


class Contender(NamedTuple):
    """Something that is started cold, again and again."""

    label: str
    command: Sequence[str]
    environ: Mapping[str, str]
    """The whole environment; the variable PORT is added at each start."""
    request: bytes
    """What is sent as soon as a connection is accepted."""
    check: Callable[[Response], str | None]
    """What is wrong with an answer, in words; None for a correct one. Called after the last round, so that
    nothing heavy is loaded into the measuring process between the starts."""
    phases: bytes = b""
    """The request that it answers with its own report; empty where it has none."""
    unwrap: Callable[[Response], Response] = lambda response: response
    """The function's answer inside the one that came, where something stands between."""
    begin: Callable[[Contender], Start] | None = None
    """How it is started, where that is no process of its own: a clone, say."""


class Start(NamedTuple):
    """What one start did. All marks are ``perf_counter_ns``: one clock for every process of a host."""

    begin_ns: int
    """Before the process was spawned."""
    connected_ns: int
    """The connection was accepted, and the request was sent."""
    end_ns: int
    """The last byte of the answer had been read."""
    response: Response | None
    coldstart: dict[str, Any] | None
    """The process's own report."""
    pss_mib: float | None
    """Proportional set size after the answer; None where the kernel does not tell."""
    problem: str | None
    """Why this is not a measurement, in words: a crash, a refusal, no answer in time."""

    @property
    def total_ms(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e6


def cold_start(contender: Contender) -> Start:
    """Start it, ask it once, let it tell its phases, and stop it."""
    if contender.begin is not None:
        return contender.begin(contender)
    port = free_port()
    response = coldstart = pss = problem = None
    with tempfile.TemporaryFile() as printed:
        begin = connected = end = time.perf_counter_ns()
        process = spawn(contender, port, printed)
        try:
            deadline = time.monotonic() + START_S
            with connect(port, deadline=deadline, alive=lambda: process.poll() is None) as client:
                client.sendall(contender.request)
                connected = time.perf_counter_ns()
                response = read_response(client, deadline=deadline)
                end = time.perf_counter_ns()
                response = contender.unwrap(response)
            pss = pss_mib(process.pid)
            expect_ok(response)
            if contender.phases:
                coldstart = ask_for_phases(port, contender)
        except (OSError, ValueError) as error:
            problem = str(error) or type(error).__name__
        except BaseException:  # Ctrl-C: end the process at once
            process.kill()
            raise
        finally:
            stop(process)
        if problem is not None:
            problem = f"{problem}; {last_words(process.returncode, printed)}"
    return Start(begin, connected, end, response, coldstart, pss, problem)


def spawn(contender: Contender, port: int, printed: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a contender on a port; what it prints goes to a file."""
    return subprocess.Popen(
        placed(contender.command, port),
        env={**contender.environ, "PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
    )


def placed(command: Sequence[str], port: int) -> list[str]:
    """A command with its ports in place of PORT and OTHER_PORT."""
    words = [word.replace(PORT, str(port)) for word in command]
    if any(OTHER_PORT in word for word in words):  # else none is looked for: a start's time runs
        other = str(free_port())
        words = [word.replace(OTHER_PORT, other) for word in words]
    return words


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL where that does not help; returns when the process has ended."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def ask_for_phases(port: int, contender: Contender | None = None) -> dict[str, Any]:
    """The report that a started process gives, asked as its contender says. Raises OSError or
    ValueError where there is no such report."""
    deadline = time.monotonic() + STOP_S
    with connect(port, deadline=deadline, alive=lambda: True) as client:
        client.sendall(contender.phases if contender else REPORT)
        response = read_response(client, deadline=deadline)
    if contender is not None:
        response = contender.unwrap(response)
    report = json.loads(response.body) if response.status == 200 else None
    if not isinstance(report, dict):
        raise ValueError(f"GET /coldstart answered {response.status}")
    return report


def pss_mib(pid: int) -> float | None:
    """Proportional set size of a process in MiB: pages shared with others count in part (proc(5)). Of a
    process that has started others, theirs: it is what carries the function, not the function."""
    started = children(pid)
    if started:
        sizes = [pss_mib(child) for child in started]
        return sum(size for size in sizes if size is not None) or None
    return own_pss_mib(pid)


def own_pss_mib(pid: int) -> float | None:
    """The same of one process, whatever it has started."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) / 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def expect_ok(response: Response) -> None:
    """Raises ValueError for any other status than 200."""
    if response.status != 200:
        raise ValueError(f"it answered {response.status}, {response.body[:300].decode(errors='replace')}")


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started; none where the kernel does not tell."""
    found: list[int] = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as file:
            found += map(int, file.read().split())
    return found


def descendants(pid: int) -> list[int]:
    """The processes below a process, each after the one that started it."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def last_words(status: int, printed: IO[bytes]) -> str:
    """How a process ended, and the last line that it printed."""
    line = last_line(printed)
    ended = f"it was ended by signal {-status}" if status < 0 else f"it exited with {status}"
    return f"{ended}: {line}" if line else f"{ended} and printed nothing"


def last_line(printed: IO[bytes]) -> str:
    """The last line that a process printed, but for what it logs as JSON, which is not the reason of its end;
    empty for none."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(size - 65536, 0))
    lines = [line.strip() for line in printed.read().decode(errors="replace").splitlines()]
    return next((line[:500] for line in reversed(lines) if line and line[0] != "{"), "")
