"""The requests that a plan is made for: at a steady rate, or as a trace has them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deploy.cost import MONTH_S
from ..errors import UsageError

MOST = 10_000_000
"""Requests that are simulated at most."""
LEAST = 1_000
"""Requests of a steady rate at least, though they may take more than a month."""
NAMES = ("timestamp", "time", "ts", "at")
"""What the column or member with the time may be called."""
MILLISECONDS = 1e11
"""What is above, as seconds since 1970, is after the year 5000: it was meant as milliseconds."""


class Traffic(NamedTuple):
    arrivals: NDArray[np.float64]
    """Seconds from the beginning, never going back."""
    span_s: float
    """What it stands for: a month's costs are this times as much as fits."""
    said: str
    """In words."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.arrivals) / self.span_s


def of(rate: str, requests: int, seed: int) -> Traffic:
    """``--rate``: requests a second, or a trace's path. Raises UsageError."""
    try:
        number = float(rate)
    except ValueError:
        return trace(rate)
    return steady(number, requests, seed)


def steady(rate: float, requests: int, seed: int) -> Traffic:
    """A Poisson process of ``rate`` requests a second: ``requests`` of them, or a month's where that is less,
    and at least LEAST (or ``requests``). Raises UsageError for a rate that is none."""
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"--rate must be above 0 requests a second, not {rate:g}; or name a trace")
    if not 0 < requests <= MOST:
        raise UsageError(f"--requests must be 1 to {MOST:,}")
    if rate < 1e-7:
        raise UsageError(
            f"--rate {rate:g} is less than one request in three months: there is nothing to plan"
        )
    count = min(requests, max(math.ceil(rate * MONTH_S), LEAST))
    gaps = np.random.default_rng([seed, 0]).exponential(1 / rate, count)
    return Traffic(
        np.cumsum(gaps), count / rate, f"{rate:g} requests/s at random (Poisson), {count:,} of them"
    )


def trace(path: str) -> Traffic:
    """A file with a timestamp for each request, in order: CSV (one column, or one with a name of NAMES in its
    first line), or JSON lines (a number, or an object with such a member). Seconds, or ISO 8601.

    Raises UsageError that names the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            times = np.fromiter(_checked(path, _lines(path, file)), np.float64)
    except OSError as error:
        raise UsageError(
            f"--rate is requests a second or a trace's path: {path} cannot be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no trace: it is not UTF-8 text") from None
    except csv.Error as error:
        raise UsageError(f"{path} is no trace: {error}") from None
    if len(times) == 0:
        raise UsageError(f"{path} is an empty trace: it needs a timestamp for each request")
    took = float(times[-1] - times[0])
    if took <= 0:
        raise UsageError(
            f"{path} has {len(times)} requests at one and the same time, which is no rate: it needs two "
            "times at least"
        )
    span = took * len(times) / (len(times) - 1)
    return Traffic(times - times[0], span, f"{len(times):,} requests in {span:,.0f} s, as {path} has them")


def _lines(path: str, file: Iterable[str]) -> Iterator[tuple[int, object]]:
    """Line numbers and what stands for the time."""
    numbered = ((number, line.strip()) for number, line in enumerate(file, 1))
    filled = ((number, line) for number, line in numbered if line)
    first = next(filled, None)
    if first is None:
        return
    if first[1].startswith("{") or path.endswith((".jsonl", ".ndjson", ".json")):
        for number, line in _from(first, filled):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise UsageError(f"{path}, line {number}: not JSON: {line[:60]!r}") from None
            yield number, _member(path, number, value) if isinstance(value, dict) else value
        return
    cells = next(csv.reader([first[1]]))
    column = 0
    names = [cell.strip().lower() for cell in cells]
    if set(names) & set(NAMES):
        column = next(i for i, name in enumerate(names) if name in NAMES)
        rest: Iterator[tuple[int, str]] = filled
    elif len(cells) == 1:
        rest = _from(first, filled)
    else:
        raise UsageError(f"{path}: the first line must name the column with the time: {' or '.join(NAMES)}")
    for number, line in rest:
        row = next(csv.reader([line]))
        if column >= len(row):
            raise UsageError(f"{path}, line {number}: it has no column {column + 1}")
        yield number, row[column].strip()


def _from(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _member(path: str, number: int, value: dict[str, object]) -> object:
    found = [name for name in NAMES if name in value]
    if not found:
        raise UsageError(f"{path}, line {number}: an object without {' or '.join(NAMES)}")
    return value[found[0]]


def _checked(path: str, lines: Iterator[tuple[int, object]]) -> Iterator[float]:
    before = -math.inf
    for count, (number, value) in enumerate(lines):
        if count == MOST:
            raise UsageError(f"{path} has more than {MOST:,} requests: plan for a part of it")
        seconds = _seconds(value)
        if seconds is None or not math.isfinite(seconds):
            raise UsageError(f"{path}, line {number}: {str(value)[:60]!r} is no time: seconds, or ISO 8601")
        if seconds < 0:
            raise UsageError(f"{path}, line {number}: a negative time, {seconds:g}")
        if seconds > MILLISECONDS:
            raise UsageError(
                f"{path}, line {number}: {seconds:g} is no time in seconds; is it in milliseconds?"
            )
        if seconds < before:
            raise UsageError(
                f"{path}, line {number}: {seconds:.15g} comes after {before:.15g}: sort the trace by its time"
            )
        before = seconds
        yield seconds


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(str(value))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
