"""Powertools' own decorators over the ledger, and over their own DynamoDB layer for contrast."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import boto3
import pytest
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent,
    idempotent_function,
)
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyItemNotFoundError,
    IdempotencyKeyError,
    IdempotencyPersistenceLayerError,
    IdempotencyValidationError,
)
from moto import mock_aws

from preheat.errors import SettingsError, UsageError
from preheat.ledger import open_ledger
from preheat.ledger.sqlite import SqliteLedger
from preheat.powertools import LedgerPersistenceLayer


class Context(NamedTuple):
    """A Lambda context with ``seconds`` left from when it was made."""

    until: float

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self.until - time.monotonic()) * 1000), 0)


def context(seconds: float = 30.0) -> Any:
    return Context(time.monotonic() + seconds)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite3"


@pytest.fixture
def layers(url: str) -> Iterator[Callable[..., LedgerPersistenceLayer]]:
    """Layers over one ledger, each as if in a process of its own."""
    made: list[LedgerPersistenceLayer] = []

    def make(**options: Any) -> LedgerPersistenceLayer:
        made.append(LedgerPersistenceLayer(url, **options))
        return made[-1]

    yield make
    for layer in made:
        layer.close()


def handler(layer: Any, work: Callable[[Any], Any], **config: Any) -> Callable[[Any, Any], Any]:
    @idempotent(persistence_store=layer, config=IdempotencyConfig(**config), key_prefix="handler")
    def handle(event: Any, context: Any) -> Any:
        return work(event)

    return handle


def never(_event: Any) -> Any:
    raise AssertionError("this must not run")


class Owner:
    """An execution in a thread of its own, which goes on when it is told to."""

    def __init__(self, layer: Any, event: Any, result: Any, seconds: float = 30.0, **config: Any) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.outcome: Any = None

        def work(_event: Any) -> Any:
            self.entered.set()
            assert self.go.wait(20)
            if isinstance(result, Exception):
                raise result
            return result

        def run() -> None:
            try:
                self.outcome = handler(layer, work, **config)(event, context(seconds))
            except Exception as error:
                self.outcome = error

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.entered.wait(20)

    def end(self) -> Any:
        self.go.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.outcome


EVENT = {"id": 1, "amount": 7}


# What Powertools does, on this ledger


@pytest.mark.parametrize("result", [{"a": [1, None, "ü"]}, ["a"], "text", 7, True, None])
def test_a_retry_replays(layers: Callable[..., LedgerPersistenceLayer], result: Any) -> None:
    runs = []
    first = handler(layers(), lambda event: runs.append(event) or result)
    assert first(EVENT, context()) == result
    assert first(EVENT, context()) == result
    assert handler(layers(), never)(EVENT, context()) == result
    assert runs == [EVENT]
    assert handler(layers(), lambda _: "other")({"id": 2}, context()) == "other"


def test_while_one_runs_another_is_told_so_or_waits(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    owner = Owner(layers(), EVENT, "one")
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(), never)(EVENT, context())
    waits: list[Any] = []
    thread = threading.Thread(target=lambda: waits.append(handler(layers(wait=20), never)(EVENT, context())))
    thread.start()
    time.sleep(0.2)
    assert waits == []
    assert owner.end() == "one"
    thread.join(20)
    assert waits == ["one"]
    began = time.monotonic()
    stuck = Owner(layers(), {"id": 2}, "two")
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(wait=20), never)({"id": 2}, context(0.3))
    assert time.monotonic() - began < 5
    stuck.end()


def test_a_failure_frees_the_key_and_is_raised_as_it_was(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    def fail(_event: Any) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        handler(layers(), fail)(EVENT, context())
    assert handler(layers(), lambda _: "second")(EVENT, context()) == "second"


def test_an_outcome_is_forgotten_when_it_expires(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    assert handler(layers(), lambda _: "first", expires_after_seconds=1)(EVENT, context()) == "first"
    assert handler(layers(), never, expires_after_seconds=1)(EVENT, context()) == "first"
    time.sleep(1.1)
    assert handler(layers(), lambda _: "second", expires_after_seconds=1)(EVENT, context()) == "second"


def test_a_clock_that_is_ahead_expires_nothing_early(
    layers: Callable[..., LedgerPersistenceLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler(layers(), lambda _: "first", expires_after_seconds=60)(EVENT, context())
    layer = layers()
    ledger, now = layer._ledger, time.time()
    claim = ledger.claim
    monkeypatch.setattr("preheat.powertools.time.time", lambda: now + 3600)
    monkeypatch.setattr(
        layer,
        "_ledger",
        SimpleNamespace(claim=lambda *a, **k: _at(monkeypatch, now, claim, a, k), close=ledger.close),
    )
    assert handler(layer, never)(EVENT, context()) == "first"


def _at(monkeypatch: pytest.MonkeyPatch, now: float, work: Any, arguments: Any, options: Any) -> Any:
    """Call with the store's own clock, which is right."""
    with monkeypatch.context() as inner:
        inner.setattr("time.time", lambda: now)
        return work(*arguments, **options)


def test_a_hook_sees_what_is_replayed(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    def hook(response: Any, record: Any) -> Any:
        return {**response, "expires": record.expiry_timestamp, "status": record.status}

    handler(layers(), lambda _: {"a": 1}, expires_after_seconds=60)(EVENT, context())
    seen = handler(layers(), never, response_hook=hook)(EVENT, context())
    assert seen["status"] == "COMPLETED"
    assert seen["expires"] == pytest.approx(time.time() + 60, abs=5)


def test_the_local_cache_holds_what_was_committed(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    config = {"use_local_cache": True, "payload_validation_jmespath": "amount", "event_key_jmespath": "id"}
    first, second = layers(), layers()
    assert handler(first, lambda _: "one", **config)(EVENT, context()) == "one"
    assert handler(second, never, **config)(EVENT, context()) == "one"
    for layer in (first, second):
        layer._ledger = open_ledger("sqlite:////proc/no/ledger")
        assert handler(layer, never, **config)(EVENT, context()) == "one"
        with pytest.raises(IdempotencyValidationError):
            handler(layer, never, **config)({**EVENT, "amount": 8}, context())


def test_without_a_key_nothing_is_recorded(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    config = {"event_key_jmespath": "nowhere"}
    with pytest.warns(UserWarning, match="No idempotency key value found"):
        assert handler(layers(), lambda _: 1, **config)(EVENT, context()) == 1
    with pytest.raises(IdempotencyKeyError):
        handler(layers(), never, raise_on_no_idempotency_key=True, **config)(EVENT, context())


def test_any_function_without_a_lambda_context(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    runs = []

    @idempotent_function(data_keyword_argument="order", persistence_store=layers())
    def charge(order: Any) -> Any:
        runs.append(order)
        return {"charged": order}

    assert charge(order="a") == charge(order="a") == {"charged": "a"}
    assert runs == ["a"]


# The payload


def test_payload_validation_takes_a_retry_and_refuses_another_payload(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    config = {"event_key_jmespath": "id", "payload_validation_jmespath": "amount"}
    owner = Owner(layers(), EVENT, "one", **config)
    with pytest.raises(IdempotencyValidationError):
        handler(layers(), never, **config)({"id": 1, "amount": 8}, context())
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(), never, **config)(EVENT, context())
    assert owner.end() == "one"
    for _ in range(2):
        assert handler(layers(), never, **config)({**EVENT, "beside": 1}, context()) == "one"
        with pytest.raises(IdempotencyValidationError):
            handler(layers(), never, **config)({"id": 1, "amount": 8}, context())


# Leases and fences


def test_a_lease_is_renewed_while_the_function_runs(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    owner = Owner(layers(lease=0.3), EVENT, "one")
    for _ in range(5):
        time.sleep(0.25)
        with pytest.raises(IdempotencyAlreadyInProgressError):
            handler(layers(), never)(EVENT, context())
    assert owner.end() == "one"


@pytest.mark.parametrize("stale_ends_first", [True, False])
def test_of_two_owners_one_commits_and_only_its_result_is_ever_returned(
    layers: Callable[..., LedgerPersistenceLayer], stale_ends_first: bool
) -> None:
    stale = Owner(layers(lease=0.2), EVENT, "stale", seconds=0.0)
    time.sleep(0.4)
    second = Owner(layers(), EVENT, "second")
    outcomes = [owner.end() for owner in ((stale, second) if stale_ends_first else (second, stale))]
    assert "second" in outcomes
    outcomes.remove("second")
    assert isinstance(outcomes[0], IdempotencyPersistenceLayerError)
    assert "another one took its key over" in str(outcomes[0])
    for _ in range(3):
        assert handler(layers(), never)(EVENT, context()) == "second"


def test_owners_that_come_to_the_same_result_both_return_it(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    stale = Owner(layers(lease=0.2), EVENT, {"b": 1, "a": 2}, seconds=0.0)
    time.sleep(0.4)
    assert handler(layers(), lambda _: {"a": 2, "b": 1})(EVENT, context()) == {"a": 2, "b": 1}
    assert stale.end() == {"a": 2, "b": 1}


def test_a_lapsed_lease_that_nobody_took_over_is_no_obstacle(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    stale = Owner(layers(lease=0.2), EVENT, "one", seconds=0.0)
    time.sleep(0.4)
    assert stale.end() == "one"
    assert handler(layers(), never)(EVENT, context()) == "one"


def test_a_stale_owners_failure_deletes_nothing(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    stale = Owner(layers(lease=0.2), EVENT, ZeroDivisionError("late"), seconds=0.0)
    time.sleep(0.4)
    second = Owner(layers(), EVENT, "second")
    assert isinstance(stale.end(), ZeroDivisionError)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(), never)(EVENT, context())
    assert second.end() == "second"
    assert handler(layers(), never)(EVENT, context()) == "second"


KILLED = """
import sys, time
from types import SimpleNamespace
from aws_lambda_powertools.utilities.idempotency import idempotent
from preheat.powertools import LedgerPersistenceLayer
layer = LedgerPersistenceLayer(sys.argv[1], lease=1.0)
@idempotent(persistence_store=layer, key_prefix="handler")
def handle(event, context):
    print("running", flush=True)
    time.sleep(60)
handle({"id": 1, "amount": 7}, SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000))
"""


def test_a_killed_owners_key_is_free_within_its_lease_not_its_timeout(
    layers: Callable[..., LedgerPersistenceLayer], url: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    time.sleep(1.5)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(), never)(EVENT, context())
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()
    began = time.monotonic()
    assert handler(layers(wait=20), lambda _: "second")(EVENT, context()) == "second"
    assert time.monotonic() - began < 2.0


def test_an_interrupted_execution_holds_its_key_no_longer_than_its_invocation(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    """Powertools leaves the record where what is raised is no Exception."""
    layer = layers(lease=0.2)

    def interrupted(_event: Any) -> Any:
        raise SystemExit

    with pytest.raises(SystemExit):
        handler(layer, interrupted)(EVENT, context(0.5))
    with pytest.raises(IdempotencyAlreadyInProgressError):
        handler(layers(), never)(EVENT, context())
    assert handler(layers(wait=20), lambda _: "second")(EVENT, context()) == "second"


# One layer, several functions


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("data", [{"a": 1}, "a"])
def test_functions_inside_one_another_share_a_layer(
    layers: Callable[..., LedgerPersistenceLayer], cached: bool, data: Any
) -> None:
    layer, config = layers(), IdempotencyConfig(use_local_cache=cached)
    runs: list[str] = []

    @idempotent_function(
        data_keyword_argument="data", persistence_store=layer, config=config, key_prefix="inner"
    )
    def inner(data: Any) -> Any:
        runs.append("inner")
        return "inner"

    @idempotent_function(
        data_keyword_argument="data", persistence_store=layer, config=config, key_prefix="outer"
    )
    def outer(data: Any) -> Any:
        runs.append("outer")
        return [inner(data=data), inner(data=data)]

    for _ in range(2):
        assert outer(data=data) == ["inner", "inner"]
        assert inner(data=data) == "inner"
    assert runs == ["outer", "inner"]


def test_what_an_inner_function_left_behind_is_not_mistaken_for_the_outers(
    layers: Callable[..., LedgerPersistenceLayer],
) -> None:
    layer = layers()

    @idempotent_function(data_keyword_argument="data", persistence_store=layer, key_prefix="inner")
    def inner(data: Any) -> Any:
        raise SystemExit

    @idempotent_function(data_keyword_argument="data", persistence_store=layer, key_prefix="outer")
    def outer(data: Any) -> Any:
        with pytest.raises(SystemExit):
            inner(data=data)
        return "outer"

    assert outer(data={"a": 1}) == outer(data={"a": 1}) == "outer"
    with pytest.raises(IdempotencyAlreadyInProgressError):
        inner(data={"a": 1})


def test_threads_share_a_layer_and_never_a_name(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    layer, wrong = layers(), []

    def many(name: str) -> None:
        @idempotent_function(data_keyword_argument="data", persistence_store=layer, key_prefix=name)
        def named(data: Any) -> Any:
            return name

        wrong.extend(number for number in range(50) if named(data=number) != name)

    threads = [threading.Thread(target=many, args=(f"f{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert {thread.is_alive() for thread in threads} == {False}


# What goes wrong


def test_while_the_ledger_is_down_nothing_runs() -> None:
    layer = LedgerPersistenceLayer("sqlite:////proc/no/ledger")
    with pytest.raises(IdempotencyPersistenceLayerError, match="the ledger /proc/no/ledger cannot"):
        handler(layer, never)(EVENT, context())


def test_a_ledger_that_fails_later_hides_no_exception_and_loses_no_key(
    layers: Callable[..., LedgerPersistenceLayer], caplog: pytest.LogCaptureFixture
) -> None:
    layer = layers(lease=0.2)

    def breaks(_event: Any) -> Any:
        layer._ledger = open_ledger("sqlite:////proc/no/ledger")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        handler(layer, breaks)(EVENT, context())
    assert "stays claimed until its lease lapses" in caplog.text
    assert handler(layers(wait=20), lambda _: "second")(EVENT, context()) == "second"


def test_a_durable_replay_without_a_claim_is_refused(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    owner = Owner(layers(), EVENT, "one")
    durable = SimpleNamespace(state=SimpleNamespace(operations=[1, 2]), lambda_context=context())
    with pytest.raises(IdempotencyPersistenceLayerError, match="no claim to its key"):
        handler(layers(), lambda _: "replay")(EVENT, durable)
    assert owner.end() == "one"
    assert handler(layers(), never)(EVENT, durable) == "one"


def test_a_record_is_read_as_powertools_wants_it(layers: Callable[..., LedgerPersistenceLayer]) -> None:
    layer = layers()
    with pytest.raises(IdempotencyItemNotFoundError):
        layer._get_record("none")
    owner = Owner(layer, EVENT, {"a": 1})
    key = f"handler#{layer._generate_hash(EVENT)}"
    assert layer._get_record(key).status == "INPROGRESS"
    owner.end()
    assert layer._get_record(key).response_json_as_dict() == {"a": 1}


def test_a_result_too_large_for_a_record_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteLedger, "limit", 2000)
    url, large = f"sqlite:///{tmp_path}/ledger.db", {"a": "x" * 5000}
    layer = LedgerPersistenceLayer(url, blobs=str(tmp_path / "blobs"))
    assert handler(layer, lambda _: large)(EVENT, context()) == large
    assert handler(layer, never)(EVENT, context()) == large
    assert any(path.is_file() for path in (tmp_path / "blobs").rglob("*"))
    layer.close()


def test_wrong_use_is_said() -> None:
    with pytest.raises(SettingsError, match="PREHEAT_LEDGER"):
        LedgerPersistenceLayer("mysql://host")
    for options in ({"lease": 0.0}, {"wait": -1.0}, {"lease": float("nan")}):
        with pytest.raises(UsageError, match="lease must be"):
            LedgerPersistenceLayer("sqlite:///x", **options)


def test_without_powertools_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['aws_lambda_powertools'] = None; import preheat.powertools"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UsageError: preheat.powertools needs aws_lambda_powertools" in done.stderr
    assert "pip install 'preheat[lambda]'" in done.stderr


# The same on Powertools' own layer: these tests show what the ones above would catch


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], DynamoDBPersistenceLayer]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    with mock_aws():
        client = boto3.client("dynamodb")
        client.create_table(
            TableName="records",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield lambda: DynamoDBPersistenceLayer(table_name="records", boto3_client=client)


def test_on_their_own_layer_two_owners_both_commit(
    table: Callable[[], DynamoDBPersistenceLayer],
) -> None:
    stale = Owner(table(), EVENT, "stale", seconds=0.0)
    time.sleep(0.1)
    second = Owner(table(), EVENT, "second")
    assert second.end() == "second"
    replays = [handler(table(), never)(EVENT, context())]
    assert stale.end() == "stale"
    replays.append(handler(table(), never)(EVENT, context()))
    assert replays == ["second", "stale"]


def test_on_their_own_layer_a_late_failure_deletes_a_live_claim(
    table: Callable[[], DynamoDBPersistenceLayer],
) -> None:
    stale = Owner(table(), EVENT, ZeroDivisionError(), seconds=0.0)
    time.sleep(0.1)
    second = Owner(table(), EVENT, "second")
    assert isinstance(stale.end(), ZeroDivisionError)
    assert handler(table(), lambda _: "third")(EVENT, context()) == "third"
    assert second.end() == "second"
