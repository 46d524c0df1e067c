"""Workers whose clocks are wrong: a live lease is never taken early, nor an outcome forgotten."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import time_machine

from preheat.ledger import Claimed, InProgress, Replay
from preheat.ledger.blobs import WithBlobs
from preheat.ledger.dynamodb import DynamoLedger

from .conftest import Store, place
from .test_contract import LEASE, take_over


@pytest.mark.parametrize("skew", [-60, 60])
def test_a_worker_with_a_wrong_clock_takes_no_live_lease(store: Store, skew: int) -> None:
    right, lease = store.open(), 2 * LEASE
    with time_machine.travel(time.time() + skew, tick=True):
        wrong = store.open()
        wrong.read("k")  # its client is made: that may take longer than the lease
    since = time.monotonic()
    assert isinstance(right.claim("k", "print", "right", lease=lease, keep=60), Claimed)
    with time_machine.travel(time.time() + skew, tick=True):
        claim = wrong.claim("k", "print", "wrong", lease=lease, keep=60)
        assert isinstance(claim, InProgress)
        assert claim.retry_after <= lease + 2.2 + (time.monotonic() - since)
        assert take_over(wrong, "k", "wrong", since, lease).attempt == 2


@pytest.mark.parametrize("skew", [-60, 60])
def test_the_lease_of_a_worker_with_a_wrong_clock_is_neither_short_nor_long(store: Store, skew: int) -> None:
    with time_machine.travel(time.time() + skew, tick=True):
        wrong = store.open()
        since = time.monotonic()
        assert isinstance(wrong.claim("k", "print", "wrong", lease=LEASE, keep=60), Claimed)
    assert take_over(store.open(), "k", "right", since).attempt == 2


@pytest.mark.parametrize("skew", [-60, 60, 3600])
def test_a_clock_that_jumps_under_a_client_forgets_no_outcome(store: Store, skew: int) -> None:
    ledger = store.open()
    ledger.claim("done", "print", "one", lease=30, keep=50)
    ledger.commit("done", "one", b"done", keep=50)
    ledger.claim("held", "print", "one", lease=30, keep=50)
    with time_machine.travel(time.time() + skew, tick=True):
        assert ledger.claim("done", "print", "two", lease=30, keep=50) == Replay(b"done")
        assert isinstance(ledger.claim("held", "print", "two", lease=30, keep=50), InProgress)
        assert ledger.heartbeat("held", "one", lease=30)


def test_a_frozen_dynamodb_client_finds_out_by_the_first_answer(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A machine that was stopped and goes on: its monotonic clock lags, and no clock of its own tells."""
    made = Store("dynamodb", place("dynamodb", request, tmp_path))
    ledger, other = made.open(), made.open()
    ledger.init()
    for operation in ("claim", "heartbeat"):
        ledger.claim("k", "print", "one", lease=5, keep=60)
        assert isinstance(ledger, WithBlobs)
        assert isinstance(ledger.ledger, DynamoLedger)
        known = ledger.ledger._clock._known
        assert known is not None
        known.low, known.high = known.low - 300, known.high - 300
        if operation == "claim":
            assert isinstance(ledger.claim("k", "print", "one", lease=5, keep=60), Claimed)
        else:
            assert ledger.heartbeat("k", "one", lease=5)
        record = other.read("k")
        assert record is not None
        assert 4 < record.lease_left < 8
    for client in made.opened:
        client.close()
