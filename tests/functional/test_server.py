"""`python -m preheat.server` in a process of its own, over real sockets."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ROOT, Server, serving

REQUEST = {"content": base64.b64encode(b"import os\n\n\ndef main():\n    return os.getcwd()\n" * 8).decode()}

SLOW_APP = """
import time
from preheat import Function
from preheat.tasks.filetype import FileType


class Slow(FileType):
    def __init__(self, artifact):
        time.sleep(1.0)
        super().__init__(artifact)

    def prepare(self, request):
        if request == {"sleep": True}:
            time.sleep(1.0)
            request = {"content": "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk"}
        return super().prepare(request)


function = Function(__file__, task=Slow)
"""

SLOW_RUN_APP = """
import time
from preheat import Function

function = Function(__file__)
start = function.start


def slowed(clock=None):
    start(clock)
    infer = function.service.current.engine.infer
    function.service.current.engine.infer = lambda *a: (time.sleep(0.8), infer(*a))[1]


function.start = slowed
"""


@pytest.fixture
def slow_app(tmp_path: Path, filetype_artifact: Path) -> Path:
    """A function with a task of its own, which takes a second to load."""
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(SLOW_APP)
    return tmp_path / "app.py"


def exchange(server: Server, raw: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are; read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(raw)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while part := client.recv(65536):
            received += part
        return received


def test_the_socket_opens_first_liveness_answers_and_requests_wait(slow_app: Path) -> None:
    with serving(slow_app) as server:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(server.request("POST", "/predict", REQUEST)))
        server.connect().close()
        thread.start()
        live = server.request("GET", "/v2/health/live")
        ready = server.request("GET", "/v2/health/ready")
        assert live.status == 200
        assert ready.status == 503
        assert ready.json() == {"ready": False, "error": "the server is starting", "code": "starting"}
        assert ready.headers["retry-after"] == "1"
        assert server.request("GET", "/v2/models/filetype/ready").status == 503
        thread.join(20)
        (answer,) = results
        assert answer.status == 200
        assert answer.json()["predictions"][0]["label"] == "python"
        assert answer.headers["x-preheat-start"] == "cold"
        timing = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
        assert max(float(ms) for phase, ms in timing if phase == "import") > 1000  # its task's assets
        assert server.request("GET", "/v2/health/ready").status == 200
        assert server.request("POST", "/predict", REQUEST).headers["x-preheat-start"] == "warm"


def test_a_full_queue_sheds_with_retry_after(slow_app: Path) -> None:
    with serving(slow_app, PREHEAT_QUEUE="2") as server:
        server.connect().close()
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(server.request("POST", "/predict", REQUEST).status)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert sorted(statuses) == [200, 200, 503, 503, 503, 503]


def test_a_request_past_its_deadline_is_timed_out(slow_app: Path) -> None:
    with serving(slow_app, PREHEAT_TIMEOUT="0.1") as server:
        answer = server.request("POST", "/predict", REQUEST)
        assert answer.status == 504
        assert answer.headers["x-preheat-outcome"] == "timed_out"


def test_sigterm_finishes_what_runs_and_exits_0(slow_app: Path) -> None:
    with serving(slow_app) as server:
        server.wait_ready()
        results: list[Any] = []
        thread = threading.Thread(
            target=lambda: results.append(server.request("POST", "/predict", {"sleep": True}))
        )
        idle = server.connect()
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        status, out, err = server.stop()
        thread.join(10)
        assert status == 0, err
        assert results[0].status == 200
        assert results[0].headers["connection"] == "close"
        assert 0.3 < time.monotonic() - began < 5
        assert json.loads(out.splitlines()[0])["message"] == "cold start"
        idle.close()


def test_a_second_sigterm_ends_at_once(slow_app: Path) -> None:
    with serving(slow_app) as server:
        server.wait_ready()
        thread = threading.Thread(target=_ignore_reset, args=(server,))
        thread.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.finish()[0] == 128 + signal.SIGTERM
        assert time.monotonic() - began < 0.5
        thread.join(10)


def test_sigterm_during_the_start_sheds_who_waits_for_it(slow_app: Path) -> None:
    with serving(slow_app) as server:
        results: list[Any] = []
        paths = ["/predict", "/docs"]
        server.connect().close()
        threads = [
            threading.Thread(target=lambda path=path: results.append(server.request("POST", path, REQUEST)))
            for path in paths
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        status, _, err = server.stop()
        for thread in threads:
            thread.join(10)
        assert (status, err) == (0, "")
        assert time.monotonic() - began < 5
        predict = next(r for r in results if r.headers["x-preheat-outcome"] == "shed")
        assert (predict.status, predict.headers["retry-after"]) == (503, "1")
        assert len(results) == 2


def test_requests_sent_while_it_drains_are_told(slow_app: Path) -> None:
    """On a connection that was idle, on one that the kernel had accepted, and the rest of half a request."""
    with serving(slow_app) as server:
        server.wait_ready()
        body = json.dumps(REQUEST).encode()
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        runs = threading.Thread(target=lambda: server.request("POST", "/predict", {"sleep": True}))
        runs.start()
        idle, half = (socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2))
        half.sendall(whole[:-10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        idle.sendall(whole)
        half.sendall(whole[-10:])
        for client in (idle, half):
            received = b""
            while part := client.recv(65536):
                received += part
            assert received.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in received
            assert b"connection: close" in received
            client.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=10)
        assert server.finish()[0] == 0
        runs.join(10)


def test_half_a_request_does_not_hold_the_end(slow_app: Path) -> None:
    with serving(slow_app) as server:
        server.wait_ready()
        client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        began = time.monotonic()
        assert server.stop()[0] == 0
        assert time.monotonic() - began < 12
        assert client.recv(65536).startswith(b"HTTP/1.1 503")
        client.close()


def test_what_has_no_turn_after_half_of_the_grace_is_shed(slow_app: Path) -> None:
    slow_app.write_text(SLOW_RUN_APP)
    with serving(slow_app, PREHEAT_CONCURRENCY="1", PREHEAT_BATCH_MS="0", PREHEAT_GRACE="3") as server:
        server.wait_ready()
        results: list[Any] = []

        def ask() -> None:
            results.append(server.request("POST", "/predict", REQUEST))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        status, _, err = server.stop()
        for thread in threads:
            thread.join(10)
        assert (status, err) == (0, "")
        assert time.monotonic() - began < 4
        outcomes = sorted(answer.headers["x-preheat-outcome"] for answer in results)
        assert len(outcomes) == 6
        assert set(outcomes) == {"ok", "shed"}
        assert outcomes.count("shed") >= 2
        assert all(answer.headers["connection"] == "close" for answer in results)


WAITING = """
import signal, threading, time
from preheat import server
wait = server.Stop().wait
def interrupt():
    time.sleep(0.3)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(20)
threading.Thread(target=interrupt, daemon=True).start()
began = time.monotonic()
wait()
assert 0.2 < time.monotonic() - began < 5
"""


def test_a_signal_that_interrupts_no_wait_ends_it_all_the_same() -> None:
    """As one does that arrives just before the main thread blocks: here another thread takes it."""
    subprocess.run([sys.executable, "-c", WAITING], check=True, timeout=60)


def _ignore_reset(server: Server) -> None:
    with contextlib.suppress(OSError):
        server.request("POST", "/predict", {"sleep": True})


def test_the_log_is_one_json_line_per_start(filetype_artifact: Path) -> None:
    with serving(filetype_artifact) as server:
        server.wait_ready()
        status, out, err = server.stop()
    (line,) = out.splitlines()
    report = json.loads(line)
    assert (status, err) == (0, "")
    assert report["message"] == "cold start"
    assert report["kind"] == "fresh"
    assert report["unaccounted_ms"] <= 0.05 * report["total_ms"] + 5


def test_a_function_of_the_repository_is_served(filetype_artifact: Path) -> None:
    with serving(ROOT / "functions" / "filetype" / "app.py") as server:
        assert server.request("POST", "/predict", REQUEST).json()["predictions"][0]["label"] == "python"


def test_fastapi_answers_what_is_not_hot(filetype_server: Server) -> None:
    assert "swagger" in filetype_server.request("GET", "/docs").body.decode().lower()
    paths = filetype_server.request("GET", "/openapi.json").json()["paths"]
    assert {"/predict", "/v1/embeddings", "/v2/models/{model}/infer", "/coldstart"} <= set(paths)
    assert filetype_server.request("GET", "/").status == 307


# HTTP, as it comes from clients that mean well and from others


def test_a_connection_serves_many_requests_and_pipelined_ones(filetype_server: Server) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert exchange(filetype_server, one * 20 + last).count(b"HTTP/1.1 200 OK") == 21


def test_a_chunked_body(filetype_server: Server) -> None:
    body = json.dumps(REQUEST).encode()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 50]), body[i : i + 50]) for i in range(0, len(body), 50)
    )
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    assert b'"python"' in exchange(filetype_server, head + chunks + b"0\r\n\r\n")


def test_expect_100_continue(filetype_server: Server) -> None:
    body = json.dumps(REQUEST).encode()
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    received = exchange(filetype_server, head + body)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_an_upgrade_that_is_not_spoken_is_answered_as_http_1(filetype_server: Server) -> None:
    raw = (
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    )
    assert exchange(filetype_server, raw).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nBad Header\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", 413),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n", 413),
        (b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, 413),
    ],
)
def test_what_is_not_a_request_is_refused_and_the_next_one_served(
    filetype_server: Server, raw: bytes, status: int
) -> None:
    received = exchange(filetype_server, raw)
    assert received.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert b'"code"' in received
    assert filetype_server.request("POST", "/predict", REQUEST).status == 200


def test_a_body_shorter_than_announced(filetype_server: Server) -> None:
    raw = b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{}"
    received = exchange(filetype_server, raw, half_close=True)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"before the request was whole" in received


def test_a_body_longer_than_announced(filetype_server: Server) -> None:
    raw = (
        b"POST /predict HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        b'{}"and more that was not announced"\r\n\r\n'
    )
    received = exchange(filetype_server, raw)
    assert received.startswith(b"HTTP/1.1 400")
    assert filetype_server.request("POST", "/predict", REQUEST).status == 200


def test_many_at_once_all_are_answered(filetype_server: Server) -> None:
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(5):
            statuses.append(filetype_server.request("POST", "/predict", REQUEST).status)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert statuses == [200] * 80
