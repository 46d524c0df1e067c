"""Simulated and measured, held against each other: the same requests to `preheat up` and to `preheat plan`'s
simulation of it, which is told what one start and one warm request take.

The function sleeps, at its start and in each request, so that instances do not contend for this machine's
CPUs: what is compared is who waits for what, and for how long.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from preheat.errors import EngineError
from preheat.measure import target
from preheat.measure.client import free_port, read_response, request
from preheat.measure.start import START_S, stop
from preheat.measure.summary import median
from preheat.measure.target import with_bytecode
from preheat.plan import draws, options, platforms, scaled
from preheat.plan.candidates import settings_of
from preheat.plan.figures import Spread

from .models import OUT, server_environ
from .up import Up

SLEEPING = """
import time
from preheat import Function
from preheat.engine import Engine

time.sleep(0.6)


def slow(infer):
    def slowly(*arguments):
        time.sleep(0.15)
        return infer(*arguments)

    return slowly


Engine.infer = slow(Engine.infer)
function = Function(__file__)
"""
"""Runs take longer, not answers: what was sent ahead of readiness is read meanwhile, and runs after it."""
NAME = "sleeping"
COLD_POINTS, P99_RATIO = 3.0, 0.20
"""What is asked of the simulation: percentage points of the cold share, and how far its p99 may be off."""
WARM = 15
"""How many warm requests are measured before a scenario."""


class Scenario(NamedTuple):
    name: str
    option: str
    """As `preheat plan` takes it."""
    arrivals: NDArray[np.float64]
    """Seconds."""


class Agreement(NamedTuple):
    scenario: Scenario
    measured_ms: list[float]
    simulated_ms: list[float]
    measured_cold: float
    """As a share."""
    simulated_cold: float

    @property
    def cold_points(self) -> float:
        return abs(self.measured_cold - self.simulated_cold) * 100

    @property
    def p99_off(self) -> float:
        """As a share of what was measured."""
        measured, simulated = (percentile(values, 99) for values in (self.measured_ms, self.simulated_ms))
        return abs(simulated - measured) / measured


def scenarios(size: int, seed: int = 1) -> list[Scenario]:
    """Three, each about ``size`` times fifteen to forty seconds. Gaps keep clear of the moments at which the
    autoscaler decides and an instance goes, so that a few milliseconds more or less decide nothing."""
    rng = np.random.default_rng(seed)
    pairs = np.cumsum(np.tile([6.0, 0.0, 3.0], 3 * size))
    bursts = np.repeat(np.arange(3 * size) * 9.0, 8)
    blocks = [begin + np.cumsum(rng.exponential(1 / 10.0, 100)) for begin in np.arange(2 * size) * 24.0]
    short = "up:window=1,grace=0.5,concurrency=2,turns=2,max=4"
    middle = "up:window=3,grace=0.5,concurrency=2,turns=2,max=4"
    longer = "up:window=6,grace=1,concurrency=2,turns=2,max=6"
    return [
        Scenario("two at once and one more, to zero between", middle, pairs),
        Scenario("bursts of eight, to zero between", short, bursts),
        Scenario("ten a second at random, in blocks of a hundred", longer, np.concatenate(blocks)),
    ]


def agree(artifact: Path, scenario: Scenario) -> Agreement:
    """Run a scenario on `preheat up`, then simulate it with the starts that it had, in their order, and warm
    requests as they were before it. So what is left to differ is the model, not the weather of the run (Law,
    Simulation Modeling and Analysis, on validation by correlated inspection). Raises EngineError for an
    answer that is none."""
    (option,) = options.parse([scenario.option])
    OUT.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="agreement-", dir=OUT) as folder,
        _up(Path(folder), artifact, option) as gateway,
    ):
        gateway.up.to_zero()
        gateway.ask()  # the first start writes bytecode and stamps
        warm = [gateway.ask().seconds for _ in range(WARM)]
        gateway.up.to_zero()
        with _starts_noted(gateway) as starts:
            seen = gateway.send(scenario.arrivals)
    known = platforms.load().autoscaled["up"]
    settings = settings_of(option, known)
    spent = Spread(min(warm), median(warm), max(warm))
    count = len(scenario.arrivals)
    times = draws.times(draws.draw(count, 1), spent, spent, (0.0, 0.0), (0.0, 0.0))
    times = times._replace(start=np.resize([starts[born] for born in sorted(starts)], count))
    found = scaled.simulate(scenario.arrivals, float(scenario.arrivals[-1]), times, settings)
    return Agreement(
        scenario,
        [one.seconds * 1e3 for one in seen],
        (found.latency_s * 1e3).tolist(),
        sum(one.cold for one in seen) / count,
        found.cold_share,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    return float(np.percentile(values, percent, method="inverted_cdf"))


class Seen(NamedTuple):
    seconds: float
    """From the moment at which it was to be sent."""
    cold: bool
    """As the server says."""


class Gateway(NamedTuple):
    up: Up
    asked: bytes

    def ask(self, due: float | None = None) -> Seen:
        """One request on a connection of its own, due at a time of ``time.monotonic``."""
        begin = time.monotonic() if due is None else due
        with self.up.connect() as client:
            client.sendall(self.asked)
            response = read_response(client, deadline=begin + START_S)
        took = time.monotonic() - begin
        start = response.headers.get("x-preheat-start", "")
        if response.status != 200 or start not in ("cold", "warm"):
            raise EngineError(f"an answer through the gateway: {response.status} {response.body[:200]!r}")
        return Seen(took, start == "cold")

    def send(self, arrivals: NDArray[np.float64]) -> list[Seen]:
        """Each at its time, whatever became of those before."""
        seen: list[Seen | None] = [None] * len(arrivals)
        wrong: list[BaseException] = []
        begin = time.monotonic() + 0.2

        def one(index: int, due: float) -> None:
            try:
                seen[index] = self.ask(due)
            except (EngineError, OSError) as error:
                wrong.append(error)

        threads = []
        for index, at in enumerate(arrivals.tolist()):
            due = begin + at
            time.sleep(max(due - time.monotonic(), 0.0))
            thread = threading.Thread(target=one, args=(index, due))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(2 * START_S)
        found = [one for one in seen if one is not None]
        if wrong or len(found) < len(seen):
            raise EngineError(f"{len(seen) - len(found)} requests have no answer: {wrong[:1]}")
        return found


@contextlib.contextmanager
def _starts_noted(gateway: Gateway) -> Iterator[dict[float, float]]:
    """Seconds until readiness of each instance that starts in a block, by when it was spawned; whole
    after the block. Asked for every few seconds: the gateway tells of the last thirty that have ended."""
    found: dict[float, float] = {}
    over, begun = threading.Event(), time.time()

    def note() -> None:
        seen = gateway.up.control("GET", "status")["functions"][NAME]
        for one in (*seen["instances"], *seen["ended"]):
            if one["born"] >= begun - 0.001 and one["ready_ms"] is not None:
                found[one["born"]] = one["ready_ms"] / 1e3

    def watch() -> None:
        while not over.wait(3.0):
            note()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join(2 * START_S)
    note()


@contextlib.contextmanager
def _up(folder: Path, artifact: Path, option: options.Option) -> Iterator[Gateway]:
    """A gateway with the function that sleeps, and an option's settings."""
    (folder / NAME).mkdir()
    (folder / NAME / "artifact").symlink_to(artifact.resolve())
    (folder / NAME / "app.py").write_text(SLEEPING)
    _, body, headers, _ = target.conversation(target.find(str(artifact), server_environ()))
    port, given = free_port(), option.given
    said = {
        "--start": "fresh",
        "--max": int(given["max"]),
        "--concurrency": int(given["concurrency"]),
        "--stable-window": given["window"],
        "--grace": given["grace"],
        "--state": folder / "state",
    }
    arguments = [text for name, value in said.items() for text in (name, str(value))]
    command = [sys.executable, "-m", "preheat", "up", str(folder / NAME / "app.py"), *arguments]
    environ = with_bytecode(
        {
            **server_environ(),
            "PORT": str(port),
            "PREHEAT_CACHE": str(folder / "cache"),
            "PREHEAT_BATCH_MS": "0",  # the simulation joins nothing
            "PYTHONUNBUFFERED": "1",
        }
    )
    with (folder / "printed").open("wb") as printed:
        process = subprocess.Popen(command, env=environ, stdout=printed, stderr=printed)  # noqa: S603 - ours
        try:
            yield Gateway(Up(port, NAME, process), request("POST", "/predict", body, headers))
        except (EngineError, OSError) as error:
            said_last = (folder / "printed").read_text(errors="replace")[-500:]
            raise EngineError(f"{error}; the gateway printed: {said_last}") from error
        finally:
            stop(process)


def main() -> None:
    """``python -m benchmarks.agreement ARTIFACT SIZE``: each scenario's figures, a line each."""
    artifact, size = Path(sys.argv[1]), int(sys.argv[2])
    for scenario in scenarios(size):
        found = agree(artifact, scenario)
        sys.stdout.write(
            f"{scenario.name} ({len(scenario.arrivals)}): cold {found.measured_cold:.4f} measured, "
            f"{found.simulated_cold:.4f} simulated; p50, p90, p99 "
            + "; ".join(
                ", ".join(f"{percentile(values, p):.0f}" for p in (50, 90, 99))
                for values in (found.measured_ms, found.simulated_ms)
            )
            + f" ms; off {found.cold_points:.2f} points, {found.p99_off:.1%}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", "src")
    main()
