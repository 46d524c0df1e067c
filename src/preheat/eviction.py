"""What goes when the cache grows too large: the least recently used, never what is in use.

A blob goes only when no folder links to it and nobody holds its lock; a folder only when nobody uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from .cache import Cache
from .errors import StoreError


def used(cache: Cache) -> int:
    """Bytes that blobs take."""
    total = 0
    with os.scandir(cache.blobs) as entries:
        for entry in entries:
            if "." not in entry.name or entry.name.endswith(".part"):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def make_room(cache: Cache, needed: int) -> None:
    """Evict what was used longest ago until ``needed`` more bytes fit, or nothing is left that may go.

    Raises StoreError where that many would never fit.
    """
    if needed > cache.limit:
        raise StoreError(
            f"the files take {needed} bytes, PREHEAT_CACHE_BYTES allows {cache.limit}", code="cache"
        )
    if used(cache) + needed > cache.limit:
        evict(cache, needed)


def evict(cache: Cache, needed: int) -> None:
    """Drop unused artifacts, least recently used first, until ``needed`` more bytes fit the limit."""
    from shutil import rmtree

    locks = [entry.path for entry in os.scandir(cache.artifacts) if entry.name.endswith(".lock")]
    for lock in sorted(locks, key=_modified):
        _sweep(cache)
        if used(cache) + needed <= cache.limit:
            return
        with contextlib.suppress(StoreError):
            descriptor = cache.locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor is not None:
                rmtree(lock.removesuffix(".lock"), ignore_errors=True)
                for suffix in (".dsse", ".ok", ".lock"):
                    with contextlib.suppress(OSError):
                        os.unlink(lock.removesuffix(".lock") + suffix)
                os.close(descriptor)
    _sweep(cache)


def _sweep(cache: Cache) -> None:
    """Remove blobs that no artifact's folder links to and nobody is fetching."""
    for digest in {name.partition(".")[0] for name in os.listdir(cache.blobs)}:
        path = cache.blob(digest)
        if _links(path) > 1:
            continue
        with contextlib.suppress(StoreError):
            descriptor = cache.locked(f"{path}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor is not None:
                # Whoever held the lock until now may have linked it.
                for suffix in ("", ".ok", ".part", ".parts", ".lock") if _links(path) <= 1 else ():
                    with contextlib.suppress(OSError):
                        os.unlink(path + suffix)
                os.close(descriptor)


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _links(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_nlink
    except FileNotFoundError:
        return 0
