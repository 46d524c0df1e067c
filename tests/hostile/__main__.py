"""``python -m tests.hostile``: tens of thousands of requests over every door, and what became of them.

Prints a line for each door: requests by kind, answers by status, memory before and after. Exits 1 where one
was answered with a 5xx, a door answered no good request after a kind, or memory grew by 5 % or more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from .corpus import cases
from .doors import DOORS
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
WARM = 1500
"""Requests after which memory is looked at first: until then caches fill and libraries load."""
GROWTH = 0.05


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
            [*command, "--seed", str(given.seed)], capture_output=True, text=True, check=False
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
        stream = requests(seed, count)
        for kind, raw in islice(stream, min(WARM, count // 4)):
            send(kind, raw)
        alive &= door.answers()
        before = door.rss_kib()
        for wanted in KINDS:  # a kind at a time, so that what it leaves behind is seen
            for kind, raw in requests(seed + 1, count - min(WARM, count // 4)):
                if kind == wanted:
                    send(kind, raw)
            alive &= door.answers()
        after = door.rss_kib()
    return {
        "door": name,
        "sent": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "statuses": dict(sorted(statuses.items())),
        "errors": errors[:20],
        "alive": alive,
        "rss_mib": [round(before / 1024, 1), round(after / 1024, 1)],
        "growth": round(after / before - 1, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
