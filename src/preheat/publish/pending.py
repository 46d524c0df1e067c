"""What is under way in a store: notes of those who are about to name something, or to remove something.

::

    pending/keep-RANDOM.json      a publisher's: the version that it names, the blobs that it relies on
    pending/remove-RANDOM.json    a collector's: the versions and blobs that it is about to remove

Each leaves its own note first, and reads the others' afterwards. So of a publisher and a collector that want
the same thing at least one sees the other: the publisher says so and names nothing, the collector leaves it.
A note that a crash left behind counts until its time is over.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import ConflictError, StoreError
from ..stores.object import Bucket
from ..stores.wording import MissingError

KEEP_S = 24 * 3600.0
"""The longest that a publish may take."""
REMOVE_S = 15 * 60.0
"""The longest that a collector goes on removing."""
SKEW_S = 300.0
"""How far the clocks of two hosts may lie apart."""
MAX_BYTES = 8 * 1024 * 1024
PREFIX = "pending/"


class Note(NamedTuple):
    until: float
    """Seconds since the epoch."""
    versions: frozenset[str]
    """NAME@VERSION of each."""
    blobs: frozenset[str]


@contextlib.contextmanager
def keeping(bucket: Bucket, name: str, version: str, blobs: Iterable[str]) -> Iterator[None]:
    """Hold a version and its blobs against collectors, for the length of a block.

    Raises ConflictError where one of them is being removed.
    """
    note = Note(time.time() + KEEP_S, frozenset([f"{name}@{version}"]), frozenset(blobs))
    with noted(bucket, "keep", note):
        for other in notes(bucket, "remove"):
            if other.versions & note.versions or other.blobs & note.blobs:
                raise ConflictError(
                    f"{bucket.root}: a `preheat gc` is removing what {name}@{version[:12]} needs; run this "
                    "again when it has ended"
                )
        yield


@contextlib.contextmanager
def noted(bucket: Bucket, kind: str, note: Note) -> Iterator[None]:
    """Leave a note for the length of a block."""
    key = f"{PREFIX}{kind}-{os.urandom(8).hex()}.json"
    document = {"until": note.until, "versions": sorted(note.versions), "blobs": sorted(note.blobs)}
    bucket.write(key, json.dumps(document).encode())
    try:
        yield
    finally:
        with contextlib.suppress(StoreError):  # a publisher may lack the right; its time will be over
            bucket.delete(key)


def notes(bucket: Bucket, kind: str) -> list[Note]:
    """The notes of a kind that count; those whose time is over are removed. Raises StoreError for another
    thing in their place."""
    found = []
    for entry in list(bucket.entries(PREFIX)):
        if not entry.key.rpartition("/")[2].startswith(f"{kind}-"):
            continue
        try:
            document = json.loads(bucket.read(entry.key, MAX_BYTES).data)
            note = Note(
                float(document["until"]), frozenset(document["versions"]), frozenset(document["blobs"])
            )
        except MissingError:
            continue  # it has just ended
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{bucket.where(entry.key)} is not a note; remove it", code="broken") from error
        if note.until + SKEW_S > time.time():
            found.append(note)
        else:
            with contextlib.suppress(StoreError):
                bucket.delete(entry.key)
    return found
