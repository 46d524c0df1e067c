"""A run on disk: JSON lines, written as they come, so that whatever ends a run leaves what it saw.

The first line says what was run, each further one is a sample, the last one how it ended.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from .. import output
from ..errors import UsageError
from .samples import Sample

SCHEMA = 1
MARK = "preheat_load"
WRITTEN_BY = "which `preheat load SCENARIO --target URL -o RUN.jsonl` writes"


class Run(NamedTuple):
    head: Mapping[str, Any]
    samples: Sequence[Sample]
    tail: Mapping[str, Any]
    """How it ended; of a run that was killed: ``{"cut": "…"}``."""

    @property
    def name(self) -> str:
        return str(self.head.get("label") or self.head["scenario"]["name"])

    @property
    def final(self) -> list[Sample]:
        """The last attempt of each request."""
        return [one for one in self.samples if one.final]

    @property
    def seconds(self) -> float:
        """From the first intended moment's run beginning to its end."""
        last = max((one.at_s + one.client_ms / 1e3 for one in self.samples), default=0.0)
        return max(float(self.tail.get("seconds", 0.0)), last)


class Writer:
    """Of one run's file; ``-`` is standard output. Raises UsageError where it cannot be written."""

    def __init__(self, path: str, head: Mapping[str, Any]) -> None:
        self.path = path
        output.make_room(path)
        try:
            place = sys.stdout.fileno() if path == output.STDOUT else path
            self._file = open(place, "w", encoding="utf-8", closefd=place is path)  # noqa: SIM115 - by __exit__
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        self._line({MARK: SCHEMA, **head})

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            self._file.write(json.dumps(one._asdict(), separators=(",", ":")) + "\n")
        self._file.flush()

    def end(self, tail: Mapping[str, Any]) -> None:
        self._line({"end": tail})

    def _line(self, document: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(document) + "\n")
        self._file.flush()


def is_run(path: str) -> bool:
    """Whether a file begins as a run does; what cannot be read is for its reader to say."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MARK) + 4).lstrip().startswith(b'{"' + MARK.encode() + b'"')
    except OSError:
        return False


def read(path: str) -> Run:
    """Raises UsageError for what is no run. A last line that was cut is left out: the run was."""
    head: dict[str, Any] = {}
    tail: dict[str, Any] = {"cut": "it has no end: the run was killed, or still goes on"}
    samples: list[Sample] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    if number == 1:
                        head = row
                        if row[MARK] != SCHEMA:
                            raise UsageError(f"{path} is a run of schema {row[MARK]}; this reads {SCHEMA}")
                        _ = row["scenario"]["digest"], row["target"]
                    elif "end" in row:
                        tail = row["end"]
                    else:
                        samples.append(Sample(**row))
                except (ValueError, KeyError, TypeError):
                    if line.endswith("\n"):
                        raise UsageError(
                            f"{path}, line {number} is not of a load test's run, {WRITTEN_BY}"
                        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text, and no load test's run, {WRITTEN_BY}") from None
    if not head:
        raise UsageError(f"{path} is empty, and no load test's run, {WRITTEN_BY}")
    return Run(head, samples, tail)


def read_all(paths: Sequence[str]) -> list[Run]:
    """Runs under names of which no two are the same: their labels; else what their scenarios are called, or
    their files where those do not differ; with a number where these are the same too. Raises as ``read``."""
    found = [read(path) for path in paths]
    names = Counter(run.name for run in found)
    told: list[Run] = []
    for path, run in zip(paths, found, strict=True):
        plain = run.name if run.head.get("label") or names[run.name] == 1 else Path(path).stem
        name, taken = plain, {one.name for one in told}
        number = 2
        while name in taken:
            name, number = f"{plain} {number}", number + 1
        told.append(run._replace(head={**run.head, "label": name}))
    return told
