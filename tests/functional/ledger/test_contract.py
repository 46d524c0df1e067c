"""What every store must do: each transition of a record, and who may make it."""

from __future__ import annotations

import time

import pytest

from preheat.ledger import Claimed, InProgress, Ledger, Mismatch, Pending, Replay

from .conftest import Store

LEASE = 0.4
LONG = {"lease": 30.0, "keep": 60.0}
SHORT = {"lease": LEASE, "keep": 60.0}


def take_over(ledger: Ledger, key: str, fence: str, since: float, lease: float = LEASE) -> Claimed:
    """Claim a key as soon as its lease, taken at ``since``, has lapsed: not before, and soon after."""
    while True:
        asked = time.monotonic()
        claim = ledger.claim(key, "print", fence, **LONG)
        if isinstance(claim, Claimed):
            assert time.monotonic() - since >= lease, "a live lease was taken"
            assert asked - since < lease + 1.6, "a lapsed lease was not given"
            return claim
        assert isinstance(claim, InProgress)
        time.sleep(0.05)


def test_a_key_is_claimed_once_and_then_replayed(ledger: Ledger) -> None:
    assert ledger.read("k") is None
    assert ledger.claim("k", "print", "one", **LONG) == Claimed("one", 1, b"")
    waiting = ledger.claim("k", "print", "two", **LONG)
    assert isinstance(waiting, InProgress)
    assert 25 < waiting.retry_after <= 32
    assert ledger.commit("k", "one", b"\x00outcome\xff", keep=60) == b"\x00outcome\xff"
    assert ledger.claim("k", "print", "two", **LONG) == Replay(b"\x00outcome\xff")
    record = ledger.read("k")
    assert record is not None
    assert (record.fingerprint, record.attempt, record.lease_left) == ("print", 1, 0)
    assert (record.outcome, record.request) == (b"\x00outcome\xff", b"")


def test_an_empty_outcome_is_an_outcome(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **LONG)
    assert ledger.commit("k", "one", b"", keep=60) == b""
    assert ledger.claim("k", "print", "two", **LONG) == Replay(b"")


def test_keys_are_any_text(ledger: Ledger) -> None:
    keys = ["a", "A", "a ", "{a}", "a:b", "ключ", "'; DROP TABLE records --", "x" * 1000]
    for key in keys:
        assert ledger.claim(key, key, f"of {key[:9]}", **LONG) == Claimed(f"of {key[:9]}", 1, b"")
    assert [ledger.read(key).fingerprint for key in keys] == keys  # type: ignore[union-attr]


def test_another_fingerprint_is_a_mismatch_in_every_state(ledger: Ledger) -> None:
    begun = time.monotonic()
    ledger.claim("k", "print", "one", **SHORT)
    assert ledger.claim("k", "other", "two", **LONG) == Mismatch()
    time.sleep(max(begun + LEASE + 0.1 - time.monotonic(), 0))
    assert ledger.claim("k", "other", "two", **LONG) == Mismatch()
    ledger.commit("k", "one", b"done", keep=60)
    assert ledger.claim("k", "other", "two", **LONG) == Mismatch()


def test_every_call_may_be_repeated_with_its_fence(ledger: Ledger) -> None:
    for _ in range(3):
        assert ledger.claim("k", "print", "one", request=b"body", **LONG) == Claimed("one", 1, b"body")
    for _ in range(3):
        assert ledger.heartbeat("k", "one", lease=30)
    for _ in range(3):
        assert ledger.commit("k", "one", b"done", keep=60) == b"done"
    for _ in range(3):
        assert ledger.cancel("k", "other", b"cancelled", keep=60) == b"done"
    assert ledger.claim("k", "print", "one", **LONG) == Replay(b"done")


def test_a_repeated_claim_has_its_whole_lease(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **SHORT)
    time.sleep(LEASE / 2)
    since = time.monotonic()
    assert ledger.claim("k", "print", "one", **SHORT) == Claimed("one", 1, b"")
    take_over(ledger, "k", "two", since)


def test_a_lapsed_lease_is_taken_over_and_the_stale_owner_changes_nothing(ledger: Ledger) -> None:
    since = time.monotonic()
    ledger.claim("k", "print", "one", request=b"body", **SHORT)
    assert take_over(ledger, "k", "two", since) == Claimed("two", 2, b"body")
    assert not ledger.heartbeat("k", "one", lease=30)
    assert not ledger.release("k", "one")
    assert ledger.commit("k", "one", b"stale", keep=60) is None
    assert ledger.heartbeat("k", "two", lease=30)
    assert ledger.commit("k", "two", b"winner", keep=60) == b"winner"
    assert ledger.commit("k", "one", b"stale", keep=60) == b"winner"
    assert not ledger.heartbeat("k", "two", lease=30)
    assert not ledger.release("k", "two")
    assert ledger.read("k").outcome == b"winner"  # type: ignore[union-attr]


def test_a_lapsed_lease_that_nobody_took_over_still_commits(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", lease=0.05, keep=60)
    time.sleep(0.2)
    assert ledger.commit("k", "one", b"late", keep=60) == b"late"


def test_a_heartbeat_keeps_the_lease(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **SHORT)
    for _ in range(6):
        time.sleep(LEASE / 2)
        since = time.monotonic()
        assert ledger.heartbeat("k", "one", lease=LEASE)
        assert isinstance(ledger.claim("k", "print", "two", **LONG), InProgress)
    assert take_over(ledger, "k", "two", since).attempt == 2


def test_attempts_are_counted(ledger: Ledger) -> None:
    for attempt in range(1, 4):
        since = time.monotonic()
        fence = f"fence {attempt}"
        if attempt == 1:
            assert ledger.claim("k", "print", fence, lease=0.1, keep=60) == Claimed(fence, 1, b"")
        else:
            assert take_over(ledger, "k", fence, since, 0).attempt == attempt
        ledger.release("k", "nobody")
        ledger.heartbeat("k", fence, lease=0.01)
        time.sleep(0.05)


def test_release_without_a_request_forgets_the_key(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **LONG)
    assert not ledger.release("k", "two")
    assert ledger.release("k", "one")
    assert ledger.read("k") is None
    assert not ledger.release("k", "one")
    assert ledger.commit("k", "one", b"late", keep=60) is None
    assert not ledger.heartbeat("k", "one", lease=30)
    assert ledger.claim("k", "other", "two", **LONG) == Claimed("two", 1, b"")


def test_release_with_a_request_leaves_it_to_others(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", request=b"body", **LONG)
    assert ledger.release("k", "one")
    assert not ledger.heartbeat("k", "one", lease=30), "what was given up is not renewed"
    record = ledger.read("k")
    assert record is not None
    assert (record.lease_left, record.request, record.outcome) == (0, b"body", None)
    assert ledger.claim("k", "print", "two", request=b"ignored", **LONG) == Claimed("two", 2, b"body")


def test_released_and_not_taken_it_may_still_be_committed(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", request=b"body", **LONG)
    ledger.release("k", "one")
    assert ledger.commit("k", "one", b"done", keep=60) == b"done"
    assert ledger.pending(10) == []


def test_cancel_ends_a_claim_whoever_owns_it(ledger: Ledger) -> None:
    assert ledger.cancel("k", "canceller", b"cancelled", keep=60) is None
    ledger.claim("k", "print", "one", request=b"body", **LONG)
    assert ledger.cancel("k", "canceller", b"cancelled", keep=60) == b"cancelled"
    assert not ledger.heartbeat("k", "one", lease=30)
    assert ledger.commit("k", "one", b"done", keep=60) == b"cancelled"
    assert ledger.claim("k", "print", "two", **LONG) == Replay(b"cancelled")


def test_remove_forgets_what_is_done_and_nothing_else(ledger: Ledger) -> None:
    assert not ledger.remove("k")
    ledger.claim("k", "print", "one", **LONG)
    assert not ledger.remove("k")
    ledger.commit("k", "one", b"done", keep=60)
    assert ledger.remove("k")
    assert not ledger.remove("k")
    assert ledger.claim("k", "print", "two", **LONG) == Claimed("two", 1, b"")


def expired(ledger: Ledger, key: str) -> None:
    """Wait until a record has expired by every clock: DynamoDB's is known to a second."""
    deadline = time.monotonic() + 5
    while ledger.read(key) is not None:
        assert time.monotonic() < deadline, "it never expired"
        time.sleep(0.05)


def test_what_has_expired_is_not_known_although_the_store_still_has_it(ledger: Ledger, store: Store) -> None:
    begun = time.monotonic()
    ledger.claim("done", "print", "one", request=b"old", **LONG)
    ledger.commit("done", "one", b"done", keep=0.5)
    ledger.claim("lapsed", "print", "one", lease=0.1, keep=0.5, request=b"old")
    assert ledger.claim("done", "print", "two", **LONG) == Replay(b"done")
    for key in ("done", "lapsed"):
        expired(ledger, key)
    assert time.monotonic() - begun >= 0.5
    assert ledger.commit("done", "other", b"x", keep=60) is None
    assert ledger.cancel("lapsed", "other", b"x", keep=60) is None
    assert not ledger.remove("done")
    assert ledger.pending(10) == []
    for key in ("done", "lapsed"):
        assert ledger.claim(key, "another print", "three", request=b"new", **LONG) == Claimed(
            "three", 1, b"new"
        )
        assert ledger.read(key).outcome is None  # type: ignore[union-attr]
    assert ledger.commit("done", "one", b"from a former life", keep=60) is None


def test_a_live_lease_outlasts_the_expiry(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", lease=30, keep=0.1)
    time.sleep(1.3)
    assert isinstance(ledger.claim("k", "print", "two", **LONG), InProgress)
    assert ledger.heartbeat("k", "one", lease=30)
    assert ledger.commit("k", "one", b"done", keep=60) == b"done"


def test_pending_names_the_requests_that_wait_for_somebody(ledger: Ledger) -> None:
    assert ledger.pending(10) == []
    ledger.claim("no request", "print", "one", lease=0.05, keep=60)
    ledger.claim("runs", "print", "two", request=b"body", **LONG)
    for name in ("a", "b", "c"):
        ledger.claim(name, f"print of {name}", name, lease=0.05, keep=60, request=b"body")
    ledger.claim("done", "print", "three", lease=0.05, keep=60, request=b"body")
    ledger.commit("done", "three", b"done", keep=60)
    deadline = time.monotonic() + 5
    while len(found := ledger.pending(10)) < 3:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert sorted(found) == [Pending(name, f"print of {name}") for name in ("a", "b", "c")]
    assert len(ledger.pending(2)) == 2
    assert ledger.claim("a", "print of a", "new", **LONG) == Claimed("new", 2, b"body")
    assert sorted(p.key for p in ledger.pending(10)) == ["b", "c"]
    ledger.cancel("b", "x", b"", keep=60)
    assert [p.key for p in ledger.pending(10)] == ["c"]


@pytest.mark.parametrize("size", [1, 65_536, 190_000])
def test_outcomes_come_back_byte_for_byte(ledger: Ledger, size: int) -> None:
    import os

    outcome, request = os.urandom(size), os.urandom(size)
    assert ledger.claim("k", "print", "one", request=request, **LONG) == Claimed("one", 1, request)
    assert ledger.commit("k", "one", outcome, keep=60) == outcome
    record = ledger.read("k")
    assert record is not None
    assert (record.outcome, record.request) == (outcome, request)


def test_a_closed_ledger_opens_itself_again(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **LONG)
    ledger.close()
    ledger.close()
    assert ledger.heartbeat("k", "one", lease=30)


def test_init_and_check_are_harmless_where_all_is_there(ledger: Ledger) -> None:
    ledger.claim("k", "print", "one", **LONG)
    ledger.init()
    ledger.check()
    assert ledger.heartbeat("k", "one", lease=30)
    assert ledger.durability
    assert ledger.name
