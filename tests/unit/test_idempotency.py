"""One execution for each key, over the embedded ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preheat.errors import InProgressError, LedgerError, UnprocessableError
from preheat.idempotency import Idempotency, Result
from preheat.ledger import Claimed, new_fence, open_ledger


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite3"


def one(url: str, lease: float = 5.0, down: str = "fail") -> Idempotency:
    return Idempotency(open_ledger(url), lease=lease, keep=60, down=down)


def never() -> bytes:
    raise AssertionError("this must not run")


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_the_first_runs_and_the_next_replay_it_byte_for_byte(url: str) -> None:
    first, second = one(url), one(url)
    assert first.run("k", "f", lambda: b"\x00one") == Result(b"\x00one", False, 1, False)
    assert second.run("k", "f", never) == Result(b"\x00one", True, 0, False)
    assert second.run("other", "f", lambda: b"two").outcome == b"two"


def test_another_request_under_the_key_is_refused(url: str) -> None:
    one(url).run("k", "f", lambda: b"one")
    with pytest.raises(UnprocessableError, match="used with another request") as caught:
        one(url).run("k", "g", never)
    assert caught.value.code == "idempotency_key_reused"


def test_while_one_runs_another_is_told_so_or_waits(url: str) -> None:
    entered, go = threading.Event(), threading.Event()
    thread, results = in_thread(lambda: one(url).run("k", "f", lambda: (entered.set(), go.wait(5), b"x")[2]))
    entered.wait(5)
    with pytest.raises(InProgressError) as caught:
        one(url).run("k", "f", never)
    assert 1 <= caught.value.retry_after <= 5
    with pytest.raises(InProgressError):
        one(url).run("k", "f", never, wait=0.1)
    waiting, waited = in_thread(lambda: one(url).run("k", "f", never, wait=5))
    go.set()
    waiting.join(5)
    thread.join(5)
    assert waited == [Result(b"x", True, 0, False)]
    assert results == [Result(b"x", False, 1, False)]


def test_work_that_fails_gives_the_key_up_at_once(url: str) -> None:
    def fail() -> bytes:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        one(url).run("k", "f", fail)
    assert one(url).run("k", "f", lambda: b"again") == Result(b"again", False, 1, False)


def test_leases_are_renewed_while_the_work_runs(url: str) -> None:
    entered = threading.Event()
    thread, results = in_thread(
        lambda: one(url, lease=0.3).run("k", "f", lambda: (entered.set(), time.sleep(1.2), b"slow")[2])
    )
    entered.wait(5)
    until = time.monotonic() + 0.9
    while time.monotonic() < until:
        with pytest.raises(InProgressError):
            one(url, lease=0.3).run("k", "f", never)
        time.sleep(0.05)
    thread.join(5)
    assert results == [Result(b"slow", False, 1, False)]


def test_a_lapsed_key_is_taken_over_and_the_loser_gets_the_winners_outcome(url: str) -> None:
    """The owner's heartbeat is stopped, as for a process that was frozen while it ran."""
    frozen, entered, go = one(url, lease=0.2), threading.Event(), threading.Event()
    thread, results = in_thread(
        lambda: frozen.run("k", "f", lambda: (entered.set(), go.wait(5), b"stale")[2])
    )
    entered.wait(5)
    frozen._heart._due.clear()
    won = one(url, lease=0.2).run("k", "f", lambda: b"winner", wait=5)
    assert won == Result(b"winner", False, 2, False)
    go.set()
    thread.join(5)
    assert results == [Result(b"winner", True, 1, False)]
    assert one(url).run("k", "f", never).outcome == b"winner"


def test_a_loser_whose_winner_still_runs_gives_no_outcome_of_its_own(url: str) -> None:
    frozen, entered, go = one(url, lease=0.2), threading.Event(), threading.Event()
    thread, results = in_thread(
        lambda: frozen.run("k", "f", lambda: (entered.set(), go.wait(5), b"stale")[2])
    )
    entered.wait(5)
    frozen._heart._due.clear()
    time.sleep(0.25)
    ledger = open_ledger(url)
    assert isinstance(ledger.claim("k", "f", new_fence(), lease=5, keep=60), Claimed)
    go.set()
    thread.join(5)
    assert isinstance(results[0], InProgressError)


def test_a_lapsed_lease_that_nobody_took_is_no_obstacle(url: str) -> None:
    frozen = one(url, lease=0.1)

    def work() -> bytes:
        frozen._heart._due.clear()
        time.sleep(0.2)
        return b"late"

    assert frozen.run("k", "f", work) == Result(b"late", False, 1, False)


def test_closing_gives_up_what_is_held(url: str) -> None:
    owner, entered, go = one(url, lease=30), threading.Event(), threading.Event()
    thread, _ = in_thread(lambda: owner.run("k", "f", lambda: (entered.set(), go.wait(5), b"x")[2]))
    entered.wait(5)
    owner.close()
    assert one(url).run("k", "f", lambda: b"next").outcome == b"next"
    go.set()
    thread.join(5)


def test_a_ledger_that_is_down_fails_or_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = f"sqlite:///{tmp_path}/file/ledger"
    with pytest.raises(LedgerError, match="cannot be made"):
        one(url).run("k", "f", never)
    assert one(url, down="open").run("k", "f", lambda: b"x") == Result(b"x", False, 0, True)
