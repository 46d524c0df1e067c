"""What happened, written down by every process of a run as it happens.

Each process appends to a file of its own, one line an event, one write a line: what was written before a
SIGKILL stays. All times are of the host's monotonic clock, which every process shares and no skew touches.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class Kind(StrEnum):
    CLAIMING = "claiming"
    """A claim was sent; what comes of it is an event of its own, or nothing where the process died."""
    CLAIMED = "claimed"
    """value: the attempt."""
    IN_PROGRESS = "in progress"
    """value: seconds until the lease lapses."""
    REPLAY = "replay"
    """value: the outcome's digest."""
    MISMATCH = "mismatch"
    CLAIM_FAILED = "claim failed"
    """The store was not reached, or its answer was not: whether it claimed is unknown."""

    RENEWED = "renewed"
    RENEWAL_REFUSED = "renewal refused"
    RENEWAL_FAILED = "renewal failed"

    COMMITTING = "committing"
    """value: the digest of the caller's own outcome."""
    COMMITTED = "committed"
    """value: the digest of the outcome that stands, the caller's or another's."""
    COMMIT_REFUSED = "commit refused"
    """Another owns the key and has not committed."""
    COMMIT_FAILED = "commit failed"

    RELEASING = "releasing"
    RELEASED = "released"
    RELEASE_REFUSED = "release refused"
    RELEASE_FAILED = "release failed"

    STARTED = "started"
    """The work runs; value: the digest of the outcome it would give, which no other execution has."""
    ENDED = "ended"
    RAISED = "raised"

    KILLED = "killed"
    """The process is about to die of SIGKILL; value: the step."""
    FROZEN = "frozen"
    """The process is about to be stopped for longer than its leases."""
    THAWED = "thawed"
    """It goes on."""
    DOWN = "down"
    UP = "up"
    """The store was killed, and answers again."""

    FAULT = "fault"
    """What the proxy before the store did to a request; value: the fault."""

    ACKNOWLEDGED = "acknowledged"
    """A client got the outcome; value: its digest."""
    ANSWERED_OTHER = "answered other"
    """A client got an outcome for another payload than the key's."""
    FINAL = "final"
    """The key was read when all was over; value: the digest of what it replays, empty for nothing."""


class Event(NamedTuple):
    at: float
    """Seconds; for a call, when it returned."""
    who: str
    """The process: a name that none that takes its place has."""
    kind: Kind
    key: str = ""
    fence: str = ""
    value: str = ""
    began: float = 0.0
    """When the call was sent, for an event that is a call's return."""


class Recorder:
    """Appends the events of one process; its threads may share it."""

    def __init__(self, folder: Path, who: str) -> None:
        self.who = who
        self._file = os.open(folder / f"{who}.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def __call__(
        self, kind: Kind, key: str = "", fence: str = "", value: str = "", began: float = 0.0
    ) -> None:
        line = json.dumps([time.monotonic(), self.who, kind, key, fence, value, began])
        os.write(self._file, f"{line}\n".encode())


def merged(folder: Path) -> list[Event]:
    """The events of all processes, in the order of their times."""
    events: list[Event] = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            at, who, kind, *rest = json.loads(line)
            events.append(Event(at, who, Kind(kind), *rest))
    return sorted(events)


def by_key(events: Iterable[Event]) -> dict[str, list[Event]]:
    keys: dict[str, list[Event]] = {}
    for event in events:
        if event.key:
            keys.setdefault(event.key, []).append(event)
    return keys


def digest(outcome: bytes) -> str:
    return hashlib.sha256(outcome).hexdigest()[:20]
