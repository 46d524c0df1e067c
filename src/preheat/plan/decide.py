"""Which option is the cheapest that meets the objective, and why the others are not it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .candidates import Candidate
from .objective import Bound, milliseconds

ALWAYS = (50.0, 99.0)
"""Percentiles that are told whatever the objective names."""


class Judged(NamedTuple):
    candidate: Candidate
    percentiles: dict[float, float]
    """Seconds, by percent: those of ALWAYS and of the objective."""
    missed: list[str]
    """What of the objective is not met, and what brings that about; empty where all of it is."""

    @property
    def name(self) -> str:
        return self.candidate.option.name

    @property
    def total(self) -> float:
        return self.candidate.total


class Decision(NamedTuple):
    judged: list[Judged]
    """Those that meet the objective first, the cheapest before."""
    chosen: Judged | None
    why: list[str]


def decide(candidates: Sequence[Candidate], objective: Sequence[Bound]) -> Decision:
    judged = sorted(
        (_judge(one, objective) for one in candidates), key=lambda one: (bool(one.missed), one.total)
    )
    chosen = judged[0] if judged and not judged[0].missed else None
    return Decision(judged, chosen, _why(judged, chosen, objective))


def _judge(candidate: Candidate, objective: Sequence[Bound]) -> Judged:
    wanted = sorted({*ALWAYS, *(bound.percent for bound in objective)})
    found = candidate.outcome.percentiles_s(wanted)
    missed = [
        f"{bound.name} is {milliseconds(found[bound.percent])}, not {milliseconds(bound.seconds)}: "
        f"{_cause(candidate, bound)}"
        for bound in objective
        if found[bound.percent] > bound.seconds
    ]
    return Judged(candidate, found, missed)


def _cause(candidate: Candidate, bound: Bound) -> str:
    """What makes up most of the requests that take longer."""
    outcome = candidate.outcome
    late = outcome.latency_s > bound.seconds
    unanswered, cold = np.isinf(outcome.latency_s), late & outcome.cold
    alone = candidate.figures.request.median
    if alone > bound.seconds:
        return f"a warm request alone takes {milliseconds(alone)}"
    if np.sum(late & unanswered) * 2 > np.sum(late):
        return f"{outcome.unanswered_share:.2%} get no answer"
    if np.sum(cold) * 2 > np.sum(late):
        median = milliseconds(float(np.median(outcome.latency_s[outcome.cold])))
        return f"{outcome.cold_share:.2%} meet a cold start, which takes {median}"
    return (
        f"{np.mean(late):.2%} take longer, most of them waiting for an instance that starts or for its turn"
    )


def _why(judged: Sequence[Judged], chosen: Judged | None, objective: Sequence[Bound]) -> list[str]:
    wanted = " and ".join(map(str, objective))
    if chosen is None:
        lines = [f"No option meets {wanted}."]
        if judged:
            nearest = min(judged, key=lambda one: _distance(one, objective))
            lines.append(f"Nearest is {nearest.name}: {'; '.join(nearest.missed)}.")
            lines.append(_way_out(nearest, objective))
        return lines
    meeting = [one for one in judged if not one.missed]
    rank = "the only option that meets" if len(meeting) == 1 else f"the cheapest of {len(meeting)} that meet"
    lines = [f"{chosen.name} is {rank} {wanted}: ${chosen.total:,.2f} a month."]
    if len(meeting) > 1:
        second = meeting[1]
        more = round(second.total - chosen.total, 2)
        lines.append(f"Next is {second.name}, for {f'${more:,.2f} more' if more else 'as much'}.")
    cheaper = [one for one in judged if one.missed and one.total < chosen.total]
    lines += [f"{one.name} is cheaper (${one.total:,.2f}), and {'; '.join(one.missed)}." for one in cheaper]
    return lines


def _distance(one: Judged, objective: Sequence[Bound]) -> tuple[float, float]:
    worst = max(one.percentiles[bound.percent] / bound.seconds for bound in objective)
    return (worst, one.total) if math.isfinite(worst) else (math.inf, one.candidate.outcome.unanswered_share)


def _way_out(nearest: Judged, objective: Sequence[Bound]) -> str:
    alone = nearest.candidate.figures.request.median
    if any(alone > bound.seconds for bound in objective):
        return "No number of instances helps there: a faster variant, a smaller model or more CPU would."
    if nearest.candidate.outcome.cold_share > 0.001:
        return "More instances kept ready (min, provisioned), or a faster start, would help."
    return "More instances at most (max), fewer requests to each (concurrency) or more kept ready would help."


def document(decision: Decision) -> dict[str, Any]:
    """What ``--json`` prints of it; None for a latency without end."""
    return {
        "meets": decision.chosen is not None,
        "chosen": None if decision.chosen is None else decision.chosen.name,
        "why": decision.why,
        "options": [_option(one) for one in decision.judged],
    }


def _option(one: Judged) -> dict[str, Any]:
    figures, outcome = one.candidate.figures, one.candidate.outcome
    return {
        "name": one.name,
        "platform": one.candidate.option.platform,
        "settings": one.candidate.option.given,
        "meets": not one.missed,
        "missed": one.missed,
        "latency_ms": {
            f"p{percent:g}": round(seconds * 1e3, 3) if math.isfinite(seconds) else None
            for percent, seconds in one.percentiles.items()
        },
        "cold_share": round(outcome.cold_share, 6),
        "unanswered_share": round(outcome.unanswered_share, 6),
        "instances": outcome.most,
        "starts": outcome.use.starts,
        "monthly_usd": {
            "total": round(one.total, 4),
            "parts": {k: round(v, 4) for k, v in one.candidate.monthly.items()},
        },
        "memory_mb": figures.memory_mb,
        "variant": figures.variant,
        "start_ms": [round(value * 1e3, 3) for value in figures.start],
        "request_ms": [round(value * 1e3, 3) for value in figures.request],
    }
