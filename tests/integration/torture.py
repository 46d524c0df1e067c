"""`python -m tests.integration.torture`: runs over one store, checked; exit 1 where a rule was broken.

The long form of what the tests run. Each round has keys, a plan and processes of its own, over one store.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from preheat.ledger import open_ledger

from .. import servers
from . import engines
from .checker import check
from .history import merged
from .plan import Config, Plan
from .report import Report
from .supervisor import RunError, Supervisor

ROUND = 5000
"""Keys."""
SERVERS = {
    "redis": servers.RedisServer,
    "postgres": servers.PostgresServer,
    "dynamodb": servers.DynamoServer,
}
STORES: dict[str, dict[str, object]] = {
    "sqlite": {},
    "redis": {"restarts": 2, "faults": 0.004},
    "postgres": {"restarts": 2, "faults": 0.004},
    "dynamodb": {"faults": 0.004, "asked": (1, 1, 1, 2, 3), "lease": 2.0, "margin": 3.0, "deadline": 480.0},
}
"""What differs from a configuration's defaults. DynamoDB tells its time in whole seconds, so a lease there
may last one longer, and who takes over may know so one later: two beside the second that the others have.
moto forgets all when it ends, and is not restarted; it is slow, so fewer clients ask for each key, and leases
are longer."""


def run(store: str, config: Config, *, keys: int, kills: int, folder: Path) -> Report:
    """Rounds of at most ROUND keys, ended by the first violation, whose history stays. Raises RunError.

    Each has a store of its own: over the keys of many rounds moto stops for seconds to collect garbage.
    """
    report = Report(f"{store}, {config.engine}", config.seed)
    rounds = max(1, -(-keys // ROUND))
    for number in range(rounds):
        place = folder / f"round-{number}"
        place.mkdir()
        seed, share = config.seed + number, -(-kills // rounds)
        part = dataclasses.replace(config, seed=seed, keys=-(-keys // rounds), kills=share)
        began = time.monotonic()
        with serving(store, config.engine, place) as (url, server):
            Supervisor(Plan(dataclasses.replace(part, url=url), place), server).run()
        took = time.monotonic() - began
        events = merged(place)
        report.add(events, check(events, lease=config.lease, margin=config.margin), took)
        if report.violations:
            break
        shutil.rmtree(place)
    return report


@contextlib.contextmanager
def serving(store: str, engine: str, folder: Path) -> Iterator[tuple[str, servers._Process | None]]:
    """The store, up and with its table, for the length of a block; and its process where it has one."""
    if store == "sqlite":
        yield f"sqlite:///{folder}/ledger.db", None
        return
    server = SERVERS[store](folder / store)
    try:
        server.start()
        os.environ.update(server.environ)
        url = server.url
        if engine == "preheat":
            ledger = open_ledger(url)
            ledger.init()
            ledger.close()
        elif store == "dynamodb":
            url = f"http://127.0.0.1:{server.port}"
            engines.make_powertools_table(url)
        yield url, server
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", choices=STORES)
    parser.add_argument("--engine", default="preheat")
    parser.add_argument("--keys", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other fields of a Config")
    parser.add_argument("--folder", type=Path, help="where histories lie; kept where a rule was broken")
    parser.add_argument("--report", type=Path, help="where the figures go, as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # what was started is stopped on the way out
    other = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    config = Config("", engine=options.engine, seed=options.seed, **{**STORES[options.store], **other})
    folder = options.folder or Path(tempfile.mkdtemp(prefix="preheat-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        report = run(options.store, config, keys=options.keys, kills=options.kills, folder=folder)
    except RunError as error:
        print(f"the run did not come to its end ({folder}): {error}", file=sys.stderr)
        return 2
    print(report, flush=True)
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if report.violations:
        print(f"the histories are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
