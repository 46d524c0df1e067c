"""Interleaved rounds: each contender starts once a round, so that all meet the same weather."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import PreheatError
from .start import Contender, Start, cold_start


class Wrong(NamedTuple):
    """A start that is no measurement; it is counted, and never averaged in."""

    round: int
    problem: str


class Outcome(NamedTuple):
    contender: Contender
    good: list[Start]
    wrong: list[Wrong]


def rehearse(contender: Contender) -> Start:
    """Start once, not counted: this start writes what a deployed image has, bytecode and verification stamps.

    Raises PreheatError where it fails.
    """
    start = cold_start(contender)
    if start.problem is not None:
        raise PreheatError(f"{contender.label} does not start: {start.problem}", code="failed_start")
    return start


def run(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    before: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    pause_s: float = 0.05,
) -> list[Outcome]:
    """``rounds`` starts of each contender; who begins a round changes from round to round.

    ``before`` is called before each start, ``progress`` with what comes next, how many starts are done and
    how many there are. ``pause_s`` lets the process that ended give back its memory. Answers are checked
    after the last start.
    """
    starts: list[list[Start]] = [[] for _ in contenders]
    for turn in range(rounds):
        for offset in range(len(contenders)):
            index = (turn + offset) % len(contenders)
            progress(contenders[index].label, turn * len(contenders) + offset, rounds * len(contenders))
            before()
            time.sleep(pause_s)
            starts[index].append(cold_start(contenders[index]))
    return [_checked(contender, tried) for contender, tried in zip(contenders, starts, strict=True)]


def _checked(contender: Contender, starts: Sequence[Start]) -> Outcome:
    good: list[Start] = []
    wrong: list[Wrong] = []
    for turn, start in enumerate(starts, 1):
        problem = start.problem
        if problem is None:
            assert start.response is not None  # noqa: S101 - without a problem there is one
            problem = contender.check(start.response)
        if problem is None:
            good.append(start)
        else:
            wrong.append(Wrong(turn, problem))
    return Outcome(contender, good, wrong)
