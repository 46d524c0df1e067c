"""Functions up on one machine: routed by name, held while they start, scaled from zero and back."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from preheat.measure.client import free_port
from preheat.server import listen

from ...conftest import ROOT, gone, running
from .conftest import KIND, up

SHORT = ("--stable-window", "0.6", "--grace", "0.4")


def test_functions_by_name_and_one_at_the_root(told: Path, filetype_artifact: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), str(filetype_artifact)) as gateway:
        first = gateway.predict()
        assert first.status == 200
        assert first.headers["x-preheat-start"] == "cold"
        assert gateway.predict().headers["x-preheat-start"] == "warm"
        assert gateway.predict().headers["x-preheat-instance"] == first.headers["x-preheat-instance"]
        assert (
            gateway.predict(name="filetype").headers["x-preheat-instance"]
            != first.headers["x-preheat-instance"]
        )
        live = gateway.request("GET", "/told/v2/health/live?verbose=1")
        assert live.json() == {"live": True}
        nobody = gateway.request("GET", "/predict")
        assert (nobody.status, nobody.json()["code"]) == (404, "not_found")
        assert "/told/, /filetype/" in nobody.json()["error"]
    with up(tmp_path, str(told / "app.py")) as gateway:
        assert gateway.request("POST", "/predict", b"x" * 64, KIND).status == 200
        assert gateway.predict().status == 200


def test_places_and_pages_are_the_gateways(told: Path, filetype_artifact: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), str(filetype_artifact)) as gateway:
        deferred = gateway.predict(name="filetype", prefer="respond-async")
        assert deferred.status == 202
        place = deferred.headers["location"]
        assert place.startswith("/filetype/v2/requests/")
        deadline = time.monotonic() + 20
        while (answer := gateway.request("GET", place)).status == 202:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert answer.status == 200
        assert answer.json()["predictions"]
        assert "/filetype/openapi.json" in gateway.request("GET", "/filetype/docs").body.decode()
        assert "/predict" in gateway.request("GET", "/filetype/openapi.json").json()["paths"]


def test_a_body_comes_whole_with_an_upgrade(told: Path, filetype_artifact: Path, tmp_path: Path) -> None:
    body = b"import os\n" * 20
    head = b"POST /filetype/predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    head += b"Upgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
    head += b"Content-Type: application/octet-stream\r\nContent-Length: 200\r\n\r\n"
    last = b"GET /_preheat/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with (
        up(tmp_path, str(told), str(filetype_artifact)) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client,
    ):
        client.sendall(head + body + last)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert b'"predictions"' in received
    assert b'"functions"' in received


def test_every_function_of_the_folder_without_arguments(told: Path, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    told.rename(tmp_path / "functions" / "one")
    with up(tmp_path) as gateway:
        assert list(gateway.status()["functions"]) == ["one"]
        assert gateway.predict(name="one").status == 200


def test_what_a_client_sends_is_parsed_strictly_and_kept_alive(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told)) as gateway:
        connection = gateway.connect()
        local = connection.sock.getsockname()
        for body in (b"a" * 64, b"b" * 300_000):
            connection.request("POST", "/predict", body, KIND)
            response = connection.getresponse()
            assert response.status == 200
            json.loads(response.read())
        assert connection.sock.getsockname() == local
        connection.request("HEAD", "/v2/health/ready")
        head = connection.getresponse()
        assert (head.status, head.read()) == (200, b"")
        chunks = (part for part in (b"c" * 100, b"d" * 100))
        connection.request("POST", "/predict", chunks, KIND, encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()
        for raw, status in (
            (b"nonsense\r\n\r\n", b"400"),
            (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"413"),
        ):
            with socket.create_connection(("127.0.0.1", gateway.port)) as client:
                client.sendall(raw)
                assert client.recv(100).split()[1] == status
        large = gateway.request("POST", "/predict", b"", {**KIND, "content-length": str(1 << 40)})
        assert large.status == 413
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            one = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
            client.sendall(one * 3)
            text = b""
            while text.count(b'{"live": true}') < 3:
                text += client.recv(10_000)
        refused = gateway.request("POST", "/predict", b"x", {**KIND, "x-preheat-timeout": "soon"})
        assert (refused.status, refused.json()["code"]) == (400, "timeout_malformed")


def test_a_burst_on_an_idle_function_is_answered_whole_and_once(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--max", "8") as gateway:
        together = threading.Barrier(50)

        def ask(number: int) -> tuple[int, str]:
            connection = gateway.connect()
            together.wait()
            connection.request("POST", "/predict", f"ask {number:08}".encode().ljust(64), KIND)
            response = connection.getresponse()
            response.read()
            connection.close()
            return response.status, response.headers["x-preheat-instance"]

        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(ask, range(50)))
        assert Counter(status for status, _ in answers) == {200: 50}
        seen = Counter((told / "seen").read_text().split())
        assert seen == Counter({f"{n:08}": 1 for n in range(50)})
        assert 1 <= len({instance for _, instance in answers}) <= 8
        assert len((told / "starts").read_text().split()) <= 8
        found = gateway.function()
        assert found["outcomes"] == {"ok": 50}
        assert found["queue"]["waiting"] == 0
        assert found["queue"]["most"] > 0
        assert len(found["instances"]) + len(found["ended"]) <= 8


def test_to_zero_after_the_stable_window_and_the_grace_and_back(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *SHORT) as gateway:
        assert gateway.function()["state"] == "at zero"
        gateway.predict()
        answered = time.monotonic()
        (instance,) = gateway.function()["instances"]
        found = gateway.wait(lambda found: found["state"] == "at zero" and found["ended"])
        assert time.monotonic() - answered > 0.9, "before the stable window and the grace were over"
        ended = found["ended"][0]["ended"]
        assert ended == {"code": "stopped", "message": "scaled down; it exited with 0"}
        assert "told-1  scaled down; it exited with 0\n" in gateway.log.read_text()
        assert not running(instance["pid"])
        assert gateway.predict().headers["x-preheat-start"] == "cold"


def test_a_function_keeps_its_least_and_is_scaled_by_hand(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *SHORT, "--min", "1", "--max", "3") as gateway:
        gateway.wait(lambda found: found["state"] == "ready")
        assert gateway.predict().headers["x-preheat-start"] == "cold"  # its first answer
        assert gateway.scale(3).json() == {"function": "told", "asked": 3, "done": True}
        assert [one["state"] for one in gateway.function()["instances"]].count("ready") == 3
        gateway.wait(lambda found: len(found["instances"]) == 1)
        pid = gateway.function()["instances"][0]["pid"]
        assert gateway.scale(0).status == 200
        assert not running(pid)
        gateway.wait(lambda found: found["state"] == "ready")
        for wrong in (4, -1, "2", True, None):
            assert gateway.scale(wrong).status == 400
        assert gateway.scale(0, "nobody").status == 404
        form = gateway.request(
            "POST", "/_preheat/functions/told/scale", b"{}", {"content-type": "text/plain"}
        )
        assert form.status == 415, "a page of another site could send it"
        assert gateway.request("GET", "/_preheat/functions/told/scale").status == 405
        assert gateway.request("GET", "/_preheat/more").status == 404


def test_the_queue_has_an_end_and_a_request_its_time(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--max", "1", "--concurrency", "1", "--queue", "2") as gateway:
        gateway.predict()
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda n: gateway.predict(f"sleep {n}"), range(6)))
        shed = [one for one in answers if one.status == 503]
        assert len(shed) == 3
        for one in shed:
            assert one.headers["x-preheat-outcome"] == one.json()["code"] == "shed"
            assert int(one.headers["retry-after"]) >= 1
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(gateway.predict, "sleep 1")
            gateway.wait(lambda found: any(one["in_flight"] for one in found["instances"]))
            late = gateway.predict(x_preheat_timeout="0.2")
            assert (late.status, late.headers["x-preheat-outcome"]) == (504, "timed_out")
            assert first.result().status == 200
        assert gateway.function()["outcomes"] == {"ok": 5, "shed": 3, "timed_out": 1}


def test_what_waits_for_a_client_that_left_is_not_run(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--max", "1", "--concurrency", "1") as gateway:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(gateway.predict, "sleep 1")
            gateway.wait(lambda found: any(one["in_flight"] for one in found["instances"]))
            connection = gateway.connect()
            connection.request("POST", "/predict", b"ask 00000042".ljust(64), KIND)
            gateway.wait(lambda found: found["queue"]["waiting"] == 1)
            connection.close()
            gateway.wait(lambda found: found["queue"]["waiting"] == 0)
            assert first.result().status == 200
        assert gateway.predict().status == 200
        assert "00000042" not in (told / "seen").read_text()
        assert gateway.function()["outcomes"] == {"gone": 1, "ok": 2}


def test_sigterm_answers_what_was_sent_and_ends_every_instance(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--max", "2", "--concurrency", "1") as gateway:
        gateway.predict()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(gateway.predict, f"sleep {n}") for n in range(4)]
            gateway.wait(lambda found: found["queue"]["waiting"] >= 2)
            pids = [one["pid"] for one in gateway.function()["instances"]]
            gateway.process.send_signal(signal.SIGTERM)
            assert [one.result().status for one in asked] == [200] * 4
        assert gateway.process.wait(30) == 0
        assert not any(map(running, pids))
        listen("127.0.0.1", gateway.port).close()


def test_sigterm_during_a_start_and_a_second_signal(told: Path, tmp_path: Path) -> None:
    (told / "start").write_text("never")
    with up(tmp_path, str(told)) as gateway, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.predict)
        pid = gateway.wait(lambda found: found["state"] == "starting")["instances"][0]["pid"]
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(10) == 130
        assert isinstance(asked.exception(), http.client.HTTPException | OSError)
        assert gone([pid])
        gateway.process.returncode = 0  # what `up` looks at


def test_wrong_use_is_told_in_words(told: Path, tmp_path: Path) -> None:
    def said(*arguments: str, **more: str) -> str:
        command = [sys.executable, "-m", "preheat", "up", *arguments, "--state", str(tmp_path / "state")]
        environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **more}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environ)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        return done.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in said(str(told), "--port", port)
    assert "there is no functions/*/app.py here" in said()
    assert "nowhere does not exist" in said("nowhere")
    assert "both called 'told'" in said(str(told), str(told / "app.py"))
    assert "holds neither app.py nor manifest.json" in said(str(tmp_path))
    assert "no folder and no app.py" in said(str(ROOT / "README.md"))
    port = str(free_port())
    assert "/nowhere" in said(str(told), "--port", port, PREHEAT_API_KEYS="/nowhere")
    assert "--start must be one of" in said(str(told), "--start", "magic")
    assert "--min must not be above --max" in said(str(told), "--min", "9")
    nobody = said(str(told), PREHEAT_ISOLATE="tenant", PORT=str(free_port()))
    assert "told: PREHEAT_ISOLATE=tenant wants" in nobody
    assert "set PREHEAT_API_KEYS or PREHEAT_JWT_KEYS" in nobody
    assert "--target must be above 0" in said(str(told), "--target", "0")
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "preheat", "up", str(told), "--state", str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)
