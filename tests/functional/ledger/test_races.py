"""Several threads, processes and forked children over one store: one claim succeeds, one outcome stands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from preheat.ledger import Claimed, Ledger, Replay, new_fence, open_ledger

from .conftest import Store

LONG = {"lease": 30.0, "keep": 60.0}


def test_threads_that_race_for_a_key_get_it_once(ledger: Ledger, store: Store) -> None:
    threads, rounds = 8, 5 if store.kind == "dynamodb" else 25
    barrier = Barrier(threads)

    def race(_: int) -> list[tuple[str, object, bytes | None]]:
        seen = []
        for number in range(rounds):
            barrier.wait(60)
            fence = new_fence()
            claim = ledger.claim(f"k{number}", "print", fence, **LONG)
            stands = ledger.commit(f"k{number}", fence, fence.encode(), keep=60)
            seen.append((fence, claim, stands))
        return seen

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(race, range(threads)))
    for number in range(rounds):
        tried = [thread[number] for thread in found]
        (owner,) = [fence for fence, claim, _ in tried if isinstance(claim, Claimed)]
        assert {stands for *_, stands in tried} <= {owner.encode(), None}
        assert ledger.read(f"k{number}").outcome == owner.encode()  # type: ignore[union-attr]
        assert all(c == Replay(owner.encode()) for _, c, _ in tried if isinstance(c, Replay))


def test_threads_that_race_for_a_lapsed_key_get_it_once(ledger: Ledger, store: Store) -> None:
    threads, rounds = 8, 4 if store.kind == "dynamodb" else 15
    barrier = Barrier(threads)
    for number in range(rounds):
        ledger.claim(f"k{number}", "print", "gone", request=b"body", **LONG)
        ledger.release(f"k{number}", "gone")

    def race(_: int) -> list[object]:
        seen: list[object] = []
        for number in range(rounds):
            barrier.wait(60)
            seen.append(ledger.claim(f"k{number}", "print", new_fence(), **LONG))
        return seen

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(race, range(threads)))
    for number in range(rounds):
        owners = [t[number] for t in found if isinstance(t[number], Claimed)]
        assert [(c.attempt, c.request) for c in owners] == [(2, b"body")]  # type: ignore[attr-defined]


RACER = """
import sys, time
from preheat.ledger import Claimed, new_fence, open_ledger
url, keys, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ledger = open_ledger(url)
ledger.read("warm")
time.sleep(max(start - time.time(), 0))
for number in range(keys):
    fence = new_fence()
    if isinstance(ledger.claim(f"k{number}", "print", fence, lease=30, keep=60), Claimed):
        assert ledger.commit(f"k{number}", fence, fence.encode(), keep=60) == fence.encode()
        print(number, fence)
"""


def test_processes_that_race_for_a_key_get_it_once(store: Store) -> None:
    keys, start = 20 if store.kind == "dynamodb" else 100, str(time.time() + 2)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store.url, str(keys), start], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    won = [line.split() for racer in racers for line in racer.communicate(timeout=120)[0].splitlines()]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert Counter(number for number, _ in won) == {str(number): 1 for number in range(keys)}
    ledger = store.open()
    for number, fence in won:
        assert ledger.read(f"k{number}").outcome == fence.encode()  # type: ignore[union-attr]


def forked(work: Callable[[], bool]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(0 if work() else 1)
    except BaseException:
        os._exit(2)


def test_a_forked_child_has_a_client_of_its_own(ledger: Ledger) -> None:
    ledger.claim("parent", "print", "p", **LONG)

    def child(number: int) -> Callable[[], bool]:
        def work() -> bool:
            key, fence = f"child {number}", f"c{number}"
            return all(
                ledger.claim(f"{key} {i}", "print", fence, **LONG) == Claimed(fence, 1, b"")
                and ledger.commit(f"{key} {i}", fence, fence.encode(), keep=60) == fence.encode()
                for i in range(10)
            )

        return work

    children = [forked(child(number)) for number in range(3)]
    for i in range(10):  # at the same time, on the client that the children must not touch
        assert ledger.heartbeat("parent", "p", lease=30)
        ledger.claim(f"p {i}", "print", "p", **LONG)
        assert ledger.commit(f"p {i}", "p", b"parent", keep=60) == b"parent"
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    for number in range(3):
        for i in range(10):
            assert ledger.read(f"child {number} {i}").outcome == f"c{number}".encode()  # type: ignore[union-attr]


def test_what_a_child_commits_stays_when_its_parent_closes_first(ledger: Ledger, store: Store) -> None:
    ledger.claim("k", "print", "one", **LONG)
    go, ready = os.pipe(), os.pipe()

    def work() -> bool:
        ledger.read("k")
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        return ledger.commit("k", "one", b"of the child", keep=60) == b"of the child"

    pid = forked(work)
    os.read(ready[0], 1)
    for opened in store.opened:
        opened.close()  # SQLite clears its journal away when the last connection is closed
    os.write(go[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for end in (*go, *ready):
        os.close(end)
    again = open_ledger(store.url)
    assert again.read("k").outcome == b"of the child"  # type: ignore[union-attr]
    again.close()
