"""Whether a run got worse than another: decided on intervals, with the phase that caused it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UsageError
from . import figures
from . import intervals as iv
from .runs import Run
from .samples import OUTSIDE, STARTS, Sample

QUANTILES = (0.5, 0.9, 0.99)
LEAST = 8
"""Samples below which a resample says nothing."""
BUSY = (0.4, 0.6)
"""Around a quantile: the part of the samples whose phases explain it; at the tail, from the quantile on."""
AROUND = frozenset({"wait", "gateway waited", OUTSIDE})
"""What a client waits for while something else goes on."""
RESAMPLED = 2000
"""Values past which a mean's resamples are taken from the normal law that they follow."""
WORSE, BETTER, SAME, OPEN = "regression", "better", "no regression", "undecided"


def limit(text: str) -> float:
    """``10%`` or ``0.1``, as a part. Raises UsageError."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"--fail-above must be a share such as 10% or 0.1, not {text!r}")
    return value


def compare(base: Run, new: Run, *, above: float, points: float) -> dict[str, Any]:
    """``above``: how much slower a latency may be, as a part; ``points``: by how much the share of failed
    requests may rise.

    A row is a regression where the whole interval of its ratio (or difference) lies past the limit; it is
    undecided where the interval holds the limit, or samples are too few. The intervals together hold with 95
    %: each is taken at 1 - 0.05 / rows (Bonferroni). Raises UsageError where the runs were not asked the
    same.
    """
    if base.head["scenario"]["digest"] != new.head["scenario"]["digest"]:
        asked = [f"{run.head['scenario']['name']} {run.head['scenario']['digest']}" for run in (base, new)]
        raise UsageError(
            f"the runs were asked different things ({' and '.join(asked)}): run both with the same scenario"
        )
    pairs = [
        (start, q, figures.of_start(base.samples, start), figures.of_start(new.samples, start))
        for start in STARTS
        for q in QUANTILES
    ]
    pairs = [pair for pair in pairs if pair[2] or pair[3]]
    chance, confidence = iv.generator(), 1 - (1 - iv.CONFIDENCE) / (len(pairs) + 1)
    rows = [_failed(base, new, points, confidence, chance)]
    rows += [_latency(start, q, old, now, above, confidence, chance) for start, q, old, now in pairs]
    cuts = {run.name: run.tail["cut"] for run in (base, new) if run.tail.get("cut")}
    return {
        "base": base.name,
        "new": new.name,
        "fail_above": above,
        "rows": rows,
        "regressions": sum(row["verdict"] == WORSE for row in rows),
        "undecided": sum(row["verdict"] == OPEN for row in rows),
        "cut": cuts,
    }


def _latency(
    start: str,
    q: float,
    old: Sequence[Sample],
    now: Sequence[Sample],
    above: float,
    confidence: float,
    chance: np.random.Generator,
) -> dict[str, Any]:
    row: dict[str, Any] = {"what": f"{start} {iv.name(q)}", "unit": "ms", "samples": [len(old), len(now)]}
    if min(len(old), len(now)) < max(iv.enough(q), LEAST):
        why = f"it takes {max(iv.enough(q), LEAST)} samples in both runs"
        return {**row, "verdict": OPEN, "why": why}
    before, after = _sorted(old), _sorted(now)
    ratios = iv.draws(after, q, chance) / np.maximum(iv.draws(before, q, chance), 1e-9)
    low, high = iv.interval(ratios, confidence)
    values = [round(iv.quantile(before, q), 3), round(iv.quantile(after, q), 3)]
    verdict = _verdict(low - 1, high - 1, above)
    row |= {"values": values, "change": [round(low - 1, 4), round(high - 1, 4)], "verdict": verdict}
    if verdict == WORSE:
        row["phase"] = cause(old, now, q, chance)
    if verdict == OPEN:
        row["why"] = "the interval holds the limit; more samples would narrow it"
    return row


def _failed(
    base: Run, new: Run, points: float, confidence: float, chance: np.random.Generator
) -> dict[str, Any]:
    counts = []
    for run in (base, new):
        final = run.final
        counts.append((sum(not one.good for one in final), len(final)))
    row: dict[str, Any] = {"what": "failed", "unit": "share", "samples": [of for _, of in counts]}
    if min(of for _, of in counts) < LEAST:
        return {**row, "verdict": OPEN, "why": f"it takes {LEAST} requests in both runs"}
    (bad, of), (bad_now, of_now) = counts
    rise = iv.share_draws(bad_now, of_now, chance) - iv.share_draws(bad, of, chance)
    low, high = iv.interval(rise, confidence)
    if bad == bad_now == 0:
        high = 3 / of_now
    values = [round(bad / of, 6), round(bad_now / of_now, 6)]
    verdict = _verdict(low, high, points)
    row |= {"values": values, "change": [round(low, 4), round(high, 4)], "verdict": verdict}
    if verdict == WORSE:
        row["phase"] = _outcome(base, new)
    if verdict == OPEN:
        row["why"] = "the interval holds the limit; more requests would narrow it"
    return row


def _verdict(low: float, high: float, limit: float) -> str:
    if low > limit:
        return WORSE
    if high > limit:
        return OPEN
    return BETTER if high < 0 else SAME


def cause(
    old: Sequence[Sample], now: Sequence[Sample], q: float, chance: np.random.Generator
) -> dict[str, Any]:
    """The phase that grew most among the samples around the quantile, by means: ``name``, ``grew_ms``
    ``[value, low, high]``, and its share of the whole growth. Only one whose interval lies above 0; ``name``
    is ``not told by the server`` where none does."""
    old, now = _around(old, q), _around(now, q)
    before, after = figures.phases(old), figures.phases(now)
    grown: dict[str, list[float]] = {}
    for name in after:
        if name == "first_request":  # a part of wait and run, told twice
            continue
        # A phase that one side does not have took no time there.
        values = [np.asarray(side.get(name, [0.0])) for side in (before, after)]
        low, high = iv.interval(_mean_draws(values[1], chance) - _mean_draws(values[0], chance))
        if low > 0:
            grown[name] = [
                round(float(values[1].mean() - values[0].mean()), 3),
                round(low, 3),
                round(high, 3),
            ]
    if not grown:
        return {"name": "not told by the server", "grew_ms": None, "share": None}
    found = max(grown, key=lambda name: grown[name][0])
    if found in AROUND:
        # Waiting for a start holds its phases: the one of them that explains most of the wait is the cause.
        inner = [name for name in grown if name not in AROUND and grown[name][0] >= grown[found][0] / 2]
        found = max(inner, key=lambda name: grown[name][0], default=found)
    whole = float(np.mean([one.client_ms for one in now]) - np.mean([one.client_ms for one in old]))
    return {
        "name": found,
        "grew_ms": grown[found],
        "share": round(grown[found][0] / whole, 3) if whole > 0 else None,
    }


def _outcome(base: Run, new: Run) -> Mapping[str, Any]:
    """The outcome whose share rose most."""
    shares = []
    for run in (base, new):
        counted = Counter(one.outcome for one in run.final)
        shares.append({name: count / counted.total() for name, count in counted.items()})
    rises = {name: part - shares[0].get(name, 0.0) for name, part in shares[1].items() if name != "ok"}
    name = max(rises, key=lambda name: rises[name])
    return {"name": name, "grew": round(rises[name], 6)}


def _around(samples: Sequence[Sample], q: float) -> list[Sample]:
    ordered = sorted(samples, key=lambda one: one.client_ms)
    low, high = BUSY if q == 0.5 else (q, 1.0)
    n = len(ordered)
    begin = min(int(low * n), n - 1)
    return ordered[begin : max(int(np.ceil(high * n)), begin + 1)]


def _mean_draws(values: iv.Values, chance: np.random.Generator) -> iv.Values:
    if len(values) > RESAMPLED:
        return chance.normal(values.mean(), values.std() / len(values) ** 0.5, iv.REPETITIONS)
    picked = chance.integers(0, len(values), (iv.REPETITIONS, len(values)))
    found: iv.Values = values[picked].mean(axis=1)
    return found


def _sorted(samples: Sequence[Sample]) -> iv.Values:
    return np.sort(np.asarray([one.client_ms for one in samples]))
