"""Requests that are answered later, by the instance that took them or by another."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from preheat.ledger import open_ledger

from ..conftest import Answer, Server, serving
from .conftest import Door

BODY = json.dumps({"content": "aGVsbG8=", "path": "a"}).encode()
LATER = {"prefer": "respond-async", "content-type": "application/json"}


def settled(server: Server, place: str, within: float = 15.0) -> Answer:
    until = time.monotonic() + within
    while True:
        answer = server.request("GET", place)
        if answer.status != 202:
            return answer
        assert answer.json()["status"] in ("running", "waiting")
        assert time.monotonic() < until, "it was never answered"
        time.sleep(0.02)


def test_a_deferred_request_is_accepted_and_answered_at_its_place(filetype_server: Server) -> None:
    now = filetype_server.request("POST", "/predict", BODY)
    accepted = filetype_server.request("POST", "/predict", BODY, LATER)
    assert accepted.status == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.headers["x-preheat-outcome"] == "accepted"
    assert accepted.headers["location"] == f"/v2/requests/{accepted.json()['id']}"
    first = settled(filetype_server, accepted.headers["location"])
    assert (first.status, first.body) == (200, now.body)
    assert first.headers["x-preheat-replayed"] == "true"
    again = filetype_server.request("GET", accepted.headers["location"])
    assert again.body == first.body


def test_with_a_key_it_is_one_request_however_it_is_sent(filetype_server: Server) -> None:
    headers = {**LATER, "idempotency-key": f"later-{time.time_ns()}"}
    places = set()
    for _ in range(3):
        answer = filetype_server.request("POST", "/predict", BODY, headers)
        assert answer.status in (200, 202)
        if answer.status == 202:
            places.add(answer.headers["location"])
    assert len(places) == 1
    body = settled(filetype_server, places.pop()).body
    plain = filetype_server.request("POST", "/predict", BODY, {**headers, "prefer": "wait=5"})
    assert (plain.status, plain.body, plain.headers["x-preheat-replayed"]) == (200, body, "true")
    other = filetype_server.request("POST", "/predict", b'{"content": "b3Ro"}', headers)
    assert other.status == 422


def test_what_cannot_be_answered_is_refused_at_once(filetype_server: Server) -> None:
    answer = filetype_server.request("POST", "/predict", b"{", LATER)
    assert answer.status == 400


@pytest.mark.parametrize("identifier", ["0" * 40, "x", "x.y", "0" * 39 + "."])
def test_an_unknown_request_is_not_found(door: Door, identifier: str) -> None:
    for method in ("GET", "DELETE"):
        answer = door(method, f"/v2/requests/{identifier}")
        assert answer.status == 404
        assert answer.json()["code"] == "not_found"


def test_an_answer_may_be_forgotten(filetype_server: Server) -> None:
    place = filetype_server.request("POST", "/predict", BODY, LATER).headers["location"]
    assert settled(filetype_server, place).status == 200
    assert filetype_server.request("DELETE", place).status == 204
    assert filetype_server.request("GET", place).status == 404
    assert filetype_server.request("DELETE", place).status == 404


def slow(tmp: Path, artifact: Path, seconds: float) -> Path:
    """A function whose answers take their time."""
    home = tmp / "slow"
    home.mkdir(exist_ok=True)
    (home / "app.py").write_text(
        "import time\n"
        "from preheat import Function\n"
        "from preheat.tasks.filetype import FileType\n"
        "class Slow(FileType):\n"
        "    def finish(self, outputs, inputs):\n"
        f"        time.sleep({seconds})\n"
        "        return super().finish(outputs, inputs)\n"
        "function = Function(__file__, task=Slow)\n"
    )
    link = home / "artifact"
    if not link.exists():
        link.symlink_to(artifact)
    return home / "app.py"


def test_a_request_may_be_called_off_while_it_runs(filetype_artifact: Path, tmp_path: Path) -> None:
    with serving(slow(tmp_path, filetype_artifact, 1.0), PREHEAT_CACHE=str(tmp_path)) as server:
        headers = {**LATER, "idempotency-key": "k"}
        place = server.request("POST", "/predict", BODY, headers).headers["location"]
        assert server.request("GET", place).status == 202
        assert server.request("DELETE", place).status == 204
        for _ in range(2):
            gone = server.request("GET", place)
            assert (gone.status, gone.json()["code"]) == (410, "cancelled")
            time.sleep(1.2)  # what ran has ended meanwhile, and its commit lost
        assert server.request("POST", "/predict", BODY, headers).status == 410


def test_another_instance_answers_what_a_dead_one_took(filetype_artifact: Path, tmp_path: Path) -> None:
    app = slow(tmp_path, filetype_artifact, 1.0)
    environ = {"PREHEAT_LEDGER": f"sqlite:///{tmp_path}/ledger", "PREHEAT_LEASE": "1"}
    with serving(app, PREHEAT_CACHE=str(tmp_path / "a"), **environ) as first:
        places = [
            first.request("POST", "/predict", BODY, {**LATER, "idempotency-key": f"k{i}"}).headers["location"]
            for i in range(3)
        ]
        first.process.kill()
        died = time.monotonic()
        with serving(app, PREHEAT_CACHE=str(tmp_path / "b"), **environ) as second:
            second.wait_ready()
            answers = [settled(second, place) for place in places]
    assert [answer.status for answer in answers] == [200] * 3
    assert len({answer.body for answer in answers}) == 1
    assert time.monotonic() - died < 12


def test_an_instance_that_is_stopped_hands_back_what_it_did_not_begin(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    app = slow(tmp_path, filetype_artifact, 0.5)
    environ = {
        "PREHEAT_LEDGER": f"sqlite:///{tmp_path}/ledger",
        "PREHEAT_LEASE": "30",
        "PREHEAT_CONCURRENCY": "1",
    }
    with serving(app, PREHEAT_CACHE=str(tmp_path / "a"), **environ) as first:
        places = [first.request("POST", "/predict", BODY, LATER).headers["location"] for _ in range(5)]
        status, _, errors = first.stop()
        assert status == 0
        assert "Traceback" not in errors
    with serving(app, PREHEAT_CACHE=str(tmp_path / "b"), **environ) as second:
        assert [settled(second, place, within=20).status for place in places] == [200] * 5


def test_where_keys_are_off_nothing_is_deferred(filetype_artifact: Path, tmp_path: Path) -> None:
    with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path), PREHEAT_IDEMPOTENCY="off") as server:
        assert server.request("POST", "/predict", BODY, LATER).status == 200
        assert server.request("GET", f"/v2/requests/{'0' * 40}").status == 404


def test_what_another_function_left_behind_on_the_same_ledger_is_not_run(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    """Neither could answer for the other, and what it would record is final."""
    url = f"sqlite:///{tmp_path}/ledger"
    head = {
        "method": "POST",
        "path": "/predict",
        "headers": {"content-type": "application/json"},
        "tenant": "",
    }
    envelope = json.dumps(head).encode() + b"\n" + BODY
    ledger = open_ledger(url)
    for name in ("embed", "filetype"):
        ledger.claim(f"of.{name}", f"{name}:", f"fence-{name}", lease=0.1, keep=60, request=envelope)
    with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path / "cache"), PREHEAT_LEDGER=url) as server:
        server.wait_ready()
        until = time.monotonic() + 20
        while (own := ledger.read("of.filetype")) is None or own.outcome is None:
            assert time.monotonic() < until, "its own was never run"
            time.sleep(0.05)
        time.sleep(2.5)  # two more looks
        other = ledger.read("of.embed")
        assert other is not None
        assert (other.outcome, other.attempt) == (None, 1)
    ledger.close()
