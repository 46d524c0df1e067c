"""Traces of real traffic: when each request came, in CSV or in JSON lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ..errors import UsageError

NAMES = ("timestamp", "time", "ts", "at")
"""What the column or member with the time may be called."""
MILLISECONDS = 1e11
"""What is above, as seconds since 1970, is after the year 5000: it was meant as milliseconds."""


class Row(NamedTuple):
    line: int
    at: float
    """Seconds, since whatever the trace counts from; ISO 8601's since 1970."""
    more: Mapping[str, object]
    """The line's columns or members by name, in lower case; empty where it is the time alone."""


def rows(path: str) -> Iterator[Row]:
    """A file's requests, in order: CSV (one column, or one with a name of NAMES in its first line), or JSON
    lines (a number, or an object with such a member). Times are seconds, or ISO 8601.

    Raises UsageError that names the line, also where there is no request at all.
    """
    before = -math.inf
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line, value, more in _lines(path, file):
                at = _checked(path, line, value)
                if at < before:
                    told = f"{at:.15g} comes after {before:.15g}"
                    raise UsageError(f"{path}, line {line}: the trace is out of order: {told}; sort it")
                before = at
                yield Row(line, at, more)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no trace: it is not UTF-8 text") from None
    except csv.Error as error:
        raise UsageError(f"{path} is no trace: {error}") from None
    if before < 0:
        raise UsageError(f"{path} is an empty trace: it needs a timestamp for each request")


def replayed(path: str, speed: float) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Seconds of each request from the first one on, ``speed`` times as fast; and the number of the
    scenario's request that each line asks for in ``request``, empty where none does. Raises UsageError."""
    found = list(rows(path))
    chosen = [_number(path, row) for row in found if row.more.get("request") not in (None, "")]
    if chosen and len(chosen) != len(found):
        raise UsageError(f"{path}: {len(chosen)} of {len(found)} lines say their request; all or none must")
    return tuple((row.at - found[0].at) / speed for row in found), tuple(chosen)


def _lines(path: str, file: Iterable[str]) -> Iterator[tuple[int, object, Mapping[str, object]]]:
    """Line numbers, what stands for the time, and what stands beside it."""
    numbered = ((number, line.strip()) for number, line in enumerate(file, 1))
    filled: Iterator[tuple[int, str]] = ((number, line) for number, line in numbered if line)
    first = next(filled, None)
    if first is None:
        return
    if first[1].startswith("{") or path.endswith((".jsonl", ".ndjson", ".json")):
        for number, line in _from(first, filled):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                raise UsageError(f"{path}, line {number}: not JSON: {line[:60]!r}") from None
            members = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
            yield number, _member(path, number, members) if members else value, members
        return
    cells = next(csv.reader([first[1]]))
    names = [cell.strip().lower() for cell in cells]
    if not set(names) & set(NAMES):
        if len(cells) > 1:
            raise UsageError(
                f"{path}: the first line must name the column with the time: {' or '.join(NAMES)}"
            )
        names, filled = [NAMES[0]], _from(first, filled)
    column = next(i for i, name in enumerate(names) if name in NAMES)
    for number, line in filled:
        row = [cell.strip() for cell in next(csv.reader([line]))]
        if column >= len(row):
            raise UsageError(f"{path}, line {number}: it has no column {column + 1}")
        yield number, row[column], dict(zip(names, row, strict=False))


def _from(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _member(path: str, number: int, members: Mapping[str, object]) -> object:
    found = [name for name in NAMES if name in members]
    if not found:
        raise UsageError(f"{path}, line {number}: an object without {' or '.join(NAMES)}")
    return members[found[0]]


def _checked(path: str, line: int, value: object) -> float:
    seconds = _seconds(value)
    if seconds is None or not math.isfinite(seconds):
        raise UsageError(f"{path}, line {line}: {str(value)[:60]!r} is no time: seconds, or ISO 8601")
    if seconds < 0:
        raise UsageError(f"{path}, line {line}: a negative time, {seconds:g}")
    if seconds > MILLISECONDS:
        raise UsageError(f"{path}, line {line}: {seconds:g} is no time in seconds; is it in milliseconds?")
    return seconds


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


def _number(path: str, row: Row) -> int:
    text = str(row.more["request"])
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{path}, line {row.line}: request must be a number from 0 on, not {text!r}")
    return int(text)
