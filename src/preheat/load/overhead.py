"""What the load generator itself adds: the same machinery, sending to the least server there can be."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..measure.client import HOST
from .generator import Generator

REQUESTS = 200
RATE = 100.0
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def measure(generator: Generator) -> dict[str, float]:
    """Send REQUESTS at RATE a second over loopback to a thread that reads and answers at once.

    Milliseconds from the intended moment to the last byte (``median_ms``, ``p99_ms``), how late it sent
    (``late_p99_ms``), and its CPU time a request (``cpu_ms``). The thread's own share is in it: an upper
    bound.
    """
    seen: list[Mapping[str, Any]] = []
    with _least() as port:
        payload = {"method": "GET", "path": "/", "headers": {}, "body": ""}
        done = generator.run(
            {
                "number": -1,
                "closed": False,
                "concurrency": 0,
                "duration_s": REQUESTS / RATE,
                "first": 0,
                "order": [],
                "requests": [[i, i / RATE, 0, ""] for i in range(REQUESTS)],
                "payloads": [payload],
                "retry": {"most": 0, "wait_s": 1.0, "most_wait_s": 1.0},
                "target": {"url": f"http://{HOST}:{port}", "timeout_s": 10.0, "connections": 100, "sign": ""},
            },
            lambda line: seen.extend(line["samples"]),
        )
    took = [(one["end"] - one["at"]) * 1e3 for one in seen if one["status"] == 200]
    late = [(one["sent"] - one["at"]) * 1e3 for one in seen]
    return {
        "requests": len(took),
        "median_ms": round(float(np.median(took)), 3) if took else 0.0,
        "p99_ms": round(float(np.quantile(took, 0.99)), 3) if took else 0.0,
        "late_p99_ms": round(float(np.quantile(late, 0.99)), 3) if late else 0.0,
        "cpu_ms": round(done["cpu_s"] * 1e3 / max(len(seen), 1), 3),
    }


@contextmanager
def _least() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_accept, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])


def _accept(listener: socket.socket) -> None:
    with suppress(OSError):  # closed at the end of the measurement
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while connection.recv(65536):
            connection.sendall(_ANSWER)
