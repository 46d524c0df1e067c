"""Idempotency keys: one suite over every door."""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest

from preheat import Function
from preheat.errors import SettingsError

from ..conftest import Answer, Server, serving
from .conftest import Door

BODY = json.dumps({"content": "aGVsbG8=", "path": "a"}).encode()


def fresh() -> str:
    return str(uuid.uuid4())


def stable(answer: Answer) -> tuple[Any, ...]:
    return answer.status, answer.headers["content-type"], answer.body


def test_the_same_key_replays_the_first_answer_byte_for_byte(door: Door) -> None:
    key = fresh()
    first = door("POST", "/predict", BODY, idempotency_key=key, content_type="application/json")
    again = door("POST", "/predict", BODY, idempotency_key=key, content_type="application/json")
    assert first.status == 200
    assert "x-preheat-replayed" not in first.headers
    assert again.headers["x-preheat-replayed"] == "true"
    assert again.headers["x-preheat-outcome"] == "ok"
    assert stable(first) == stable(again)


def test_binary_answers_are_replayed_with_their_headers(door: Door) -> None:
    metadata = door("GET", "/v2").json()
    assert metadata["name"]
    document = json.dumps(
        {
            "inputs": [{"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [256] * 2048}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    key = f'"{fresh()}"'
    answers = [
        door(
            "POST",
            "/v2/models/filetype/infer",
            document,
            idempotency_key=key,
            content_type="application/json",
        )
        for _ in range(2)
    ]
    assert answers[0].status == 200, answers[0].body
    assert answers[1].headers["x-preheat-replayed"] == "true"
    name = "inference-header-content-length"
    assert answers[0].headers[name] == answers[1].headers[name]
    assert stable(answers[0]) == stable(answers[1])


def test_white_space_member_order_and_compression_make_no_other_request(door: Door) -> None:
    key = fresh()
    forms = [BODY, b'{ "path": "a",\n "content": "aGVsbG8=" }']
    for i, body in enumerate(forms):
        answer = door("POST", "/predict", body, idempotency_key=key, content_type="application/json")
        assert answer.status == 200
        assert ("x-preheat-replayed" in answer.headers) == (i > 0)
    packed = door(
        "POST",
        "/predict",
        gzip.compress(BODY),
        idempotency_key=key,
        content_type="application/json",
        content_encoding="gzip",
    )
    assert packed.headers["x-preheat-replayed"] == "true"


def test_another_request_under_the_same_key_is_refused(door: Door) -> None:
    key = fresh()
    assert door("POST", "/predict", BODY, idempotency_key=key).status == 200
    other = door("POST", "/predict", b'{"content": "b3RoZXI="}', idempotency_key=key)
    assert other.status == 422
    assert other.json()["code"] == "idempotency_key_reused"
    assert other.headers["x-preheat-outcome"] == "rejected"


def test_a_key_belongs_to_its_route(door: Door) -> None:
    key = fresh()
    door("POST", "/predict", BODY, idempotency_key=key)
    other = door("POST", "/v2/models/filetype/infer", b"{}", idempotency_key=key)
    assert other.status == 400
    assert other.json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    "key", ["", '""', "a b", "a, b", '"a", "b"', "x" * 256, '"', 'a"b', "\xe9"], ids=lambda key: key[:8]
)
def test_a_malformed_key_is_refused(door: Door, key: str) -> None:
    answer = door("POST", "/predict", BODY, idempotency_key=key)
    assert answer.status == 400
    assert answer.json()["code"] == "idempotency_key_malformed"


@pytest.mark.parametrize("key", ["x" * 255, '"a, b"', '"a \\" b"', "a/b?c=d&e:;~"])
def test_a_key_may_be_any_visible_text(door: Door, key: str) -> None:
    assert door("POST", "/predict", BODY, idempotency_key=key).status == 200
    assert door("POST", "/predict", BODY, idempotency_key=key).headers["x-preheat-replayed"] == "true"


def test_what_fails_validation_takes_no_key(door: Door) -> None:
    key = fresh()
    assert door("POST", "/predict", b"{", idempotency_key=key).status == 400
    good = door("POST", "/predict", BODY, idempotency_key=key)
    assert good.status == 200
    assert "x-preheat-replayed" not in good.headers


def test_a_refusal_of_the_model_is_an_outcome(embed_door: Door) -> None:
    """Token 10**6 is outside the vocabulary: onnxruntime refuses the lookup."""
    inputs = [
        {
            "name": name,
            "shape": [1, 2],
            "datatype": "INT64",
            "data": [10**6 if name == "input_ids" else 1] * 2,
        }
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    names = {spec["name"] for spec in embed_door("GET", "/v2/models/embed").json()["inputs"]}
    body = json.dumps({"inputs": [one for one in inputs if one["name"] in names]}).encode()
    key = fresh()
    answers = [embed_door("POST", "/v2/models/embed/infer", body, idempotency_key=key) for _ in range(2)]
    assert [a.status for a in answers] == [422, 422]
    assert answers[0].body == answers[1].body
    assert answers[1].headers["x-preheat-replayed"] == "true"
    assert answers[1].headers["x-preheat-outcome"] == "rejected"


def test_many_at_once_run_once_and_the_others_wait_or_are_told(filetype_server: Server) -> None:
    key, answers = fresh(), []

    def send(prefer: str) -> None:
        headers = {"idempotency-key": key, "prefer": prefer}
        answers.append(filetype_server.request("POST", "/predict", BODY, headers))

    threads = [threading.Thread(target=send, args=("wait=10" if i % 2 else "",)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    good = [a for a in answers if a.status == 200]
    told = [a for a in answers if a.status == 409]
    assert len(good) + len(told) == 16
    assert len(good) >= 8
    assert len([a for a in good if "x-preheat-replayed" not in a.headers]) == 1
    assert len({a.body for a in good}) == 1
    for answer in told:
        assert answer.headers["x-preheat-outcome"] == "in_progress"
        assert int(answer.headers["retry-after"]) >= 1


def test_a_key_may_be_required_by_route(filetype_artifact: Path, tmp_path: Path) -> None:
    environ = {"PREHEAT_CACHE": str(tmp_path), "PREHEAT_IDEMPOTENCY": "off,/predict=required"}
    with serving(filetype_artifact, **environ) as server:
        missing = server.request("POST", "/predict", BODY)
        assert missing.status == 400
        assert missing.json()["code"] == "idempotency_key_missing"
        assert server.request("POST", "/predict", BODY, {"idempotency-key": "k"}).status == 200
        for _ in range(2):
            answer = server.request("POST", "/v2/models/filetype/infer", b"{}", {"idempotency-key": '""'})
            assert answer.json()["code"] == "invalid_request", "the key means nothing there"


@pytest.mark.parametrize("down", ["fail", "open"])
def test_a_ledger_that_is_down(filetype_artifact: Path, tmp_path: Path, down: str) -> None:
    (tmp_path / "file").write_text("")
    environ = {
        "PREHEAT_CACHE": str(tmp_path),
        "PREHEAT_LEDGER": f"sqlite:///{tmp_path}/file/ledger",
        "PREHEAT_LEDGER_DOWN": down,
    }
    with serving(filetype_artifact, **environ) as server:
        assert server.request("POST", "/predict", BODY).status == 200
        answer = server.request("POST", "/predict", BODY, {"idempotency-key": "k"})
        if down == "open":
            assert answer.status == 200
            assert answer.headers["x-preheat-degraded"] == "ledger"
        else:
            assert answer.status == 503
            assert answer.json()["code"] == "ledger_unavailable"
            assert answer.headers["x-preheat-outcome"] == "unavailable"
            assert answer.headers["retry-after"] == "1"


def test_outcomes_outlive_the_instance(filetype_artifact: Path, tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path)) as server:
            answers.append(server.request("POST", "/predict", BODY, {"idempotency-key": "k"}))
    assert [a.status for a in answers] == [200, 200]
    assert answers[1].headers["x-preheat-replayed"] == "true"
    assert answers[0].body == answers[1].body


def test_a_ledger_that_no_other_instance_shares_is_told(filetype_artifact: Path, tmp_path: Path) -> None:
    with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path), K_SERVICE="filetype") as server:
        answer = server.request("POST", "/predict", BODY, {"idempotency-key": "k"})
        assert answer.headers["x-preheat-degraded"] == "ledger=local"
        assert "x-preheat-degraded" not in server.request("POST", "/predict", BODY).headers


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PREHEAT_LEDGER": "mysql://x"}, "a ledger (PREHEAT_LEDGER) is sqlite:///file"),
        ({"PREHEAT_LEDGER": "dynamodb://t"}, "a name of 3 to 255"),
        ({"PREHEAT_IDEMPOTENCY": "optional,/predit=required"}, "/predit, which is no route that takes a key"),
    ],
)
def test_a_setting_that_cannot_be_meant_ends_the_start(
    filetype_artifact: Path, tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    server = Server(filetype_artifact, PREHEAT_CACHE=str(tmp_path), **environ)
    status, _, errors = server.finish()
    assert status == 2
    assert said in errors
    assert "Traceback" not in errors


def test_a_ledger_whose_package_is_missing_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preheat.ledger.remote.find_spec", lambda _: None)
    function = Function(environ={"PREHEAT_LEDGER": "postgresql://nobody@localhost/x"})
    with pytest.raises(SettingsError, match=r"needs psycopg: pip install 'preheat\[postgres\]'"):
        function.start()
