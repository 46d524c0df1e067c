"""Garbage: blobs that no version names, and versions that nobody kept."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ..errors import StoreError
from ..stores.layout import aliases, read_alias, read_version, signed_key, version_key, versions
from ..stores.object import Bucket, Deadline
from ..stores.reference import check_root


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
    named = _named(bucket, live)
    old: list[str] = []
    freed = kept = young = 0
    for entry in bucket.entries("blobs/"):
        if entry.key.rpartition("/")[2] in named:
            kept += 1
        elif time.time() - entry.modified < grace_s:
            young += 1
        else:
            old.append(entry.key)
            freed += entry.size
    if not dry_run:
        for name, version in dropped:
            bucket.delete(version_key(name, version))
            bucket.delete(signed_key(name, version))
        if old:
            # Someone may have published meanwhile: what a new version names stays.
            named |= _named(bucket, [found for found in _all(bucket) if found not in live])
            old = [key for key in old if key.rpartition("/")[2] not in named]
            for key in old:
                bucket.delete(key)
    names = [f"{name}@{version[:12]}" for name, version in dropped]
    return Collected(root, dry_run, names, [key.rpartition("/")[2] for key in old], freed, kept, young)


def _all(bucket: Bucket) -> list[tuple[str, str]]:
    return [(name, version) for name in bucket.folders("artifacts") for version in versions(bucket, name)]


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


def _named(bucket: Bucket, live: list[tuple[str, str]]) -> set[str]:
    digests: set[str] = set()
    for name, version in live:
        try:
            manifest, _ = read_version(bucket, name, version)
        except Exception as error:
            raise StoreError(
                f"nothing was removed: what {name}@{version[:12]} names is not known: {error}", code="broken"
            ) from error
        digests |= {file.sha256 for file in manifest.files}
    return digests
