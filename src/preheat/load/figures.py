"""What a run says: latencies by the state that was met, phases, outcomes, rates, instances, cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import intervals
from .runs import Run
from .samples import GOOD, LATE, OUTSIDE, STARTS, TELL, UNKNOWN, Sample

THROTTLED = ("throttled", "shed")


def summary(run: Run) -> dict[str, Any]:
    """One document: every latency in milliseconds, each figure ``[value, low, high]`` with its 95 %
    interval."""
    chance = intervals.generator()
    final = run.final
    good = [one for one in final if one.good]
    objective = float(run.head["scenario"]["objective_ms"])
    within = sum(one.client_ms <= objective for one in good)
    seconds = max(run.seconds, 1e-9)
    starts = Counter(one.start for one in good)
    known = sum(count for start, count in starts.items() if start != UNKNOWN)
    found: dict[str, Any] = {
        "name": run.name,
        "target": run.head["target"],
        "began": run.head["began"],
        "scenario": run.head["scenario"]["name"],
        "digest": run.head["scenario"]["digest"],
        "cut": run.tail.get("cut"),
        "seconds": round(seconds, 3),
        "requests": len(final),
        "good": len(good),
        "outcomes": dict(Counter(one.outcome for one in final).most_common()),
        "failed_share": intervals.share(len(final) - len(good), len(final), chance),
        "throughput": round(len(good) / seconds, 3),
        "objective_ms": objective,
        "goodput": round(within / seconds, 3),
        "within_objective": intervals.share(within, len(final), chance),
        "throttled": sum(one.outcome in THROTTLED for one in run.samples),
        "retries": sum(one.attempt > 0 for one in run.samples),
        "duplicates": _duplicates(run.samples),
        "starts": {start: starts[start] for start in STARTS if starts[start]},
        "cold_share": intervals.share(starts["cold"] + starts["restored"], known, chance) if known else None,
        "left_out": _left_out(good),
        "latency": {},
        "phases": {},
        "steps": [_step(name, of, chance) for name, of in _by(final, lambda one: one.step)],
        "instances": instances(run),
        "generator": {
            **run.head["generator"],
            "run_cpu_s": run.tail.get("cpu_s"),
            "run_late": intervals.figures([one.lag_ms for one in final if not one.attempt], chance)
            if any(not one.attempt for one in final)
            else {"n": 0},
        },
        "forced": len(run.tail.get("forced", ())),
        "told_apart_by": list(TELL) if starts[UNKNOWN] else [],
    }
    for start in STARTS:
        chosen = of_start(run.samples, start)
        if chosen:
            found["latency"][start] = intervals.figures([one.client_ms for one in chosen], chance)
            found["phases"][start] = {
                phase: intervals.figures(values, chance) for phase, values in phases(chosen).items()
            }
    return found


def of_start(samples: Iterable[Sample], start: str) -> list[Sample]:
    """The samples of a state's statistic: answered well, by an instance in that state, as the scenario asked,
    and not by a closed loop."""
    return [
        one
        for one in samples
        if one.final
        and one.good
        and one.start == start
        and one.as_asked
        and not one.closed
        and not one.replayed
    ]


def phases(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """Milliseconds by phase: the server's own, what it did not see, and the generator's lateness; each only
    where it was told."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in samples:
        for phase, took in one.phases.items():
            found[phase].append(took)
        if one.gateway_ms is not None:
            found["gateway waited"].append(one.gateway_ms)
        if one.outside_ms is not None:
            found[OUTSIDE].append(one.outside_ms)
        found[LATE].append(one.lag_ms)
    return dict(found)


def instances(run: Run, bins: int = 120) -> dict[str, Any]:
    """How many instances answered in each stretch of time: ``step_s``, ``counts``, and ``all`` that were
    seen."""
    named = [one for one in run.samples if one.instance]
    step = max(run.seconds / bins, 0.5)
    seen: dict[int, set[str]] = defaultdict(set)
    for one in named:
        seen[int((one.at_s + one.client_ms / 1e3) / step)].add(one.instance)
    last = max(seen, default=-1)
    return {
        "step_s": round(step, 3),
        "counts": [len(seen[i]) if i in seen else 0 for i in range(last + 1)],
        "all": len({one.instance for one in named}),
    }


def _left_out(good: Sequence[Sample]) -> dict[str, int]:
    """Good answers that are in no latency statistic, and why."""
    found = Counter[str]()
    for one in good:
        if one.closed:
            found["sent by a closed loop"] += 1
        elif one.replayed:
            found["replayed, nothing ran"] += 1
        elif not one.as_asked:
            found[f"asked {one.asked}, met {one.start}"] += 1
    return dict(found)


def _duplicates(samples: Sequence[Sample]) -> dict[str, int]:
    """Requests under a key that another one had: how many, how many were replayed, and how many keys got
    answers that differ, which none may."""
    keys: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        if one.key and one.final:
            keys[one.key].append(one)
    twice = [of for of in keys.values() if len(of) > 1]
    return {
        "sent": sum(len(of) - 1 for of in twice),
        "replayed": sum(one.replayed for one in samples),
        "differing": sum(len({one.digest for one in of if one.good}) > 1 for of in twice),
    }


def _step(name: str, of: Sequence[Sample], chance: np.random.Generator) -> dict[str, Any]:
    good = [one for one in of if one.good]
    begin = min(one.at_s for one in of)
    end = max(one.at_s + one.client_ms / 1e3 for one in of)
    return {
        "name": name,
        "asked": of[0].asked,
        "closed": of[0].closed,
        "requests": len(of),
        "good": len(good),
        "as_asked": sum(one.as_asked for one in good),
        "throughput": round(len(good) / max(end - begin, 1e-9), 3),
        "latency": intervals.figures([one.client_ms for one in good], chance) if good else {"n": 0},
    }


def _by(samples: Iterable[Sample], key: Any) -> list[tuple[str, list[Sample]]]:
    found: dict[str, list[Sample]] = {}
    for one in samples:
        found.setdefault(key(one), []).append(one)
    return list(found.items())


def outcomes_over_time(run: Run, bins: int = 60) -> tuple[float, Mapping[str, list[int]]]:
    """Seconds of a bin, and the count of each outcome in each, good ones first."""
    step = max(run.seconds / bins, 0.5)
    final = run.final
    every = int(max((one.at_s for one in final), default=0.0) / step) + 1
    names = sorted({one.outcome for one in final}, key=lambda outcome: (outcome != GOOD, outcome))
    counts = {outcome: [0] * every for outcome in names}
    for one in final:
        counts[one.outcome][int(one.at_s / step)] += 1
    return step, counts
