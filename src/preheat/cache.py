"""What was fetched, on this host: content-addressed, shared by processes, bounded.

::

    CACHE/store/blobs/ab12…            a file's bytes, read-only; .ok vouches for them, .part is on its way,
                                       .lock is held by whoever fetches
    CACHE/store/artifacts/VERSION/     an artifact as a folder: its manifest, and links to blobs
    CACHE/store/artifacts/VERSION.dsse the signature over it, where one was asked for
    CACHE/store/artifacts/VERSION.lock held shared by every process that uses the artifact

What goes when it grows too large: preheat.eviction.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator

from .download import identity, sha256_of
from .errors import StoreError
from .manifest import FILENAME, File

POLL_S = 0.01
BOOT = "/proc/sys/kernel/random/boot_id"


class Cache:
    """The fetched files of one cache folder. Raises StoreError where it cannot be used."""

    def __init__(self, folder: str, limit: int) -> None:
        self.root = f"{os.path.abspath(folder)}/store"
        self.limit = limit
        """Bytes that blobs may take."""
        self.blobs = f"{self.root}/blobs"
        self.artifacts = f"{self.root}/artifacts"
        for place in (self.root, self.blobs, self.artifacts):
            with self.told("made"):
                if not os.path.isdir(place):
                    os.makedirs(place, mode=0o700, exist_ok=True)
        found = os.stat(self.root)
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise StoreError(
                f"{self.root} belongs to another user, or others may write there; set PREHEAT_CACHE to a "
                "private folder",
                code="cache",
            )

    def folder(self, version: str) -> str:
        """Where an artifact's files are put together."""
        return f"{self.artifacts}/{version}"

    def blob(self, digest: str) -> str:
        return f"{self.blobs}/{digest}"

    def use(self, version: str) -> int:
        """Hold an artifact against eviction, and note that it was used; closing the descriptor lets go."""
        path = f"{self.folder(version)}.lock"
        descriptor = self.locked(path, fcntl.LOCK_SH)
        assert descriptor is not None  # noqa: S101 - it waited
        with contextlib.suppress(OSError):  # a cache that came with an image may be read-only
            os.utime(path)
        with contextlib.suppress(OSError):
            os.makedirs(self.folder(version), mode=0o700, exist_ok=True)
        return descriptor

    @contextlib.contextmanager
    def fetching(self, digest: str, wait_s: float) -> Iterator[None]:
        """The right to fetch a blob, one process at a time. Raises StoreError where the wait is too long."""
        until = time.monotonic() + wait_s
        path = f"{self.blob(digest)}.lock"
        while (descriptor := self.locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None:
            if time.monotonic() > until:
                raise StoreError(
                    f"another process has been fetching {digest[:12]}… for {wait_s:.0f} s; raise "
                    "PREHEAT_FETCH_TIMEOUT",
                    code="timeout",
                )
            time.sleep(POLL_S)
        try:
            yield
        finally:
            os.close(descriptor)

    def vouch_for(self, digest: str, path: str) -> bool:
        """Whether a file is the very blob that was verified since this host booted, and stands unchanged."""
        return _stands(f"{self.blob(digest)}.ok", path)

    def knows(self, version: str) -> bool:
        """Whether an artifact's manifest stands as it was when it was held against its version."""
        return _stands(f"{self.folder(version)}.ok", f"{self.folder(version)}/{FILENAME}")

    def know(self, version: str) -> None:
        """Vouch for a manifest that was just held against its version."""
        self._note(f"{self.folder(version)}.ok", f"{self.folder(version)}/{FILENAME}")

    def stamp(self, digest: str) -> None:
        """Vouch for a blob that was just verified. Not across a boot: what was not written out by then may
        be zeros, and syncing it would cost the start more than hashing it once costs the next."""
        self._note(f"{self.blob(digest)}.ok", self.blob(digest))

    def _note(self, stamp: str, path: str) -> None:
        temporary = f"{stamp}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a read-only cache is verified at every start
            with open(temporary, "w") as file:
                json.dump([_boot(), *identity(path)], file)
            os.replace(temporary, stamp)

    def has(self, file: File) -> bool:
        """Whether a file's blob lies here, verified; one that turns out to be damaged is thrown away."""
        path = self.blob(file.sha256)
        try:
            if os.stat(path, follow_symlinks=False).st_size == file.size:
                if self.vouch_for(file.sha256, path):
                    return True
                if sha256_of(path) == file.sha256:
                    self.stamp(file.sha256)
                    return True
            with self.told("written"):
                os.unlink(path)
        except FileNotFoundError:
            pass
        return False

    def link(self, version: str, file: File) -> None:
        """Put a verified blob into an artifact's folder, under the name that the manifest gives it."""
        blob, path = self.blob(file.sha256), f"{self.folder(version)}/{file.path}"
        temporary = f"{self.blobs}/{file.sha256}.link.{os.getpid()}"
        with self.told("written"):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            try:
                os.link(blob, temporary)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
                    raise
                from shutil import copyfile

                copyfile(blob, temporary)  # a file system without hard links
            os.rename(temporary, path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # rename(2) leaves it where both are links to one file
        self.stamp(file.sha256)  # the new link moved its ctime

    def write(self, path: str, data: bytes) -> None:
        """A small document, whole or not at all."""
        # Not beside it: another process may be listing that folder, and would find a file that goes away.
        temporary = f"{self.root}/{os.path.basename(path)}.{os.getpid()}.{threading.get_ident()}"
        with self.told("written"):
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)

    def locked(self, path: str, how: int) -> int | None:
        """A descriptor that holds a lock; None where another holds it and ``how`` says not to wait."""
        for _ in range(1000):
            descriptor = self._opened(path)
            try:
                fcntl.flock(descriptor, how)
                # Whoever evicts removes the lock too: what was locked must be what lies there.
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    return descriptor
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                os.close(descriptor)
        raise StoreError(f"{path} cannot be locked", code="cache")

    def _opened(self, path: str) -> int:
        with self.told("written"):
            try:
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno in (errno.EROFS, errno.EACCES) and os.path.exists(path):
                    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                raise

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """The system's errors in words."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                usage = os.statvfs(self.root)
                free = usage.f_bavail * usage.f_frsize
                raise StoreError(
                    f"no space left in {self.root}: {free} bytes are free; make room, or set PREHEAT_CACHE "
                    "to a larger disk",
                    code="no_space",
                ) from error
            raise StoreError(
                f"the cache {self.root} cannot be {what}: {error.strerror}; set PREHEAT_CACHE to a folder "
                "that can",
                code="cache",
            ) from error


def _stands(stamp: str, path: str) -> bool:
    try:
        with open(stamp, "rb") as file:
            return bool(json.loads(file.read(4096)) == [_boot(), *identity(path)])
    except (OSError, ValueError):
        return False


def _boot() -> str:
    try:
        with open(BOOT) as file:
            return file.read().strip()
    except OSError:
        return ""
