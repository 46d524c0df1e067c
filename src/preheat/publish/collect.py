"""Garbage: blobs that no version names, and versions that nobody kept.

What is to go is worked out, announced (preheat.publish.pending), and worked out once more: what came to be
named meanwhile, or is about to be, stays.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..errors import StoreError
from ..stores.layout import aliases, read_alias, read_version, signed_key, version_key, versions
from ..stores.object import Bucket, Deadline, Listed
from ..stores.reference import check_root
from .pending import REMOVE_S, Note, noted, notes


class Collected(NamedTuple):
    root: str
    dry_run: bool
    versions: list[str]
    """``name@version`` of each version that was removed."""
    blobs: list[str]
    bytes: int
    kept_blobs: int
    young: int
    """Blobs that no version names, and that are too young to go: someone may be publishing them."""

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def collect(location: str, *, keep: int | None, grace_s: float, dry_run: bool, timeout_s: float) -> Collected:
    """Remove what nothing names. ``keep``: of each artifact, the newest so many versions stay, beside those
    that an alias names or would roll back to; None: every version stays.

    Raises StoreError where a version cannot be read; then nothing was removed.
    """
    root = check_root(location, location)
    bucket = Bucket(root, Deadline(timeout_s))
    dropped, live = _versions(bucket, keep, grace_s)
    seen: dict[tuple[str, str], set[str]] = {}
    named = _named(bucket, live, seen)
    old: list[Listed] = []
    kept = young = 0
    for entry in bucket.entries("blobs/"):
        if _digest(entry) in named:
            kept += 1
        elif time.time() - entry.modified < grace_s:
            young += 1
        else:
            old.append(entry)
    if not dry_run and (dropped or old):
        until = time.time() + REMOVE_S
        going = Note(until, frozenset(map("@".join, dropped)), frozenset(map(_digest, old)))
        with noted(bucket, "remove", going):
            dropped, old = _still(bucket, dropped, old, seen, keep, grace_s)
            for name, version in dropped:
                bucket.delete(version_key(name, version))
                bucket.delete(signed_key(name, version))
            for entry in old:
                if time.time() > until:
                    raise StoreError(f"{root}: removing took too long; run this again for the rest")
                bucket.delete(entry.key)
    names = [f"{name}@{version[:12]}" for name, version in dropped]
    freed = sum(entry.size for entry in old)
    return Collected(root, dry_run, names, [_digest(entry) for entry in old], freed, kept, young)


def _still(
    bucket: Bucket,
    dropped: list[tuple[str, str]],
    old: list[Listed],
    seen: dict[tuple[str, str], set[str]],
    keep: int | None,
    grace_s: float,
) -> tuple[list[tuple[str, str]], list[Listed]]:
    """What of it may still go, now that everybody can know."""
    kept = notes(bucket, "keep")
    versions_kept = {version for note in kept for version in note.versions}
    again, live = _versions(bucket, keep, grace_s)
    live += [version for version in again if version not in dropped or "@".join(version) in versions_kept]
    dropped = [version for version in dropped if version not in live]
    named = _named(bucket, live, seen) | {digest for note in kept for digest in note.blobs}
    return dropped, [entry for entry in old if _digest(entry) not in named]


def _digest(entry: Listed) -> str:
    return entry.key.rpartition("/")[2]


def _versions(
    bucket: Bucket, keep: int | None, grace_s: float
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Versions to remove, and versions to keep."""
    dropped: list[tuple[str, str]] = []
    live: list[tuple[str, str]] = []
    for name in bucket.folders("artifacts"):
        published = versions(bucket, name)
        held: set[str] = set()
        for alias in aliases(bucket, name):
            value, _ = read_alias(bucket, name, alias)
            held |= {value.version, *value.history[-1:]}
        newest = sorted(published, key=lambda version: -published[version])
        for rank, version in enumerate(newest):
            fresh = time.time() - published[version] < grace_s  # its alias may be about to be written
            spare = keep is not None and rank >= keep and version not in held and not fresh
            (dropped if spare else live).append((name, version))
    return dropped, live


def _named(bucket: Bucket, live: list[tuple[str, str]], seen: dict[tuple[str, str], set[str]]) -> set[str]:
    """The blobs that these versions name. ``seen``: what was read before."""
    for name, version in live:
        if (name, version) not in seen:
            try:
                manifest, _ = read_version(bucket, name, version)
            except Exception as error:
                raise StoreError(
                    f"nothing was removed: what {name}@{version[:12]} names is not known: {error}",
                    code="broken",
                ) from error
            seen[name, version] = {file.sha256 for file in manifest.files}
    return {digest for version in live for digest in seen[version]}
