"""The ledger's stores: each operation, and keys claimed and committed by one thread and by eight.

Redis appends to its file and syncs it every second (everysec, its own default), or at every write (always);
PostgreSQL has its defaults, SQLite Preheat's; all on this machine's disk. DynamoDB is not here: what moto's
server takes says nothing of the service.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from preheat.errors import UsageError
from preheat.ledger import Claimed, Ledger, new_fence, open_ledger
from preheat.measure.run import Progress

from .figures import Benchmark, Claim, Line
from .models import OUT

BLOCK = 50
"""Keys in a block; a round has a block of each store, by one thread and by eight."""
THREADS = 8
OUTCOME = b"x" * 2000
SYNCED = "Redis, synced"
LIMITS_MS = {"SQLite": 1.0, "Redis": 1.0, SYNCED: 2.0, "PostgreSQL": 2.0}
LEAST_KEYS = 300
OPERATIONS = ("claim", "heartbeat", "commit", "replay", "release")
_numbers = itertools.count()


def run(_: Path, turns: int, progress: Progress) -> Benchmark:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ledger-", dir=OUT) as folder, _stores(Path(folder)) as stores:
        return _measured(stores, turns, progress)


def _measured(stores: dict[str, Ledger], turns: int, progress: Progress) -> Benchmark:
    taken: dict[str, list[float]] = {}
    wall: dict[str, float] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for turn in range(-1, turns):  # one round before the first, which is not counted
            for index, (name, ledger) in enumerate(stores.items()):
                progress(name, max(turn, 0) * len(stores) + index, turns * len(stores))
                block = _block(ledger)
                walls = {1: _together(pool, ledger, 1), THREADS: _together(pool, ledger, THREADS)}
                if turn < 0:
                    continue
                for operation, values in block.items():
                    taken.setdefault(f"{name}: {operation}", []).extend(values)
                for threads, seconds in walls.items():
                    label = f"{name}: claim and commit, {threads} thread{'s' * (threads > 1)}"
                    wall[label] = wall.get(label, 0.0) + seconds
    lines = [Line(name, values) for name, values in taken.items()]
    slowest = {
        name: max(line.median for line in lines if line.name.startswith(f"{name}:")) for name in stores
    }
    rates = {label: turns * BLOCK / seconds for label, seconds in wall.items()}
    return Benchmark(
        "The ledger's stores, one call at a time",
        lines,
        [
            *(
                Claim(f"{name}: slowest operation, at the median", slowest[name], LIMITS_MS[name], True, "ms")
                for name in stores
            ),
            *(Claim(label, rate, LEAST_KEYS, False, "keys/s") for label, rate in rates.items()),
        ],
    )


def _block(ledger: Ledger) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {
        name: [] for name in ("claim", "heartbeat", "commit", "replay", "release")
    }

    def timed(name: str, call: Callable[..., object], *arguments: object, **options: object) -> None:
        begin = time.perf_counter()
        done = call(*arguments, **options)
        taken[name].append((time.perf_counter() - begin) * 1e3)
        if not done:
            raise UsageError(f"{name} did nothing")

    for _ in range(BLOCK):
        key, fence = f"key {next(_numbers)}", new_fence()
        timed("claim", ledger.claim, key, "print", fence, lease=10, keep=60)
        timed("heartbeat", ledger.heartbeat, key, fence, lease=10)
        timed("commit", ledger.commit, key, fence, OUTCOME, keep=60)
        timed("replay", ledger.claim, key, "print", "other", lease=10, keep=60)
        ledger.claim(f"{key} given up", "print", fence, lease=10, keep=60)
        timed("release", ledger.release, f"{key} given up", fence)
    return taken


def _together(pool: ThreadPoolExecutor, ledger: Ledger, threads: int) -> float:
    """Seconds that as many threads take for a block's keys."""

    def work(keys: list[int]) -> None:
        for key in keys:
            fence = new_fence()
            claim = ledger.claim(f"key {key}", "print", fence, lease=10, keep=60)
            if not isinstance(claim, Claimed) or ledger.commit(f"key {key}", fence, OUTCOME, keep=60) is None:
                raise UsageError("a fresh key was not claimed and committed")

    keys = [next(_numbers) for _ in range(BLOCK)]
    begin = time.perf_counter()
    list(pool.map(work, [keys[n::threads] for n in range(threads)]))
    return time.perf_counter() - begin


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """The URLs of two Redis and a PostgreSQL that run as long."""
    from tests.servers import LaxRedisServer, PostgresServer, RedisServer

    with ExitStack() as stack:
        urls = {}
        kinds = {"Redis": LaxRedisServer, SYNCED: RedisServer, "PostgreSQL": PostgresServer}
        for name, kind in kinds.items():
            server = kind(folder / name)
            server.start()
            stack.callback(server.stop)
            urls[name] = server.url
        yield urls


@contextmanager
def _stores(folder: Path) -> Iterator[dict[str, Ledger]]:
    with servers(folder) as found, ExitStack() as stack:
        urls = {"SQLite": f"sqlite:///{folder}/ledger.db", **found}
        stores = {name: open_ledger(url) for name, url in urls.items()}
        for ledger in stores.values():
            stack.callback(ledger.close)
            ledger.init()
        yield stores
