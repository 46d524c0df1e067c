"""Try every variant in fresh processes, in interleaved rounds, and record all of it.

Interleaved, because a machine's speed drifts over minutes: each variant meets the same weather. No winner is
chosen here; compile.rank does that at run time, from these figures.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..errors import BuildError, DriftError, PreheatError
from ..fingerprint import Fingerprint
from ..manifest import PORTABLE, Manifest
from . import isolated

FIGURES = ("session_ms", "first_ms", "steady_ms", "rss_mib")
ON_A_GPU = "device_mib"
"""One more, of variants that run on a GPU: what they take of its memory."""
TIME_BUDGET = 120.0
"""Seconds after which no further round is begun; the first is always finished."""
TRIAL_TIMEOUT = 600.0
"""Seconds that the portable variant's first trial may take; the others get ten times what it took, and
a minute more."""


class Plan(NamedTuple):
    measurements: dict[str, Any]
    """For the manifest: ``host``, ``threads``, ``rounds``, ``variants``."""
    left_out: dict[str, str]
    """Variants that crashed, timed out or drifted, each with its reason."""


def plan(
    root: str,
    manifest: Manifest,
    machine: Fingerprint,
    *,
    threads: int,
    rounds: int,
    must: Collection[str] = (),
    progress: Callable[[str, int, int], None],
) -> Plan:
    """Measure the variants of the artifact at ``root``.

    ``must`` names those, beside ``portable``, that may not be left out. ``progress`` is told the variant,
    trials done and trials planned. Raises BuildError where one of those fails, DriftError where it drifts.
    """
    trials = _Trials(root, manifest, threads, {PORTABLE, *must})
    begin, longest, done, finished = time.monotonic(), 0.0, 0, 0
    while finished < rounds and time.monotonic() - begin + longest < TIME_BUDGET:
        round_begin = time.monotonic()
        names = trials.standing()
        total = done + (rounds - finished) * len(names)
        for name in names:
            progress(name, done, total)
            trials.attempt(name)
            done += 1
        finished += 1
        longest = max(longest, time.monotonic() - round_begin)
    measurements = {
        "host": {**machine._asdict(), "cpu": _cpu_name()},
        "threads": threads,
        "rounds": finished,
        "variants": trials.measured(),
    }
    return Plan(measurements, trials.left_out)


class _Trials:
    """The trials so far: a row of figures for each, or the reason why a variant gets no more of them."""

    def __init__(self, root: str, manifest: Manifest, threads: int, must: Collection[str]) -> None:
        self.left_out: dict[str, str] = {}
        self._root = root
        self._manifest = manifest
        self._threads = threads
        self._must = must
        self._timeout = TRIAL_TIMEOUT
        self._joined: dict[str, dict[str, float]] = {}
        self._rows: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in manifest.variants}

    def standing(self) -> list[str]:
        return [name for name in self._rows if name not in self.left_out]

    def attempt(self, name: str) -> None:
        """Try one variant in a fresh process."""
        tolerance = self._manifest.tolerance
        first = not self._rows[name]
        request = {"root": self._root, "variant": name, "threads": self._threads, "joined": first}
        begin = time.monotonic()
        try:
            row = isolated.call("preheat.build.trial", request, timeout=self._timeout)
        except PreheatError as error:
            if name in self._must:
                raise BuildError(f"the variant {name} cannot be used: {error}") from error
            self.left_out[name] = str(error)
            return
        joined = row.pop("joined", None)
        if joined:
            self._joined[name] = joined
        if name == PORTABLE and first:
            self._timeout = 60 + 10 * (time.monotonic() - begin)
        if row["drift"] > tolerance:
            if name in self._must:
                raise DriftError(_too_far(name, row["drift"], tolerance))
            self.left_out[name] = f"drifts {row['drift']:.3g}; the tolerance is {tolerance:.3g}"
        self._rows[name].append(row)

    def measured(self) -> dict[str, Any]:
        """For every variant its figures, or why it was left out."""
        measured: dict[str, Any] = {name: {"left_out": reason} for name, reason in self.left_out.items()}
        for variant in self._manifest.variants:
            if variant.name not in self.left_out:
                rows = self._rows[variant.name]
                measured[variant.name] = {
                    **{
                        figure: _spread([row[figure] for row in rows])
                        for figure in (*FIGURES, ON_A_GPU)
                        if figure in rows[0]
                    },
                    "bytes": sum(file.size for file in self._manifest.files if file.path in variant.files),
                    "drift": max(row["drift"] for row in rows),
                }
                if variant.name in self._joined:
                    measured[variant.name]["joined"] = self._joined[variant.name]
        return measured


def _too_far(name: str, drift: float, tolerance: float) -> str:
    advice = (
        "accept that with --tolerance, or build without --quantize or --provider"
        if name != PORTABLE
        else ("the model gives other answers from run to run; accept that with --tolerance")
    )
    return (
        f"the answers of {name} drift {drift:.3g} from the golden outputs; the tolerance is {tolerance:.3g}. "
        f"Nothing was written: {advice}"
    )


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return ""
