"""A blob on its way into the cache: a preallocated file, what of it has arrived, notes for a successor."""

from __future__ import annotations

import contextlib
import os

from .cache import Cache
from .errors import StoreError
from .manifest import File

PART = 8 * 1024 * 1024
"""Bytes that one request asks for, and that are noted as a whole."""


class Incoming:
    """One blob on its way."""

    def __init__(self, cache: Cache, file: File) -> None:
        self.file = file
        self.path = cache.blob(file.sha256)
        self.count = max(-(-file.size // PART), 1)
        self.resumed = 0
        self.streamed = False
        """Whether one stream brings all of it."""
        self.writers = 0
        """Threads that are writing; the blob gets no name before they are done."""
        self._at = [0] * self.count
        """Bytes of each part that lie in the file. A restart puts a new list here: whoever still fills the
        old one has been overtaken."""
        with cache.told("written"):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self.descriptor = os.open(f"{self.path}.part", flags, 0o600)
            self._notes = os.open(f"{self.path}.parts", flags | os.O_APPEND, 0o600)
            if os.fstat(self.descriptor).st_size == file.size:
                self._resume()
            elif file.size:
                os.ftruncate(self._notes, 0)
                os.ftruncate(self.descriptor, 0)
                os.posix_fallocate(self.descriptor, 0, file.size)

    def _resume(self) -> None:
        for line in os.pread(self._notes, 2**20, 0).split():
            if line.isdigit() and int(line) < self.count:
                part = int(line)
                self._at[part] = self.length(part)
        self.resumed = sum(self._at)

    def length(self, part: int) -> int:
        return min(PART, self.file.size - part * PART)

    def missing(self) -> list[int]:
        return [part for part in range(self.count) if self._at[part] < self.length(part)]

    def progress(self) -> list[int]:
        return self._at

    def write(self, at: list[int], part: int, data: memoryview) -> None:
        """The next bytes of a part. Raises StoreError for more than were asked for."""
        room = self.file.size if self.streamed else self.length(part)
        if at[part] + len(data) > room:
            raise StoreError(f"more came than the {self.file.size} bytes of {self.file.path}")
        offset = part * PART + at[part]
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            offset, data = offset + written, data[written:]
        at[part] = offset - part * PART

    def note(self, part: int) -> None:
        """Keep in mind, across processes, that a part is whole."""
        os.write(self._notes, b"%d\n" % part)

    def restart(self) -> None:
        """Forget what arrived."""
        os.ftruncate(self._notes, 0)
        self._at = [0] * self.count
        self.resumed = 0

    @property
    def reached(self) -> int:
        """Bytes from the start that lie in the file without a gap."""
        if self.streamed:
            return self._at[0]
        total = 0
        for part in range(self.count):
            total += self._at[part]
            if self._at[part] < self.length(part):
                break
        return total

    def keep(self) -> None:
        """Give the whole, verified blob its name."""
        os.fchmod(self.descriptor, 0o444)
        os.rename(f"{self.path}.part", self.path)
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(f"{self.path}.parts")

    def discard(self) -> None:
        self.close()
        for suffix in (".part", ".parts"):
            with contextlib.suppress(OSError):
                os.unlink(self.path + suffix)

    def close(self) -> None:
        for descriptor in (self.descriptor, self._notes):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptor = self._notes = -1
