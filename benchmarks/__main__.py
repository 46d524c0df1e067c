"""``python -m benchmarks [NAME…]``: measure, print each figure beside its bound.

Exit status: 0; with ``--strict`` 1 where a bound is missed or a start was wrong; 2 where nothing can be
measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from preheat.errors import PreheatError
from preheat.measure.run import Progress
from preheat.measure.show import progress

from . import (
    batching,
    cold_cache,
    cold_start,
    fork,
    gpu,
    keyed,
    lambda_start,
    ledger,
    many_models,
    models,
    neighbours,
    object_store,
    overload,
    plan,
    poisson,
    request_overhead,
    session_open,
    tiered,
    up,
)
from .figures import Benchmark, show


class Entry(NamedTuple):
    artifact: Callable[[models.Say], Path]
    run: Callable[[Path, int, Progress], Benchmark]
    rounds: int


ENTRIES = {
    "cold-start": Entry(models.minilm, cold_start.run, 20),
    "cold-cache": Entry(models.minilm, cold_cache.run, 20),
    "fork": Entry(models.minilm, fork.run, 40),
    "lambda": Entry(models.minilm, lambda_start.run, 20),
    "session-open-embed": Entry(models.minilm, session_open.run, 15),
    "session-open-bert-base": Entry(models.bert_base, session_open.run, 10),
    "tiered": Entry(models.bert_base, tiered.run, 15),
    "object-store": Entry(models.minilm, object_store.run, 15),
    "request-overhead": Entry(models.minilm, request_overhead.run, 20),
    "batching": Entry(models.minilm, batching.run, 8),
    "keyed": Entry(models.minilm, keyed.run, 15),
    "many-models": Entry(models.minilm, many_models.run, 15),
    "neighbours": Entry(models.minilm, neighbours.run, 4),
    "overload": Entry(models.minilm, overload.run, 6),
    "up": Entry(models.minilm, up.run, 12),
    "poisson": Entry(models.minilm, poisson.run, 1),
    "ledger": Entry(lambda _: Path(), ledger.run, 20),
    "gpu": Entry(gpu.artifact, gpu.run, 10),
    "plan": Entry(models.minilm, plan.run, 6),
}
EVERYWHERE = [name for name in ENTRIES if name != "gpu"]
"""What is measured where no name is given."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ENTRIES)}; default: all but gpu"
    )
    parser.add_argument("--rounds", type=int, help="default: each benchmark's own")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a bound is missed")
    parser.add_argument("--json", metavar="FILE", help="write every sample to a file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in ENTRIES]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    console, told = Console(), Console(stderr=True)
    console.width = max(console.width, 110)
    found: dict[str, Benchmark] = {}
    for name in arguments.names or EVERYWHERE:
        entry = ENTRIES[name]
        artifact = entry.artifact(told.print)
        rounds = arguments.rounds or entry.rounds
        with progress(name) as tell:
            found[name] = entry.run(artifact, rounds, tell)
        show(console, found[name], models.command(name, rounds))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({name: _plain(b) for name, b in found.items()}, indent=1))
    missed = any(b.wrong or not all(claim.holds for claim in b.claims) for b in found.values())
    return 1 if arguments.strict and missed else 0


def _plain(benchmark: Benchmark) -> dict[str, object]:
    return {
        "title": benchmark.title,
        "wrong": benchmark.wrong,
        "milliseconds": {line.name: [round(v, 3) for v in line.values] for line in benchmark.lines},
        "claims": [{**claim._asdict(), "holds": claim.holds} for claim in benchmark.claims],
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PreheatError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
