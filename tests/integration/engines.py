"""What a worker runs a key by: our own Idempotency over a ledger that is watched, or Powertools."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from preheat.errors import InProgressError, LedgerError
from preheat.idempotency import Idempotency
from preheat.ledger import Claim, Claimed, InProgress, Ledger, Pending, Record, Replay, open_ledger

from . import broken_ledgers
from .history import Kind, Recorder, digest
from .plan import Config, Plan, Step

STALLED = "this run keeps the lease from being renewed"
KEEP_S = 24 * 3600.0
Work = Callable[[], bytes]


class Engine(Protocol):
    def run(self, key: str, fingerprint: str, work: Work, *, wait: float) -> bytes:
        """Raises InProgressError, UnprocessableError, LedgerError and what ``work`` raises."""
        ...


class Steps:
    """Where a worker dies, and what it remembers of the execution that each of its threads has."""

    def __init__(self, plan: Plan, recorder: Recorder) -> None:
        self.plan = plan
        self.record = recorder
        self.here = threading.local()
        self.stalled: set[str] = set()
        """Fences that are not renewed."""

    def reach(self, step: Step, key: str) -> None:
        if self.plan.befalls(key, step):
            self.record(Kind.KILLED, key, value=step)
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # the signal arrives before this ends

    @property
    def fence(self) -> str:
        """Of the execution that this thread runs; empty where the engine has none."""
        return getattr(self.here, "fence", "")


class WatchedLedger:
    """A ledger whose calls are written down, and around which the process dies as the plan says."""

    def __init__(self, ledger: Ledger, steps: Steps) -> None:
        self._inner = ledger
        self._steps = steps
        self._record = steps.record
        self.durability, self.limit = ledger.durability, ledger.limit

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        self._steps.reach(Step.BEFORE_CLAIM, key)
        began = time.monotonic()
        self._record(Kind.CLAIMING, key, fence)
        try:
            claim = self._inner.claim(key, fingerprint, fence, lease=lease, keep=keep, request=request)
        except LedgerError as error:
            self._record(Kind.CLAIM_FAILED, key, fence, str(error)[:200], began)
            raise
        if isinstance(claim, Claimed):
            self._record(Kind.CLAIMED, key, fence, str(claim.attempt), began)
            self._steps.here.fence = fence
            fate = self._steps.plan.fates.get(key)
            if fate is not None and fate.lapse and self._steps.plan.once(f"{key} stalls"):
                self._steps.stalled.add(fence)
            self._steps.reach(Step.AFTER_CLAIM, key)
        elif isinstance(claim, Replay):
            self._record(Kind.REPLAY, key, fence, digest(claim.outcome), began)
        elif isinstance(claim, InProgress):
            self._record(Kind.IN_PROGRESS, key, fence, f"{claim.retry_after:.3f}", began)
        else:
            self._record(Kind.MISMATCH, key, fence, "", began)
        return claim

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        if fence in self._steps.stalled:
            raise LedgerError(STALLED)
        self._steps.reach(Step.AT_RENEWAL, key)
        began = time.monotonic()
        try:
            held = self._inner.heartbeat(key, fence, lease=lease)
        except LedgerError:
            self._record(Kind.RENEWAL_FAILED, key, fence, "", began)
            raise
        self._record(Kind.RENEWED if held else Kind.RENEWAL_REFUSED, key, fence, "", began)
        return held

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        self._steps.reach(Step.BEFORE_COMMIT, key)
        began = time.monotonic()
        self._record(Kind.COMMITTING, key, fence, digest(outcome))
        try:
            stands = self._inner.commit(key, fence, outcome, keep=keep)
        except LedgerError as error:
            self._record(Kind.COMMIT_FAILED, key, fence, str(error)[:200], began)
            raise
        kind = Kind.COMMIT_REFUSED if stands is None else Kind.COMMITTED
        self._record(kind, key, fence, "" if stands is None else digest(stands), began)
        self._steps.reach(Step.AFTER_COMMIT, key)
        return stands

    def release(self, key: str, fence: str) -> bool:
        self._steps.reach(Step.BEFORE_RELEASE, key)
        began = time.monotonic()
        self._record(Kind.RELEASING, key, fence)
        try:
            held = self._inner.release(key, fence)
        except LedgerError as error:
            self._record(Kind.RELEASE_FAILED, key, fence, str(error)[:200], began)
            raise
        self._record(Kind.RELEASED if held else Kind.RELEASE_REFUSED, key, fence, "", began)
        self._steps.reach(Step.AFTER_RELEASE, key)
        return held

    def read(self, key: str) -> Record | None:
        return self._inner.read(key)

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._inner.cancel(key, fence, outcome, keep=keep)

    def remove(self, key: str) -> bool:
        return self._inner.remove(key)

    def pending(self, limit: int) -> list[Pending]:
        return self._inner.pending(limit)

    def init(self) -> None:
        self._inner.init()

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        self._inner.close()


class Preheat:
    def __init__(self, ledger: Ledger, lease: float) -> None:
        self._idempotency = Idempotency(ledger, lease=lease, keep=KEEP_S)

    def run(self, key: str, fingerprint: str, work: Work, *, wait: float) -> bytes:
        return self._idempotency.run(key, fingerprint, work, wait=wait).outcome


class Powertools:
    """Their own decorator over their layers. A claim expires with the Lambda context's remaining time."""

    def __init__(self, layer: Any, lease: float) -> None:
        from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig

        class Context:
            def get_remaining_time_in_millis(self) -> int:
                return int(lease * 1000)

        self._layer = layer
        self._config = IdempotencyConfig(event_key_jmespath="key", expires_after_seconds=int(KEEP_S))
        self._config.register_lambda_context(Context())  # type: ignore[arg-type]

    def run(self, key: str, fingerprint: str, work: Work, *, wait: float) -> bytes:
        from aws_lambda_powertools.utilities.idempotency import idempotent_function
        from aws_lambda_powertools.utilities.idempotency.exceptions import (
            IdempotencyAlreadyInProgressError,
            IdempotencyInconsistentStateError,
            IdempotencyPersistenceLayerError,
        )

        @idempotent_function(
            data_keyword_argument="event", persistence_store=self._layer, config=self._config
        )
        def execute(event: dict[str, str]) -> str:
            return work().decode()

        try:
            return str(execute(event={"key": key})).encode()
        except (IdempotencyAlreadyInProgressError, IdempotencyInconsistentStateError) as error:
            raise InProgressError(str(error), retry_after=1) from error
        except IdempotencyPersistenceLayerError as error:
            raise LedgerError(str(error)) from error


def make(config: Config, steps: Steps | None = None) -> Engine:
    """What the run's configuration names; with ``steps`` one that is watched, and dies by them."""
    if config.engine.startswith("powertools-"):
        return Powertools(powertools_layer(config.engine, config.url), config.lease)
    if config.engine == "preheat":
        ledger = open_ledger(config.url)
    else:
        ledger = broken_ledgers.BROKEN[config.engine](config.url)
    return Preheat(WatchedLedger(ledger, steps) if steps else ledger, config.lease)


def powertools_layer(engine: str, url: str) -> Any:
    """``url``: what their layer takes, Redis's own or the endpoint of DynamoDB."""
    if engine == "powertools-redis":
        import redis
        from aws_lambda_powertools.utilities.idempotency.persistence.redis import RedisCachePersistenceLayer

        return RedisCachePersistenceLayer(client=redis.Redis.from_url(url, decode_responses=True))
    import boto3
    from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer

    client = boto3.client(
        "dynamodb",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    return DynamoDBPersistenceLayer(table_name=POWERTOOLS_TABLE, boto3_client=client)


POWERTOOLS_TABLE = "powertools"


def make_powertools_table(url: str) -> None:
    powertools_layer("powertools-dynamodb", url).client.create_table(
        TableName=POWERTOOLS_TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
