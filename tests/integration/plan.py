"""What a run does to its keys: decided before it starts, from a seed, and known to every process of it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

CLIENTS = 8
CLIENT_THREADS = 6
WORKERS = 6
SKEWS_S = (-60.0, 60.0, 0.0, 60.0, -60.0, 30.0)
"""How far each worker's wall clock is off."""

ROUGH = 0.65
"""The share of the keys, from the first, among which workers are killed. What takes longer than a lease
seldom comes to its end there."""


class Step(StrEnum):
    """Where a worker is killed, by itself."""

    BEFORE_CLAIM = "before claim"
    AFTER_CLAIM = "after claim"
    RUNNING = "running"
    BEFORE_COMMIT = "before commit"
    AFTER_COMMIT = "after commit"
    BEFORE_RESPONSE = "before response"
    AT_RENEWAL = "at renewal"
    """Only keys whose work is longer than a lease come here."""
    BEFORE_RELEASE = "before release"
    """Only keys whose work raises come to this one and the next."""
    AFTER_RELEASE = "after release"


class Lapse(StrEnum):
    """The first execution of a key runs past its lease, which nothing renews in time, and then:"""

    SUCCEEDS = "succeeds"
    RAISES = "raises"


@dataclass(frozen=True)
class Config:
    """One run over one store."""

    url: str
    engine: str = "preheat"
    """``preheat``, ``powertools-dynamodb``, ``powertools-redis``; ``broken-…``: a ledger with that defect."""
    keys: int = 5000
    kills: int = 200
    lapses: int = 60
    freezes: int = 10
    """Workers that stop altogether for longer than a lease."""
    failures: int = 90
    """Keys whose first execution raises at once."""
    long: int = 70
    """Keys whose work takes longer than a lease, which is renewed."""
    restarts: int = 0
    """How often the store is killed and started again."""
    faults: float = 0.0
    """Share of the requests to the store whose connection is cut; as many are delayed. 0: no proxy."""
    lease: float = 1.0
    margin: float = 1.0
    """Seconds beyond the lease within which a key whose owner died must have another."""
    asked: tuple[int, ...] = (1, 2, 2, 2, 3, 3, 8)
    """How many of the clients ask for a key: drawn from these."""
    skewed: bool = True
    seed: int = 1
    deadline: float = 240.0
    """Seconds after which the run is ended, and failed."""


@dataclass
class Fate:
    """What befalls one key; each thing once, to whichever worker comes there first."""

    kills: list[Step] = field(default_factory=list)
    lapse: Lapse | None = None
    freeze: bool = False
    fails: bool = False
    long: bool = False


class Plan:
    """``folder``: the run's own; in it lie the histories, sockets, and what has befallen already."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.straight = config
        """The same run without the proxy."""
        self.folder = folder
        self.keys = [f"s{config.seed}-k{number}" for number in range(config.keys)]
        chance = random.Random(config.seed)
        self.fates: dict[str, Fate] = {}
        rough = self.keys[: int(len(self.keys) * ROUGH)]
        calm = self.keys[len(rough) :]
        chance.shuffle(calm)
        special = chance.sample(rough, len(rough) // 2)

        def some(number: int, share: float) -> list[str]:
            """Keys that nothing else befalls, kills excepted; a share of them where nobody is killed."""
            quiet = int(number * share)
            return [calm.pop() for _ in range(quiet)] + [special.pop() for _ in range(number - quiet)]

        for number, key in enumerate(some(config.lapses, 0.7)):
            self._fate(key).lapse = list(Lapse)[number % 2]
            self._fate(key).long = number % 6 < 4  # the former owner comes back while the next one runs
        for key in some(config.freezes, 0.5):
            self._fate(key).freeze = True
        failing, long = some(config.failures, 0.3), some(config.long, 0.5)
        for key in failing:
            self._fate(key).fails = True
        for key in long:
            self._fate(key).long = True
        places: dict[Step, list[str]] = dict.fromkeys(Step, rough)
        places[Step.AT_RENEWAL] = [key for key in long if key in set(rough)]
        places[Step.BEFORE_RELEASE] = places[Step.AFTER_RELEASE] = [
            key for key in failing if key in set(rough)
        ]
        steps = [step for step in Step if places[step]]
        for number in range(config.kills + config.kills // 10):  # the death of a process may spare it others
            step = steps[number % len(steps)]
            among = [
                key for key in places[step] if key not in self.fates or step not in self.fates[key].kills
            ]
            self._fate(chance.choice(among)).kills.append(step)
        self.asks = self._asks(chance)

    def _asks(self, chance: random.Random) -> list[list[str]]:
        """For each client its keys. All go through them in about the same order, so that they meet."""
        asks: list[list[tuple[float, str]]] = [[] for _ in range(CLIENTS)]
        for number, key in enumerate(self.keys):
            # Whoever owns a key may die: one that somebody else asks for too shows who may have it next.
            for client in chance.sample(range(CLIENTS), chance.choice(self.config.asked)):
                asks[client].append((number + chance.uniform(0, 2 * CLIENTS), key))
        return [[key for _, key in sorted(one)] for one in asks]

    def _fate(self, key: str) -> Fate:
        return self.fates.setdefault(key, Fate())

    def through(self, proxy: int, port: int) -> None:
        """From now on the store on ``port`` is reached through the proxy on that one."""
        self.config = replace(
            self.config, url=self.config.url.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy}")
        )

    def befalls(self, key: str, step: Step) -> bool:
        """Whether the worker that asks is killed here."""
        fate = self.fates.get(key)
        return fate is not None and step in fate.kills and self.once(f"{key} {step}")

    def fails(self, key: str) -> bool:
        """Whether this execution raises: the first one, and as many as a kill at their release waits for."""
        fate = self.fates.get(key)
        if fate is None or not fate.fails:
            return False
        left = {Step.BEFORE_RELEASE, Step.AFTER_RELEASE} & set(fate.kills)
        return any(not (self.folder / "once" / f"{key} {step}").exists() for step in left) or self.once(
            f"{key} fails"
        )

    def once(self, what: str) -> bool:
        """Whether this process is the one that ``what`` befalls; False ever after."""
        try:
            os.close(os.open(self.folder / "once" / what, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True
