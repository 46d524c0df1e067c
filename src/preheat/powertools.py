"""A persistence layer for Powertools' idempotency (aws-lambda-powertools 3) over the ledger.

::

    from aws_lambda_powertools.utilities.idempotency import idempotent
    from preheat.powertools import LedgerPersistenceLayer

    layer = LedgerPersistenceLayer("dynamodb://records")

    @idempotent(persistence_store=layer)
    def handler(event, context): ...

What it adds to Powertools' own layers: every write is conditional on the fence of the execution that claimed
the key, so a stale owner's result is refused and its failure deletes nothing; a lease that is renewed while
the function runs, in place of the invocation's deadline; retries that replay with payload validation on.

What Powertools' interface leaves open: an owner whose lease lapsed and whose key another took over has no way
to return the other's result. It gets IdempotencyPersistenceLayerError instead, the invocation fails, and the
next try replays what was committed. In a durable function a replay that finds its key still claimed by a
former invocation runs without a claim, and its result is refused likewise until that lease has lapsed. And
Powertools replays an empty result (``[]``, ``0``, ``""``) as None, whatever layer it has.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, NamedTuple

from .errors import LedgerError, UsageError
from .idempotency import Heart, Patience
from .ledger import Claimed, Ledger, Mismatch, Replay, new_fence, open_ledger

try:
    from aws_lambda_powertools.utilities.idempotency import BasePersistenceLayer
    from aws_lambda_powertools.utilities.idempotency.exceptions import (
        IdempotencyInconsistentStateError,
        IdempotencyItemAlreadyExistsError,
        IdempotencyItemNotFoundError,
        IdempotencyValidationError,
    )
    from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord
except ImportError as missing:
    raise UsageError(
        f"preheat.powertools needs {missing.name}, which is not installed: pip install 'preheat[lambda]'"
    ) from missing

LONGEST_S = 900.0
"""For how long a lease is renewed where no Lambda context tells how long the invocation may take: as long as
any may."""
_PREFIX = "powertools:"
_log = logging.getLogger(__name__)


class _Claim(NamedTuple):
    data: Any
    """The very object that Powertools hands in with every step of one execution."""
    name: str
    fence: str


class _Thread(threading.local):
    """What a thread is at. Powertools runs every step of an execution in the thread that began it."""

    def __init__(self) -> None:
        self.function_name = ""
        self.data: Any = None
        self.remaining_s = LONGEST_S
        self.claims: list[_Claim] = []


class LedgerPersistenceLayer(BasePersistenceLayer):
    """``ledger``: one that is open, or its URL as PREHEAT_LEDGER has it; ``blobs``: where what is too large
    for its records lies, as PREHEAT_LEDGER_BLOBS has it. ``lease``: seconds after which the key of an
    instance that died may be run by another; renewed while the function runs. ``wait``: seconds to wait for
    another execution of the key, before IdempotencyAlreadyInProgressError.

    May be shared by threads and by functions, nested ones too. Raises SettingsError for another URL.
    """

    def __init__(
        self, ledger: Ledger | str, *, blobs: str = "", lease: float = 10.0, wait: float = 0.0
    ) -> None:
        if not lease > 0 or not wait >= 0:
            raise UsageError("lease must be more than 0 seconds, and wait not less than 0")
        self._thread = _Thread()
        self._ledger = open_ledger(ledger, blobs=blobs) if isinstance(ledger, str) else ledger
        self._lease = lease
        self._wait = wait
        self._heart = Heart(self._ledger, lease)
        super().__init__()  # type: ignore[no-untyped-call]  # published without types

    @property
    def function_name(self) -> str:
        """A part of every key. Powertools sets it with each call, so each thread has its own."""
        return self._thread.function_name

    @function_name.setter
    def function_name(self, name: str) -> None:
        self._thread.function_name = name

    def close(self) -> None:
        """Give up every key that is held, and close the ledger's client."""
        self._heart.stop()
        self._ledger.close()

    # The steps of an execution, which tell here whose they are

    def save_inprogress(self, data: Any, remaining_time_in_millis: int | None = None) -> None:
        self._thread.data = data
        millis = LONGEST_S * 1000 if remaining_time_in_millis is None else remaining_time_in_millis
        self._thread.remaining_s = millis / 1000
        super().save_inprogress(data, int(millis))

    def save_success(self, data: Any, result: Any) -> None:
        self._thread.data = data
        super().save_success(data, result)

    def delete_record(self, data: Any, exception: Exception) -> None:
        self._thread.data = data
        super().delete_record(data, exception)

    # What a store does

    def _put_record(self, data_record: DataRecord) -> None:
        name, fence, thread = data_record.idempotency_key, new_fence(), self._thread
        patience = Patience(min(self._wait, thread.remaining_s))
        while True:
            claim = self._ledger.claim(
                _PREFIX + name,
                data_record.payload_hash,
                fence,
                lease=self._lease,
                keep=self.expires_after_seconds,
            )
            if isinstance(claim, Claimed):
                break
            if isinstance(claim, Mismatch):
                raise IdempotencyValidationError("Payload does not match stored record for this event key")
            if isinstance(claim, Replay):
                done = _done(name, data_record.payload_hash, claim.outcome)
                if done.expiry_timestamp is not None:
                    self._save_to_cache(done)
                raise IdempotencyItemAlreadyExistsError(old_data_record=done)
            if not patience.pause(claim.retry_after):
                running = _running(name, data_record.payload_hash, claim.retry_after)
                raise IdempotencyItemAlreadyExistsError(old_data_record=running)
        thread.claims.append(_Claim(thread.data, name, fence))
        self._heart.hold(_PREFIX + name, fence, limit=thread.remaining_s)

    def _update_record(self, data_record: DataRecord) -> None:
        claim = self._end(data_record)
        if claim is None:
            raise IdempotencyInconsistentStateError("this execution has no claim to its key")
        outcome = f"{data_record.expiry_timestamp}\n{data_record.response_data}".encode()
        try:
            stands = self._ledger.commit(
                _PREFIX + claim.name, claim.fence, outcome, keep=self.expires_after_seconds
            )
        finally:
            self._heart.drop(_PREFIX + claim.name, claim.fence)
        if stands is None or _response(stands) != data_record.response_data:
            raise IdempotencyInconsistentStateError(
                "the lease of this execution lapsed, and another one took its key over: the other's result "
                "stands, and the next try gets it"
            )

    def _delete_record(self, data_record: DataRecord) -> None:
        claim = self._end(data_record)
        if claim is None:
            return
        self._heart.drop(_PREFIX + claim.name, claim.fence)
        try:
            self._ledger.release(_PREFIX + claim.name, claim.fence)
        except LedgerError as error:
            # Not raised: it would hide the function's own exception, and the lease lapses by itself.
            _log.warning("a key stays claimed until its lease lapses: %s", error)

    def _get_record(self, idempotency_key: str) -> DataRecord:
        record = self._ledger.read(_PREFIX + idempotency_key)
        if record is None:
            raise IdempotencyItemNotFoundError
        if record.outcome is None:
            return _running(idempotency_key, record.fingerprint, record.lease_left)
        return _done(idempotency_key, record.fingerprint, record.outcome)

    def _end(self, data_record: DataRecord) -> _Claim | None:
        """The claim of the execution that ends, the innermost of this thread that has its data; None where
        it made none. What lies further in was left by an exception that Powertools does not handle."""
        claims = self._thread.claims
        for index in reversed(range(len(claims))):
            if claims[index].data is self._thread.data:
                claim, left = claims[index], claims[index + 1 :]
                del claims[index:]
                for other in left:
                    self._heart.drop(_PREFIX + other.name, other.fence)
                # A nested function has changed what Powertools makes names from, the local cache's too.
                data_record.idempotency_key = claim.name
                return claim
        return None


def _done(name: str, payload_hash: str, outcome: bytes) -> DataRecord:
    """A record that is replayed. Without its expiry where that has passed by this machine's clock: the
    store's clock decides, and it says that the record stands."""
    expiry = int(outcome.partition(b"\n")[0])
    return DataRecord(
        idempotency_key=name,
        status="COMPLETED",
        expiry_timestamp=expiry if expiry > time.time() else None,
        response_data=_response(outcome),
        payload_hash=payload_hash,
    )


def _running(name: str, payload_hash: str, lapses_in: float) -> DataRecord:
    return DataRecord(
        idempotency_key=name,
        status="INPROGRESS",
        in_progress_expiry_timestamp=int((time.time() + lapses_in) * 1000),
        payload_hash=payload_hash,
    )


def _response(outcome: bytes) -> str:
    return outcome.partition(b"\n")[2].decode()
