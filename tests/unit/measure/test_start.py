"""Starts of small programs: what is measured, what is told of a failure, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from preheat.errors import PreheatError
from preheat.measure import rounds, start
from preheat.measure.client import Response, request
from preheat.measure.start import PORT, REPORT, Contender, Start, cold_start

SERVER = """
import os, socket, sys, time
def serve(answer, coldstart=b'{"origin_ns": 1}', status=b"200 OK"):
    listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    open(sys.argv[1], "w").write(str(os.getpid()))
    while True:
        client, _ = listener.accept()
        asked = client.recv(65536)
        body = coldstart if b"/coldstart" in asked else answer
        client.sendall(b"HTTP/1.1 %s\\r\\ncontent-length: %d\\r\\n\\r\\n" % (status, len(body)) + body)
        client.close()
"""


def contender(program: str, pid_file: Path, **more: Any) -> Contender:
    return Contender(
        "program",
        (sys.executable, "-c", SERVER + program, str(pid_file)),
        os.environ,
        request("POST", "/", b"{}"),
        more.pop("check", lambda response: None if response.body == b"right" else "not right"),
        **more,
    )


def gone(pid_file: Path) -> bool:
    """Whether the program that wrote its process id has ended, and was waited for."""
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_a_start_is_timed_from_before_the_spawn_to_the_last_byte(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    before = time.perf_counter_ns()
    found = cold_start(contender("time.sleep(0.1); serve(b'right')", pid, phases=REPORT))
    after = time.perf_counter_ns()
    assert found.problem is None
    assert found.response is not None
    assert found.response.body == b"right"
    assert before < found.begin_ns < found.connected_ns < found.end_ns < after
    assert 100 < found.total_ms < (after - before) / 1e6
    assert found.coldstart == {"origin_ns": 1}
    assert found.pss_mib is not None
    assert 1 < found.pss_mib < 500
    assert gone(pid)


def test_the_port_is_told_in_the_environment_and_in_the_command(tmp_path: Path) -> None:
    program = contender("assert sys.argv[2] == os.environ['PORT']; serve(b'right')", tmp_path / "pid")
    found = cold_start(program._replace(command=(*program.command, PORT)))
    assert found.problem is None


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("sys.exit('the model is missing')", "it exited with 1: the model is missing"),
        ("os.kill(os.getpid(), 9)", "it was ended by signal 9"),
        ("print('{\"a\": \"log line\"}', flush=True); os._exit(3)", "it exited with 3 and printed nothing"),
        ("serve(b'shed', status=b'503 No')", "it answered 503, shed; it was ended by signal 15"),
        ("serve(b'right', coldstart=b'[]')", "GET /coldstart answered 200"),
        ("serve(b'right', coldstart=b'<html>')", "Expecting value"),
    ],
)  # fmt: skip
def test_a_start_that_fails_says_why(program: str, problem: str, tmp_path: Path) -> None:
    found = cold_start(contender(program, tmp_path / "pid", phases=REPORT))
    assert found.problem is not None
    assert problem in found.problem


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "START_S", 0.3)
    found = cold_start(
        contender("open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)", tmp_path / "pid")
    )
    assert found.problem is not None
    assert "nothing listened in time" in found.problem
    assert gone(tmp_path / "pid")


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "STOP_S", 0.2)
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); serve(b'right')"
    found = cold_start(contender(ignoring, tmp_path / "pid"))
    assert found.problem is None  # it did answer
    assert gone(tmp_path / "pid")


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    program = f"""
import signal, threading
threading.Timer(0.1, os.kill, (os.getppid(), signal.{signal.SIGINT.name})).start()
open(sys.argv[1], 'w').write(str(os.getpid()))
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        cold_start(contender(program, tmp_path / "pid"))
    assert gone(tmp_path / "pid")


def fake(total_ms: float, body: bytes = b"right", problem: str | None = None) -> Start:
    return Start(0, 0, int(total_ms * 1e6), Response(200, {}, body), None, None, problem)


def test_rounds_take_turns_and_count_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    waiting = {
        "a": [fake(10), fake(1000, b"wrong"), fake(12)],
        "b": [fake(20), fake(0, problem="it crashed"), fake(22)],
    }

    def started(contender: Contender) -> Start:
        order.append(contender.label)
        return waiting[contender.label].pop(0)

    monkeypatch.setattr(rounds, "cold_start", started)
    pair = [contender("", tmp_path / "pid")._replace(label=label) for label in "ab"]
    told: list[tuple[str, int, int]] = []
    dropped: list[int] = []
    a, b = rounds.run(
        pair, 3, before=lambda: dropped.append(1), progress=lambda *said: told.append(said), pause_s=0
    )
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [start.total_ms for start in a.good] == [10, 12]
    assert a.wrong == [(2, "not right")]
    assert [start.total_ms for start in b.good] == [20, 22]
    assert b.wrong == [(2, "it crashed")]
    assert len(dropped) == 6
    assert told == [(label, i, 6) for i, label in enumerate(order)]


def test_a_rehearsal_that_fails_ends_it_all(tmp_path: Path) -> None:
    with pytest.raises(PreheatError, match=r"program does not start: .*no such model"):
        rounds.rehearse(contender("sys.exit('no such model')", tmp_path / "pid"))
