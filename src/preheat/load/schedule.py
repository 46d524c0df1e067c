"""From a scenario to who is sent when: segments, each a step or one repetition of it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .scenario import Scenario, Step


class Arrival(NamedTuple):
    number: int
    at: float
    """Seconds from the segment's beginning."""
    payload: int
    key: str
    """Idempotency-Key; empty for none."""


class Segment(NamedTuple):
    number: int
    step: Step
    rate: float
    """Of the arrivals, or requests at once; 0 where the step has none."""
    seconds: float
    arrivals: Sequence[Arrival]
    order: Sequence[int]
    """Of a closed loop: the payloads, gone round again and again."""


def segments(scenario: Scenario) -> Iterator[Segment]:
    """In order; the same for the same scenario, keys apart, which never repeat."""
    chance = random.Random(scenario.seed)  # noqa: S311 - a schedule that can be repeated, no secret
    number = first = 0
    for step in scenario.steps:
        for _ in range(step.repeat):
            for rate in step.rates or (0.0,):
                times = list(_times(step, rate, chance))
                payloads = list(step.chosen) or _mix(scenario, len(times), chance)
                arrivals = list(_arrivals(scenario, times, payloads, first, chance))
                seconds = step.seconds / max(len(step.rates), 1)
                order = _mix(scenario, 997, chance) if step.closed else ()
                yield Segment(number, step, rate, seconds, arrivals, order)
                number, first = number + 1, first + len(arrivals)


def _times(step: Step, rate: float, chance: random.Random) -> Iterator[float]:
    if step.arrivals == "poisson":
        at = chance.expovariate(rate)
        while at < step.duration_s:
            yield at
            at += chance.expovariate(rate)
    elif step.arrivals == "constant":
        for i in range(int(rate * step.duration_s + 1e-9)):
            yield i / rate
    elif step.arrivals == "burst":
        yield from [0.0] * step.burst
    else:
        yield from step.times


def _mix(scenario: Scenario, count: int, chance: random.Random) -> list[int]:
    return chance.choices(
        range(len(scenario.payloads)), weights=[payload.weight for payload in scenario.payloads], k=count
    )


def _arrivals(
    scenario: Scenario, times: list[float], payloads: list[int], first: int, chance: random.Random
) -> Iterator[Arrival]:
    number = first
    for at, payload in zip(times, payloads, strict=True):
        key = str(uuid.uuid4()) if scenario.keys else ""
        yield Arrival(number, at, payload, key)
        number += 1
        if scenario.duplicates and chance.random() < scenario.duplicates:
            yield Arrival(number, at, payload, key)
            number += 1


def as_work(scenario: Scenario, segment: Segment, target: dict[str, Any]) -> dict[str, Any]:
    """What the sending process is given."""
    return {
        "number": segment.number,
        "closed": segment.step.closed,
        "concurrency": int(segment.rate) if segment.step.closed else 0,
        "duration_s": segment.seconds,
        "first": (segment.number + 1) * 10**9,
        "order": list(segment.order),
        "requests": [list(arrival) for arrival in segment.arrivals],
        "payloads": [
            {
                "method": payload.method,
                "path": target["prefix"] + payload.path,
                "headers": {**payload.headers, **target["headers"]},
                "body": payload.body.decode("latin-1"),
            }
            for payload in scenario.payloads
        ],
        "retry": scenario.retry._asdict(),
        "target": {k: v for k, v in target.items() if k not in ("headers", "prefix")},
    }
