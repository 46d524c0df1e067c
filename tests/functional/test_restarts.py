"""SIGTERM under load, and the next server on the same port, again and again: nothing accepted is lost.

Every request that was sent whole gets a whole answer, 200 or 503 with Retry-After, or its connection ends
before anybody has read it. ``RESTARTS=100`` does more of them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from pathlib import Path

from benchmarks import load

from preheat.measure.client import free_port

from ..conftest import Server

RESTARTS = int(os.environ.get("RESTARTS", "15"))
UP_S = 0.25
"""Seconds that each server is under load before it is told to end."""
APP = """
import os
from preheat import Function
from preheat.tasks.filetype import FileType

seen = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Noted(FileType):
    def prepare(self, request):
        os.write(seen, request[:10] + b"\\\\n")
        return super().prepare(request)

    def finish(self, outputs, inputs):
        return {"once": os.urandom(8).hex()}


function = Function(__file__, task=Noted)
"""


class Keyed:
    """Clients that send each of their requests until it succeeds, under one key."""

    def __init__(self, port: int, threads: int) -> None:
        self.answers: dict[str, bytes] = {}
        self.wrong: list[str] = []
        self.retried = 0
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def send(self, key: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {"content-type": "application/octet-stream", "idempotency-key": key, "prefer": "wait=5"}
        with contextlib.closing(connection):
            connection.request("POST", "/predict", b"k" + key.encode().rjust(9) + b" a request", headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 and response.headers["retry-after"] is None:
                self.wrong.append(f"{response.status}: {body!r}")
            return response.status, body

    def _run(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            key = f"{number}-{count}"
            self.answers[key] = self.until_answered(key)

    def until_answered(self, key: str) -> bytes:
        for _ in range(500):
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, body = self.send(key)
                if status == 200:
                    return body
            self.retried += 1
            time.sleep(0.02)
        self.wrong.append(f"{key} never succeeded")
        return b""


def test_restarts_under_load_lose_nothing_that_was_accepted(filetype_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    environ = {
        "SEEN": str(tmp_path / "seen"),
        "PREHEAT_CACHE": str(tmp_path / "cache"),
        "PREHEAT_QUEUE": "16",
        "PORT": str(port),
    }
    ended: list[tuple[int, str]] = []

    def started() -> Server:
        server = Server(tmp_path / "app.py", **environ)
        server.port = port
        server.wait_ready()
        return server

    def restarts() -> None:
        server = started()
        keyed = Keyed(port, 3)
        try:
            for _ in range(RESTARTS):
                time.sleep(UP_S)
                server.process.send_signal(signal.SIGTERM)
                status, _, err = server.finish()
                ended.append((status, err))
                server = started()
        finally:
            stop.set()
            keyed.stop()
            clients.append(keyed)
            for key, body in list(keyed.answers.items())[-300:]:  # the others' stands in the ledger as well
                again.append((key, body, keyed.until_answered(key)))
            server.stop()

    stop, clients, again = threading.Event(), [], []
    thread = threading.Thread(target=restarts)
    thread.start()
    loads = []
    number = 0
    while not stop.is_set():  # in pieces, because nobody knows how long it takes
        begin = time.monotonic()
        body = load.post("/predict", b"n" + load.NUMBER + b" and more of a text")
        plans = [
            load.Plan(port, [body], begin, begin + 4.0, 12, number=number + n * 10**6, pause_s=0.05)
            for n in range(2)
        ]
        number += 10**7
        loads += load.run(*plans)
    thread.join(120)
    both = load.together(loads)
    assert ended == [(0, "")] * RESTARTS
    allowed = {load.OK, "shed", load.REFUSED, load.CLOSED}
    assert set(both.counts) <= allowed, both.counts
    assert not [one for one in both.seen if one.wrong]
    assert both.counts[load.OK] > RESTARTS
    read = {line[1:] for line in (tmp_path / "seen").read_bytes().split(b"\n") if line.startswith(b"n")}
    lost = {b"%09d" % one.number for one in both.seen if one.outcome == load.CLOSED}
    assert not lost & read, "a request was run, and its client was not told"
    (keyed,) = clients
    assert not keyed.wrong
    assert keyed.retried
    assert again
    for key, first, body in again:
        assert (key, body) == (key, first)
    print(f"{RESTARTS} restarts: {both.counts}; {len(keyed.answers)} keyed, {keyed.retried} tries again")
