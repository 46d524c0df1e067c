"""``python -m tests.hostile``: tens of thousands of requests over every door, and what became of them.

Prints a line for each door: requests by kind, answers by status, memory after each half. Exits 1 where one
was answered with a 5xx, a door answered no good request after a kind, or the second half grew memory by 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from .corpus import cases
from .doors import DOORS, Door
from .generated import KINDS, requests

SHARES = {
    "server": 14_000,
    "up": 7_000,
    "lean": 11_000,
    "fastapi": 6_000,
    "lambda-v2": 8_000,
    "lambda-v1": 6_000,
}
"""Requests by chance for each door, where 52,000 are asked for."""
GROWTH = 0.05
HELD = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(128 << 10),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 10),
}
"""glibc keeps what is free: in a heap for each thread, and below whatever lies last in one. With one heap,
and blocks from 128 KiB on outside it (its own default, which it raises by itself up to 32 MiB), memory is
what is held, not which thread served the large requests or what came after them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument(
        "--count", type=int, default=sum(SHARES.values()), help="requests by chance, all doors"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--door", choices=DOORS, help="this one alone, in this process")
    parser.add_argument("--jobs", type=int, default=2, help="doors at a time")
    given = parser.parse_args()
    if given.door:
        print(json.dumps(attack(given.door, given.count, given.seed)))
        return 0
    began = time.monotonic()

    def run(door: str) -> dict[str, Any]:
        count = max(round(given.count * SHARES[door] / sum(SHARES.values())), 1)
        command = [sys.executable, "-m", "tests.hostile", "--door", door, "--count", str(count)]
        done = subprocess.run(
            [*command, "--seed", str(given.seed)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **HELD},
        )
        if done.returncode:
            return {"door": door, "failed": done.stderr[-2000:]}
        return dict(json.loads(done.stdout.splitlines()[-1]))

    failed, sent, classes = False, 0, len({case.kind for case in cases()})
    with ThreadPoolExecutor(given.jobs) as pool:
        for row in pool.map(run, SHARES):
            print(json.dumps(row), flush=True)
            failed |= "failed" in row or bool(row["errors"]) or row["growth"] >= GROWTH or not row["alive"]
            sent += row.get("sent", 0)
    seconds = time.monotonic() - began
    print(f"{sent} requests, {len(cases())} cases of {classes} classes at each door, {seconds:.0f} s")
    return 1 if failed else 0


def attack(name: str, count: int, seed: int) -> dict[str, Any]:
    """Everything at one door."""
    statuses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    errors: list[Any] = []
    alive = True

    def send(kind: str, raw: bytes) -> None:
        found = door.send(raw)
        kinds[kind] += 1
        statuses.update(map(str, found) if found else ["none"])
        if any(status >= 500 for status in found):
            errors.append([kind, found, raw[:2000].decode("latin-1")])

    with DOORS[name]() as door:
        for kind in sorted({case.kind for case in cases()}):
            for case in cases():
                if case.kind == kind:
                    send(f"corpus: {kind}", case.raw)
            alive &= door.answers()
        before, after = (_half(door, send, seed + turn, count // 2) for turn in range(2))
        alive &= before.alive and after.alive
    return {
        "door": name,
        "sent": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "statuses": dict(sorted(statuses.items())),
        "errors": errors[:20],
        "alive": alive,
        "rss_mib": [round(half.rss_kib / 1024, 1) for half in (before, after)],
        "growth": round(after.rss_kib / before.rss_kib - 1, 4),
    }


class Half(NamedTuple):
    alive: bool
    """Whether a good request was answered after each kind."""
    rss_kib: int


def _half(door: Door, send: Callable[[str, bytes], None], seed: int, count: int) -> Half:
    """Half of the requests by chance. Until the first half is sent, caches fill, libraries load, and threads
    take their own parts of the heap; what grows in the second half grows with every request."""
    alive = True
    for wanted in KINDS:  # a kind at a time, so that what it leaves behind is seen
        for kind, raw in requests(seed, count):
            if kind == wanted:
                send(kind, raw)
        alive &= door.answers()
    return Half(alive, door.rss_kib())


if __name__ == "__main__":
    sys.exit(main())
