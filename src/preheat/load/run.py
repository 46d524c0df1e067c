"""One run: segment after segment, made cold where the scenario says so, every sample kept as it comes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from .. import __version__
from ..errors import PreheatError
from . import overhead
from .generator import Generator
from .runs import Run, Writer
from .samples import Sample, sample
from .scenario import Scenario, Step
from .schedule import as_work, segments
from .target import LOOKED_AT, Target, TargetError, wrong

CUT = "interrupted"


class ForceCold(Protocol):
    """Makes a target cold."""

    def force(self) -> str:
        """Returns when it is so, and says by what that was confirmed. Raises PreheatError where it is not."""


class Tell(Protocol):
    def __call__(self, what: str, done: float, of: float, samples: int) -> None: ...


def run(
    scenario: Scenario,
    target: Target,
    generator: Generator,
    path: str,
    *,
    cold: ForceCold | None,
    label: str,
    signed: str,
    tell: Tell,
) -> Run:
    """Run a scenario into ``path``. Ctrl-C and errors end it early: what was measured is kept, and the run's
    end says why. Raises TargetError only where the first answers show that the target is the wrong one."""
    head = _head(scenario, target, label, overhead.measure(generator))
    tail: dict[str, Any] = {"forced": [], "cpu_s": 0.0, "cut": "it was ended early"}
    with Writer(path, head) as writer:
        keep = _Keep(target, writer)
        try:
            _follow(scenario, generator, cold, target.as_work(scenario, signed), keep, tail, tell)
            del tail["cut"]
        except KeyboardInterrupt:
            tail["cut"] = CUT
        except PreheatError as error:
            tail["cut"] = str(error)
            if isinstance(error, TargetError):
                raise
        finally:
            tail["seconds"] = round(time.monotonic() - keep.began, 3)
            writer.end(tail)
    return Run(head, keep.seen, tail)


class _Keep:
    """Takes what the sending process tells, for the segment that runs."""

    def __init__(self, target: Target, writer: Writer) -> None:
        self.seen: list[Sample] = []
        self.began = time.monotonic()
        self._target, self._writer = target, writer
        self._step: Step | None = None
        self._at_s = 0.0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began

    def begin(self, step: Step) -> None:
        self._step, self._at_s = step, self.now_s

    def __call__(self, line: Mapping[str, Any]) -> None:
        step = self._step
        assert step is not None  # noqa: S101 - samples come of a segment
        early = len(self.seen) < LOOKED_AT
        new = [
            sample(raw, step.name, step.expect, step.closed, self._at_s, line["worker"])
            for raw in line["samples"]
        ]
        self._writer.add(new)
        self.seen.extend(new)
        if early and (problem := wrong(self._target.url, self.seen)):
            raise TargetError(problem)


def _follow(
    scenario: Scenario,
    generator: Generator,
    cold: ForceCold | None,
    work: dict[str, Any],
    keep: _Keep,
    tail: dict[str, Any],
    tell: Tell,
) -> None:
    passed = 0.0
    for segment in segments(scenario):
        step = segment.step
        if step.cold and cold is not None:
            tell(f"{step.name}: making it cold", passed, scenario.seconds, len(keep.seen))
            tail["forced"].append({"at_s": round(keep.now_s, 3), "by": cold.force()})
        tell(step.name, passed, scenario.seconds, len(keep.seen))
        ends = time.monotonic() + segment.seconds
        if step.arrivals != "idle":
            keep.begin(step)
            done = generator.run(as_work(scenario, segment, work), keep)
            tail["cpu_s"] = round(tail["cpu_s"] + done["cpu_s"], 3)
        # A step lasts as long as it says, even where its last request was answered sooner.
        time.sleep(max(ends - time.monotonic(), 0.0))
        passed += segment.seconds


def _head(scenario: Scenario, target: Target, label: str, own: Mapping[str, float]) -> dict[str, Any]:
    return {
        "preheat": __version__,
        "label": label,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": target.url,
        "scenario": {
            "name": scenario.name,
            "about": scenario.about,
            "digest": scenario.digest,
            "objective_ms": scenario.objective_ms,
            "timeout_s": scenario.timeout_s,
            "seed": scenario.seed,
            "steps": [
                {
                    "name": step.name,
                    "arrivals": step.arrivals,
                    "rates": list(step.rates),
                    "seconds": round(step.seconds, 3),
                    "expect": step.expect,
                    "cold": step.cold,
                    "repeat": step.repeat,
                }
                for step in scenario.steps
            ],
        },
        "generator": dict(own),
        "host": {
            "arch": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
    }
