"""Traces of real traffic: when each request came, in CSV or in JSON lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ..errors import UsageError


def read_trace(path: str, speed: float = 1.0) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Seconds of each request from the first one on, and the number of the scenario's request that each
    line asks for (empty where none says so).

    A line has a ``timestamp`` (seconds, or a date and time in ISO 8601) and may have a ``request``.
    ``speed``: how many times as fast it is replayed. Raises UsageError with the line for what is empty, out
    of order or no time.
    """
    times: list[float] = []
    chosen: list[int] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line, row in (
                _json_lines(file, path) if path.endswith((".jsonl", ".ndjson")) else _csv(file, path)
            ):
                at = _seconds(row.get("timestamp"), path, line)
                if times and at < times[-1]:
                    raise UsageError(
                        f"{path}, line {line}: the trace is out of order: {at:g} comes after "
                        f"{times[-1]:g}; sort it"
                    )
                times.append(at)
                if row.get("request") not in (None, ""):
                    chosen.append(_number(row["request"], path, line))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8: {error.reason}") from None
    if not times:
        raise UsageError(f"{path} is an empty trace: there is no request in it")
    if chosen and len(chosen) != len(times):
        raise UsageError(f"{path}: {len(chosen)} of {len(times)} lines say their request; all or none must")
    return tuple((at - times[0]) / speed for at in times), tuple(chosen)


def _csv(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file)
    if "timestamp" not in (reader.fieldnames or ()):
        if not reader.fieldnames:
            raise UsageError(f"{path} is an empty trace: there is no request in it")
        raise UsageError(f"{path}: the first line must name the columns, one of them timestamp")
    for row in reader:
        yield reader.line_num, row


def _json_lines(file: Any, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number} must be an object with a timestamp")
        yield number, row


def _seconds(value: Any, path: str, line: int) -> float:
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        at = float(value)
    except (TypeError, ValueError):
        try:
            at = datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            raise UsageError(f"{path}, line {line}: {value!r} is no timestamp") from None
    if not math.isfinite(at) or at < 0:
        raise UsageError(f"{path}, line {line}: a timestamp must be a number from 0 on, not {value!r}")
    return at


def _number(value: Any, path: str, line: int) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdigit():
        raise UsageError(f"{path}, line {line}: request must be a number from 0 on, not {value!r}")
    return int(text)
