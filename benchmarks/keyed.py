"""What an idempotency key adds to a request, and how long a replay takes: SQLite, Redis, PostgreSQL.

Blocks of unkeyed, keyed and replayed requests take turns on one keep-alive connection to each server.
"""

from __future__ import annotations

import itertools
import json
import socket
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from preheat.errors import EngineError
from preheat.ledger import open_ledger
from preheat.measure.client import read_response, request
from preheat.measure.run import Progress

from .figures import Benchmark, Claim, Line
from .ledger import SYNCED, servers
from .models import OUT
from .serving import sample, serving

BLOCK = 20
ADDED_MS = {"SQLite": 2.0, "Redis": 2.0, SYNCED: 4.0, "PostgreSQL": 4.0}
"""Those that sync every write pay the disk twice a key."""
REPLAY_MS = 3.0
_keys = itertools.count()


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    OUT.mkdir(parents=True, exist_ok=True)
    asked = sample(artifact)
    taken: dict[str, list[float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keyed-", dir=OUT)))
        urls = {"SQLite": f"sqlite:///{folder}/ledger.db", **stack.enter_context(servers(folder))}
        clients = {}
        for name, url in urls.items():
            ledger = open_ledger(url)
            ledger.init()
            ledger.close()
            server = stack.enter_context(serving(artifact, PREHEAT_LEDGER=url))
            clients[name] = stack.enter_context(server.connect())
        for turn in range(-1, turns):  # one round before the first, which is not counted
            for index, (name, client) in enumerate(clients.items()):
                progress(name, max(turn, 0) * len(clients) + index, turns * len(clients))
                block = _block(client, asked)
                for kind, values in block.items() if turn >= 0 else ():
                    taken.setdefault(f"{name}: {kind}", []).extend(values)
    lines = {name: Line(name, values) for name, values in taken.items()}
    claims = []
    for name, limit in ADDED_MS.items():
        added = lines[f"{name}: keyed"].median - lines[f"{name}: without a key"].median
        claims.append(Claim(f"{name}: what a key adds, at the median", added, limit, True, "ms"))
        replay = lines[f"{name}: replayed"].median
        claims.append(Claim(f"{name}: a replay, at the median", replay, REPLAY_MS, True, "ms"))
    return Benchmark("Requests with an idempotency key", list(lines.values()), claims)


def _block(client: socket.socket, asked: Any) -> dict[str, list[float]]:
    """Requests of each kind in turn, so that whatever the machine does meets all of them."""
    taken: dict[str, list[float]] = {"without a key": [], "keyed": [], "replayed": []}
    for _ in range(BLOCK):
        key = f"key-{next(_keys)}"
        for kind, values in taken.items():
            headers = {"content-type": "application/json"}
            if kind != "without a key":
                headers["idempotency-key"] = key
            whole = request("POST", "/predict", json.dumps(asked).encode(), headers, keep=True)
            begin = time.perf_counter()
            client.sendall(whole)
            answer = read_response(client, deadline=time.monotonic() + 60)
            values.append((time.perf_counter() - begin) * 1e3)
            replayed = "x-preheat-replayed" in answer.headers
            if answer.status != 200 or replayed != (kind == "replayed"):
                raise EngineError(f"{kind}: {answer.status} {answer.body[:200]!r}")
    return taken
