"""Events as AWS sends them, through the handler of a real function: tenants, deadlines, queues."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from preheat import Function
from preheat.errors import InvalidRequestError

from ..conftest import event

PYTHON = base64.b64encode(b"import os\n\n\ndef main():\n    return os.getcwd()\n" * 8).decode()
HTTP = (
    *("api_gateway_v1", "api_gateway_v1_authorizer", "api_gateway_v1_cognito", "api_gateway_v1_iam"),
    *("api_gateway_v2", "api_gateway_v2_iam", "api_gateway_v2_lambda"),
    *("function_url", "function_url_iam", "function_url_cognito", "alb", "alb_multi_value"),
)


class Context(NamedTuple):
    """What Lambda gives with an event, as far as it is read here."""

    until: float
    aws_request_id: str = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:preheat"

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self.until - time.monotonic()) * 1000), 0)


def context(seconds: float = 30) -> Context:
    return Context(time.monotonic() + seconds)


class Started:
    """A function that counts what its engine ran, and may be made slow or broken."""

    def __init__(self, artifact: Path, cache: Path, **environ: str) -> None:
        self.function = Function(
            environ={"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(cache), **environ}
        )
        self.function.start()
        self.handler = self.function.handler
        self.runs = 0
        self.slow = 0.0
        self.broken: set[int] = set()
        loaded = self.function.service.current
        assert loaded is not None
        self._engine, self._run = loaded.engine, loaded.engine.infer
        loaded.engine.infer = self._counted  # type: ignore[method-assign]

    def _counted(self, *arguments: Any) -> Any:
        self.runs += 1
        time.sleep(self.slow)
        if self.runs in self.broken:
            raise RuntimeError("made to fail")
        return self._run(*arguments)

    def failed(self, batch: Any, seconds: float = 30) -> list[int]:
        """Run a batch; the numbers of the messages that come back, first one 1."""
        answer = self.handler(json.loads(json.dumps(batch)), context(seconds))
        assert list(answer) == ["batchItemFailures"]
        identifiers = [record["messageId"] for record in batch["Records"]]
        return [1 + identifiers.index(entry["itemIdentifier"]) for entry in answer["batchItemFailures"]]


@pytest.fixture
def started(filetype_artifact: Path, cache: Path) -> Iterator[Started]:
    made = Started(filetype_artifact, cache)
    yield made
    made.function.service.close()


def batch(name: str = "sqs", **first: Any) -> Any:
    """The sample's messages about a Python file, with ``first`` changing the first of them."""
    made = event(name)
    for record in made["Records"]:
        record["body"] = json.dumps({"content": PYTHON})
        record["messageAttributes"].pop("route", None)
    made["Records"][0].update(first)
    return made


def attribute(value: str) -> dict[str, Any]:
    return {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String"}


# HTTP


@pytest.mark.parametrize("name", HTTP)
def test_every_front_end_is_answered(started: Started, name: str) -> None:
    sent = event(name)
    sent["body"] = json.dumps({"content": PYTHON})
    answer = started.handler(sent, context())
    assert answer["statusCode"] == 200
    assert json.loads(answer["body"])["predictions"][0]["label"] == "python"
    assert ("multiValueHeaders" in answer) == ("multiValueHeaders" in sent)


def keyed(name: str, key: str = "k-1", **context: Any) -> Any:
    sent = event(name)
    sent.pop("multiValueHeaders", None)
    sent["headers"]["Idempotency-Key"] = key
    sent["body"] = json.dumps({"content": PYTHON})
    sent["requestContext"].update(context)
    return sent


def replayed(answer: Any) -> bool:
    assert answer["statusCode"] == 200, answer
    return "x-preheat-replayed" in answer["headers"]


def test_a_key_belongs_to_whom_the_platform_verified(started: Started) -> None:
    first = keyed("api_gateway_v2")
    assert not replayed(started.handler(first, context()))
    assert replayed(started.handler(first, context()))
    claims = first["requestContext"]["authorizer"]["jwt"]["claims"]
    another = keyed("api_gateway_v2", authorizer={"jwt": {"claims": {**claims, "sub": "user-8"}}})
    assert not replayed(started.handler(another, context()))
    pretending = keyed("function_url")
    pretending["headers"]["x-tenant"] = "user-7"
    assert not replayed(started.handler(pretending, context()))
    assert started.runs == 3


def test_a_role_is_one_tenant_on_all_of_its_machines(started: Started) -> None:
    def sent(session: str) -> Any:
        made = keyed("function_url_iam")
        arn = f"arn:aws:sts::123456789012:assumed-role/caller/{session}"
        made["requestContext"]["authorizer"]["iam"]["userArn"] = arn
        return made

    assert not replayed(started.handler(sent("i-0abc"), context()))
    assert replayed(started.handler(sent("i-0def"), context()))


def test_a_request_ends_with_the_invocation_that_carries_it(started: Started) -> None:
    sent = keyed("function_url")
    answer = started.handler(sent, context(-1))
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (504, "timed_out")
    started.slow = 0.3
    answer = started.handler(sent, context(0.1))
    assert answer["statusCode"] == 504
    started.slow = 0.0
    assert not replayed(started.handler(sent, context()))


def test_a_body_of_half_a_character_is_refused(started: Started) -> None:
    sent = keyed("function_url")
    sent["body"] = '{"content": "\ud800"}'
    answer = started.handler(sent, context())
    assert answer["statusCode"] == 400


def test_where_a_key_is_required_an_invocation_brings_its_own(filetype_artifact: Path, cache: Path) -> None:
    made = Started(filetype_artifact, cache, PREHEAT_IDEMPOTENCY="required")
    sent = {"content": PYTHON}
    again = context()
    first = made.handler(sent, again)
    assert made.handler(sent, again) == first
    assert made.runs == 1
    with pytest.raises(InvalidRequestError, match="needs the header Idempotency-Key"):
        made.handler(sent)
    assert made.failed(batch()) == []
    made.function.service.close()


# Queues


def test_a_batch_that_succeeds_leaves_nothing_behind(started: Started) -> None:
    assert started.failed(batch()) == []
    assert started.runs == 3


def test_a_message_that_comes_again_is_not_run_again(started: Started) -> None:
    assert started.failed(batch()) == []
    assert started.failed(batch()) == []
    assert started.runs == 3
    sent = batch(messageAttributes={"Idempotency-Key": attribute("order-2")})
    sent["Records"] = sent["Records"][:2]
    sent["Records"][0]["messageId"] = "another"
    assert started.failed(sent) == []
    assert started.runs == 3


def test_the_same_key_in_another_queue_is_another_request(started: Started) -> None:
    sent = batch()
    started.failed(sent)
    for record in sent["Records"]:
        record["eventSourceARN"] += "-2"
    assert started.failed(sent) == []
    assert started.runs == 6


def test_an_attribute_names_another_route(started: Started) -> None:
    tensor = {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [65] * 2048}
    route = {"route": attribute("/v2/models/filetype/infer")}
    sent = batch(body=json.dumps({"inputs": [tensor]}), messageAttributes=route)
    assert started.failed(sent) == []
    assert started.runs == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"body": "{"}, "not JSON"),
        ({"body": ""}, "not JSON"),
        ({"body": "{}"}, "content"),
        ({"body": None}, "its body is not a text"),
        ({"body": "\ud800"}, "not UTF-8"),
        ({"messageAttributes": {"route": attribute("/nowhere")}}, "no route '/nowhere'"),
        ({"messageAttributes": {"route": attribute("/coldstart")}}, "405 method_not_allowed"),
        ({"messageAttributes": {"route": attribute("/v2/models/other/infer")}}, "404 not_found"),
        ({"messageAttributes": {"Idempotency-Key": attribute("k" * 300)}}, "idempotency_key_malformed"),
        ({"messageAttributes": {"idempotency-key": attribute("\xe4")}}, "idempotency_key_malformed"),
    ],
)
def test_what_can_never_succeed_goes_back_for_the_dead_letters(
    started: Started, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    sent = batch(**change)
    for _ in range(2):
        capsys.readouterr()
        assert started.failed(sent) == [1]
        (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        assert line["message_id"] == sent["Records"][0]["messageId"]
        assert said in line["error"]
    assert started.runs == 2


def test_what_fails_on_our_side_is_delivered_again_and_then_succeeds(started: Started) -> None:
    started.broken = {2}
    assert started.failed(batch()) == [2]
    assert started.failed(batch()) == []
    assert started.runs == 4


def test_a_message_that_another_instance_runs_comes_back(started: Started) -> None:
    started.slow = 0.5
    results: list[list[int]] = []
    thread = threading.Thread(target=lambda: results.append(started.failed(batch())))
    thread.start()
    deadline = time.monotonic() + 10
    while not started.runs:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first = batch()
    first["Records"] = first["Records"][:1]
    assert started.failed(first) == [1]
    thread.join(20)
    assert results == [[]]
    assert started.failed(first) == []
    assert started.runs == 3


def test_while_the_ledger_is_down_every_message_comes_back(filetype_artifact: Path, cache: Path) -> None:
    down = Started(filetype_artifact, cache, PREHEAT_LEDGER="sqlite:////proc/no/ledger")
    assert down.failed(batch()) == [1, 2, 3]
    assert down.runs == 0


def test_in_a_fifo_queue_what_follows_a_failure_waits_for_it(started: Started) -> None:
    """Groups: a, b, a, a, b."""
    started.broken = {1}
    assert started.failed(batch("sqs_fifo")) == [1, 3, 4]
    assert started.runs == 3
    assert started.failed(batch("sqs_fifo")) == []
    assert started.runs == 6


def test_in_a_standard_queue_a_group_orders_nothing(started: Started) -> None:
    sent = batch("sqs_fifo")
    for record in sent["Records"]:
        record["eventSourceARN"] = record["eventSourceARN"].removesuffix(".fifo")
    started.broken = {1}
    assert started.failed(sent) == [1]


@pytest.mark.parametrize("name", ["sqs", "sqs_fifo"])
def test_what_would_not_fit_into_the_invocation_is_handed_back(started: Started, name: str) -> None:
    sent = batch(name)
    while len(sent["Records"]) < 10:
        sent["Records"].append({**sent["Records"][0], "messageId": f"more-{len(sent['Records'])}"})
    started.slow = 0.4
    began = time.monotonic()
    failed = started.failed(sent, seconds=1.6)
    assert time.monotonic() - began < 1.6
    assert 1 <= started.runs <= 4
    assert failed == list(range(started.runs + 1, 11))
    started.slow = 0.0
    ran = started.runs
    assert started.failed(sent) == []
    assert started.runs == 10
    assert ran < 10


@pytest.mark.parametrize("change", [{"messageId": None}, {"messageId": ""}, {"messageId": 7}])
def test_a_record_without_an_id_fails_the_batch(started: Started, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="no messageId"):
        started.handler(batch(**change), context())


@pytest.mark.parametrize("records", [[], None, {}, [7], [{}], [{"eventSource": "aws:sqs"}, {}]])
def test_other_records_are_a_direct_invocation(started: Started, records: Any) -> None:
    with pytest.raises(InvalidRequestError, match="content"):
        started.handler({"Records": records}, context())


def test_what_the_platform_let_in_needs_no_credentials(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    digest = "sha256:" + hashlib.sha256(b"pk_a").hexdigest()
    (tmp_path / "keys.json").write_text(json.dumps({"acme": digest}))
    made = Started(filetype_artifact, cache, PREHEAT_API_KEYS=str(tmp_path / "keys.json"))
    assert made.failed(batch()) == []
    assert made.handler({"content": PYTHON}, context())["predictions"][0]["label"] == "python"
    assert not replayed(made.handler(keyed("function_url_iam"), context()))
    refused = made.handler(keyed("function_url"), context())
    assert (refused["statusCode"], refused["headers"]["www-authenticate"]) == (401, "Bearer")
    known = keyed("function_url")
    known["headers"]["x-api-key"] = "pk_a"
    assert not replayed(made.handler(known, context()))
    made.function.service.close()
