"""What befalls the gateway's processes, and what they hold meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from preheat.local.records import started
from preheat.measure.start import children, descendants

from ..functional.local.conftest import Up, shared

SAMPLE_S = 1.0
ZERO_S = 20.0
"""In which a function comes to zero."""
SETTLE_S, LOOK_S = 20.0, 3.0
"""What a gateway holds for what is over is given back by then; without anything to hold it against, it is
looked at after the shorter one."""


class Held(NamedTuple):
    """What a gateway at zero holds."""

    processes: int
    descriptors: int
    sockets: int
    noted: int
    """Instances and templates in its folder."""


class Sample(NamedTuple):
    at_s: float
    gateway_mib: float
    """Resident."""
    descriptors: int
    processes: int
    largest_mib: float
    """Resident, of the largest of its processes."""


def held(gateway: Up) -> Held:
    pid = gateway.process.pid
    (own,) = gateway.state.glob("up-*")
    links = _links(pid)
    sockets = sum(link.startswith("socket:") for link in links)
    return Held(len(children(pid)), len(links), sockets, len(list(own.iterdir())))


def held_at_zero(gateway: Up, functions: tuple[str, ...], wanted: Held | None = None) -> Held:
    """What a gateway holds when every function is at zero; waits, for a time, until that is as wanted."""
    until = time.monotonic() + ZERO_S
    for name in functions:
        while gateway.scale(0, name).status != 200:
            assert time.monotonic() < until, f"{name} does not come to zero"
    until = time.monotonic() + (LOOK_S if wanted is None else SETTLE_S)
    while True:
        found = held(gateway)
        enough = wanted is not None and all(now <= then for now, then in zip(found, wanted, strict=True))
        if enough or time.monotonic() > until:
            return found
        time.sleep(0.1)


def resident_mib(pid: int) -> float:
    """Zero where the process has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _links(pid: int) -> list[str]:
    """What the descriptors of a process lead to."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


class Watch:
    """Samples of a gateway, and kills among its processes; ``kill_every_s``: the mean, seconds."""

    def __init__(self, gateway: Up, *, kill_every_s: float, seed: int) -> None:
        self.samples: list[Sample] = []
        self.kills: Counter[str] = Counter()
        self.pids: dict[int, int | None] = {}
        """When each process that was seen had started: its number may be another's by now."""
        self.mapped: set[str] = set()
        """Files of shared memory that any of them had mapped."""
        self.wrong: list[str] = []
        self._gateway = gateway
        self._kill_every_s = kill_every_s
        self._chance = random.Random(f"kills-{seed}")
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._look, self._kill)]

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        own = self._gateway.process.pid
        while not self._stop.wait(SAMPLE_S):
            with contextlib.suppress(OSError):
                pids = descendants(own)
                self.pids |= {pid: started(pid) for pid in pids}
                for pid in pids:
                    with contextlib.suppress(OSError):
                        self.mapped |= shared(pid)
                self.samples.append(
                    Sample(
                        round(time.monotonic() - self._began, 1),
                        round(resident_mib(own), 1),
                        len(_links(own)),
                        len(pids),
                        round(max(map(resident_mib, pids), default=0.0), 1),
                    )
                )

    def _kill(self) -> None:
        while not self._stop.wait(self._chance.expovariate(1 / self._kill_every_s)):
            try:
                functions = self._gateway.status()["functions"]
            except (OSError, ValueError) as error:
                self.wrong.append(f"the status is not told: {type(error).__name__}: {error}")
                continue
            instances = [one for found in functions.values() for one in found["instances"]]
            pids = {one["pid"]: f"{one['state']} instance" for one in instances}
            every = descendants(self._gateway.process.pid)
            # What is nobody's instance is a template, or whatever else the gateway has started.
            roles = {pid: pids.get(pid, "template") for pid in every}
            role = self._chance.choice(sorted(set(roles.values()))) if roles else ""
            if not role:
                continue
            pid = self._chance.choice(sorted(pid for pid, one in roles.items() if one == role))
            number = self._chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                self.kills[f"{number.name} {role}"] += 1


def trend(samples: list[Sample], what: str) -> dict[str, Any]:
    """A figure's medians over the second and the last sixth of a run, MiB: the first is its warming up."""
    values = [float(getattr(sample, what)) for sample in samples]
    part = max(len(values) // 6, 1)
    early, late = values[part : 2 * part] or values, values[-part:]
    first, last = statistics.median(early), statistics.median(late)
    return {
        "early": first,
        "late": last,
        "most": max(values),
        "growth_percent": round(100 * (last / first - 1), 1),
    }
