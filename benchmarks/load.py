"""Load on a server, from a process of its own: requests over raw sockets, each in exactly one class.

``python -m benchmarks.load`` reads a plan as JSON from stdin and prints what came of it. A closed loop sends
the next request on a connection when the last one was answered; an open loop sends at the times of a Poisson
process, whatever the server does, and counts latency from those times (no coordinated omission).
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

OK = "ok"
REFUSED = "refused"
"""Nobody listened."""
CLOSED = "closed"
"""The connection ended after the request was sent, before a byte of an answer."""
BROKEN = "broken"
"""It ended within an answer, or what came was none."""
UNANSWERED = "unanswered"
"""No answer at all."""
UNSENT = "unsent"
"""Every connection was busy until the end: the client's limit, not the server's doing."""
NUMBER = b"#########"
HOST = "127.0.0.1"


class Plan(NamedTuple):
    """What one process sends, between two moments of ``time.monotonic``, which all processes share."""

    port: int
    requests: Sequence[str]
    """Whole requests as Latin-1, sent in turn; NUMBER in one becomes its own."""
    begin: float
    end: float
    connections: int
    """The most that are open at once; in a closed loop, exactly as many."""
    rate: float = 0.0
    """Requests a second; 0: a closed loop."""
    grace_s: float = 10.0
    """Seconds after the end in which answers are waited for."""
    cpus: Sequence[int] = ()
    """Where the process runs; empty: anywhere."""
    seed: int = 0
    number: int = 0
    """The first request's own number."""
    pause_s: float = 0.0
    """Before another try, after a connection that was refused or closed."""


class Seen(NamedTuple):
    """One request, and what came of it."""

    number: int
    outcome: str
    """``x-preheat-outcome``, or one of the classes above."""
    status: int
    at: float
    """``time.monotonic`` at which it was to be sent."""
    ms: float
    """From then to the last byte of its answer."""
    wrong: str = ""
    """What is wrong with the answer; empty for nothing."""


class _Connection:
    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = -1
        self.at = 0.0
        self.received = b""
        self.unsent = memoryview(b"")


class _Client:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._seen: list[Seen] = []
        self._late: deque[float] = deque()
        self._number = plan.number
        self._random = random.Random(plan.seed)  # noqa: S311 - arrivals, no secret
        self._whole = [text.encode("latin-1") for text in plan.requests]

    def run(self) -> list[Seen]:
        plan = self._plan
        time.sleep(max(plan.begin - time.monotonic(), 0.0))
        following = plan.begin
        while (now := time.monotonic()) < plan.end:
            if plan.rate:
                while following <= now:
                    self._late.append(following)
                    following += self._random.expovariate(plan.rate)
            elif self._following(following, now):
                following = now + plan.pause_s if len(self._open) < plan.connections else now
            while self._late and (connection := self._free()) is not None:
                self._send(connection, self._late.popleft())
            self._look(min(max(following - time.monotonic(), 0.0), 0.01) if plan.rate else 0.005)
        until = plan.end + plan.grace_s
        while len(self._idle) < len(self._open) and time.monotonic() < until:
            self._look(0.01)
        for connection in list(self._open.values()):
            if connection.number >= 0:
                self._tell(connection, UNANSWERED)
        self._seen += [Seen(-1, UNSENT, 0, at, 0.0) for at in self._late]
        return self._seen

    def _following(self, following: float, now: float) -> bool:
        """In a closed loop: let every connection that is free send."""
        free = len(self._idle) + (self._plan.connections - len(self._open) if now >= following else 0)
        self._late.extend([now] * (free - len(self._late)))
        return free > 0

    def _free(self) -> _Connection | None:
        if self._idle:
            return self._idle.pop()
        if len(self._open) >= self._plan.connections:
            return None
        connection = _Connection()
        self._open[connection.socket.fileno()] = connection
        connection.socket.connect_ex((HOST, self._plan.port))
        self._poll.register(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        return connection

    def _send(self, connection: _Connection, at: float) -> None:
        number, self._number = self._number, self._number + 1
        whole = self._whole[number % len(self._whole)]
        connection.number, connection.at, connection.received = number, at, b""
        connection.unsent = memoryview(whole.replace(NUMBER, b"%09d" % number))
        self._flush(connection)

    def _flush(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return  # the connection is not there yet, or its buffer is full
        except ConnectionRefusedError:
            self._end(connection, REFUSED)
            return
        except OSError:
            self._end(connection, CLOSED)
            return
        connection.unsent = connection.unsent[sent:]
        more = select.EPOLLOUT if connection.unsent else 0
        self._poll.modify(connection.socket, select.EPOLLIN | more)

    def _look(self, seconds: float) -> None:
        for descriptor, events in self._poll.poll(seconds):
            connection = self._open.get(descriptor)
            if connection is None:
                continue
            if events & select.EPOLLIN or not connection.unsent:
                self._receive(connection)
            elif events & (select.EPOLLERR | select.EPOLLHUP):
                error = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self._end(connection, REFUSED if error == 111 else CLOSED)
            elif events & select.EPOLLOUT:
                self._flush(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._end(connection, REFUSED)
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection, BROKEN if connection.received else CLOSED)
            return
        connection.received += data
        answer = connection.received
        head = answer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _header(answer, head, b"content-length")
        if length is None or not length.isdigit():
            self._end(connection, BROKEN)
            return
        if len(answer) < head + 4 + int(length):
            return
        status = int(answer[9:12])
        outcome = (_header(answer, head, b"x-preheat-outcome") or b"none").decode()
        wrong = ""
        if status in (429, 503, 504) and _header(answer, head, b"retry-after") is None:
            wrong = f"{status} without Retry-After"
        self._tell(connection, outcome, status, wrong)
        if _header(answer, head, b"connection") == b"close":
            self._drop(connection)
        else:
            self._idle.append(connection)

    def _tell(self, connection: _Connection, outcome: str, status: int = 0, wrong: str = "") -> None:
        ms = (time.monotonic() - connection.at) * 1e3
        self._seen.append(Seen(connection.number, outcome, status, connection.at, ms, wrong))
        connection.number = -1

    def _end(self, connection: _Connection, outcome: str) -> None:
        if connection.number >= 0:
            self._tell(connection, outcome)
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        del self._open[connection.socket.fileno()]
        connection.socket.close()


def _header(answer: bytes, head: int, name: bytes) -> bytes | None:
    at = answer.find(b"\r\n" + name + b": ", 0, head)
    if at < 0:
        return None
    at += len(name) + 4
    return answer[at : answer.index(b"\r\n", at)]


class Load(NamedTuple):
    """What several processes saw together."""

    seen: Sequence[Seen]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.seen:
            found[one.outcome] = found.get(one.outcome, 0) + 1
        return found

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.counts.get(OK, 0) / self.seconds

    def latencies(self, outcome: str = OK) -> list[float]:
        """Milliseconds, in order."""
        return sorted(one.ms for one in self.seen if one.outcome == outcome)

    def percentile(self, percent: float, outcome: str = OK) -> float:
        found = self.latencies(outcome)
        return found[min(int(len(found) * percent / 100), len(found) - 1)] if found else float("nan")


def run(*plans: Plan, during: Callable[[], object] | None = None) -> list[Load]:
    """Send each plan from a process of its own, all at once; ``during`` is called meanwhile."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in plans
    ]
    try:
        for process, plan in zip(processes, plans, strict=True):
            assert process.stdin is not None  # noqa: S101 - piped
            process.stdin.write(json.dumps(plan._asdict()))
            process.stdin.close()
            process.stdin = None
        if during is not None:
            during()
        loads = []
        for process, plan in zip(processes, plans, strict=True):
            limit = max(plan.end + plan.grace_s - time.monotonic(), 0.0) + 60
            out, _ = process.communicate(timeout=limit)
            loads.append(Load([Seen(*one) for one in json.loads(out)], plan.end - plan.begin))
        return loads
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def together(loads: Iterable[Load]) -> Load:
    """Several processes' as one."""
    loads = list(loads)
    return Load([one for load in loads for one in load.seen], max(load.seconds for load in loads))


def post(path: str, document: Any, headers: Mapping[str, str] | None = None) -> str:
    """A whole request, as a plan takes it; JSON, or bytes as they are."""
    raw = isinstance(document, bytes)
    body = document if raw else json.dumps(document).encode()
    kind = "application/octet-stream" if raw else "application/json"
    lines = [f"POST {path} HTTP/1.1", f"host: {HOST}", f"content-type: {kind}"]
    lines += [f"content-length: {len(body)}", *(f"{n}: {v}" for n, v in (headers or {}).items())]
    return ("\r\n".join(lines).encode() + b"\r\n\r\n" + body).decode("latin-1")


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    json.dump(_Client(plan).run(), sys.stdout)


if __name__ == "__main__":
    main()
