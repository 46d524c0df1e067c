"""``python -m benchmarks.side_by_side``: make the peers' environments, measure, write the table and the plot.

Exit status: 0; 2 where nothing can be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from preheat.errors import PreheatError, UsageError
from preheat.measure import target
from preheat.measure.show import progress

from .. import models
from ..models import OUT, ROOT, server_environ
from . import environments, plot, report
from .contenders import EVERY, Contender
from .measure import Setup, run

DOCS = ROOT / "docs"
SAMPLES = OUT / "peers.json"
MINUTES = 20.0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side", description=__doc__.split("\n")[0]
    )
    names = [contender.name for contender in EVERY]
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="no round is begun that would end later"
    )
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=f"of {', '.join(names[1:])}; default: all")
    parser.add_argument("--server-cpus", type=_cpus, help="0,1; default: the first half of those at hand")
    parser.add_argument("--client-cpus", type=_cpus, help="default: the other half")
    parser.add_argument(
        "--pip", default="", metavar="OPTIONS", help="pip's options, to make environments with"
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS, metavar="FOLDER", help="default: docs, and README.md"
    )
    parser.add_argument(
        "--samples", type=Path, metavar="FILE", help="write anew from samples, measure nothing"
    )
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.peers or [] if name not in names]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(names[1:])}")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds must be at least 1, and --seconds more than 0")
    if arguments.samples is not None:
        found = json.loads(arguments.samples.read_text())
    else:
        found = _measure(arguments)
        OUT.mkdir(parents=True, exist_ok=True)
        SAMPLES.write_text(json.dumps(found, indent=1))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "peers.md").write_text(report.page(found))
    (arguments.out / "peers.svg").write_text(plot.drawn(found))
    if arguments.out == DOCS:
        readme = ROOT / "README.md"
        readme.write_text(report.placed(readme.read_text(), report.short(found)))
    Console().print(report.page(found), markup=False, highlight=False, soft_wrap=True)
    return 0


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    told = Console(stderr=True)
    artifact = models.minilm(told.print)
    subject = target.find(str(artifact), server_environ())
    servers, clients = _shared_out(arguments.server_cpus, arguments.client_cpus)
    setup = Setup(subject, arguments.rounds, arguments.seconds, arguments.minutes, servers, clients)
    wanted = [EVERY[0], *(one for one in EVERY[1:] if not arguments.peers or one.name in arguments.peers)]
    ready, left_out = _environments(wanted, shlex.split(arguments.pip), told)
    os.sched_setaffinity(0, clients)  # what asks and waits takes nothing from the servers
    with progress("side by side") as tell:
        found = run(ready, setup, tell)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "minutes": found["minutes"],
        "command": _command(arguments),
        "machine": _machine(),
        "python": platform.python_version(),
        "rounds": found["rounds"],
        "seconds": setup.seconds,
        "threads": setup.threads,
        "server_cpus": [*servers],
        "client_cpus": [*clients],
        "model": f"{subject.manifest.name}, {subject.manifest.version[:19]}",
        "rows": found["rows"],
        "left_out": [*left_out, *found["left_out"]],
    }


def _environments(
    wanted: Sequence[Contender], options: Sequence[str], told: Console
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Those whose environment is there, and why the others' is not."""
    ready, left_out = [], []
    for contender in wanted:
        told.print(f"environment of {contender.label}")
        try:
            environments.make(contender, options)
            ready.append(contender)
        except UsageError as error:
            left_out.append({"label": contender.label, "why": str(error)})
    return ready, left_out


def _cpus(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _shared_out(
    servers: Sequence[int] | None, clients: Sequence[int] | None
) -> tuple[Sequence[int], Sequence[int]]:
    """The CPUs of the servers and of the client; none for both, where there are two."""
    here = sorted(os.sched_getaffinity(0))
    half = max(len(here) // 2, 1)
    servers, clients = servers or here[:half], clients or here[half:] or here
    for each in {*servers, *clients} - {*here}:
        raise UsageError(f"CPU {each} is not among those at hand: {', '.join(map(str, here))}")
    return servers, clients


def _command(arguments: argparse.Namespace) -> str:
    words = [f"--rounds {arguments.rounds}", f"--seconds {arguments.seconds:g}"]
    for name, given in (("--server-cpus", arguments.server_cpus), ("--client-cpus", arguments.client_cpus)):
        words += [f"{name} {','.join(map(str, given))}"] if given else []
    words += [f"--minutes {arguments.minutes:g}"] if arguments.minutes != MINUTES else []
    words += ["--peers " + " ".join(arguments.peers)] if arguments.peers else []
    return f'make bench-peers PEERS="{" ".join(words)}"'


def _machine() -> str:
    names = [
        line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return f"{os.cpu_count()} CPUs of {names[0] if names else platform.machine()}, {memory / 2**20:.0f} GiB"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PreheatError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
