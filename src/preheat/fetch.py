"""Blobs from a store into the cache: parallel ranges, each written straight to its place, hashed in order.

Workers write parts into a preallocated file; the calling thread follows them with the hash, from the page
cache. What arrived is noted part by part, so that a process that is cut off leaves the rest to the next one.
A server without ranges sends each blob in one stream.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .cache import Cache
from .errors import IntegrityError, PreheatError, StoreError
from .manifest import File
from .stores.layout import blob_key
from .stores.object import Bucket, MissingError, NotPartialError

PART = 8 * 1024 * 1024
WORKERS = 6
BUFFER = 1024 * 1024
STREAM = -1
"""In place of a part's number: all of the blob in one stream."""
_PERMANENT = frozenset(
    ("denied", "no_credentials", "not_found", "no_bucket", "no_space", "cache", "unsupported", "region")
)
"""Codes of errors that another try cannot change."""


class Fetched(NamedTuple):
    bytes: int
    """What came over the wire and was kept."""
    fetch_ms: float
    """From the first request to the last byte."""
    verify_ms: float
    """What hashing took; most of it lies within ``fetch_ms``, beside the transfer."""


class _Incoming:
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


class Fetch:
    """One transfer of several blobs. The caller holds their locks."""

    def __init__(
        self, bucket: Bucket, cache: Cache, progress: Callable[[int], None] = lambda _bytes: None
    ) -> None:
        self._bucket = bucket
        self._cache = cache
        self._progress = progress
        self._changed = threading.Condition()
        self._failure: PreheatError | None = None
        self._jobs: list[tuple[_Incoming, int]] = []

    def run(self, files: Sequence[File]) -> Fetched:
        """Bring these files' blobs into the cache, verified.

        Raises StoreError or IntegrityError that names the file and the cause; then nothing of what is not
        whole has a blob's name.
        """
        began = time.perf_counter()
        blobs: list[_Incoming] = []
        threads: list[threading.Thread] = []
        busy = 0.0
        try:
            for file in sorted(files, key=lambda file: -file.size):  # the longest first: it decides
                blobs.append(_Incoming(self._cache, file))
            self._jobs = [(blob, part) for blob in reversed(blobs) for part in reversed(blob.missing())]
            for _ in range(min(WORKERS, len(self._jobs))):
                threads.append(threading.Thread(target=self._work, daemon=True))
                threads[-1].start()
            for blob in blobs:
                busy += self._verify(blob)
            return Fetched(
                sum(blob.file.size - blob.resumed for blob in blobs),
                (time.perf_counter() - began) * 1e3,
                busy * 1e3,
            )
        finally:
            with self._changed:
                self._jobs.clear()
                if self._failure is None:
                    self._failure = StoreError("the transfer was given up")
            for thread in threads:
                thread.join()
            for blob in blobs:
                blob.close()

    def _verify(self, blob: _Incoming) -> float:
        """Follow a blob's bytes with the hash, and give it its name; gives the seconds spent hashing."""
        busy = 0.0
        for again in (True, False):
            digest, spent = self._hash(blob)
            busy += spent
            if digest == blob.file.sha256:
                with self._alone(blob), self._cache.told("written"):
                    blob.keep()
                self._cache.stamp(digest)
                return busy
            if again:  # a fault on the way, perhaps, or a part that a crash left: once more, all of it
                with self._changed:
                    blob.restart()
                    self._jobs += [(blob, STREAM)] if blob.streamed else [(blob, p) for p in blob.missing()]
                self._work()
        with self._alone(blob):
            blob.discard()
        raise IntegrityError(
            f"{self._where(blob)} is not {blob.file.path}: its sha256 is {digest[:12]}…, the manifest says "
            f"{blob.file.sha256[:12]}…"
        )

    @contextlib.contextmanager
    def _alone(self, blob: _Incoming) -> Iterator[None]:
        """Wait for the blob's writers, which stop at their next chunk, and keep others from starting."""
        with self._changed:
            while blob.writers:
                self._changed.wait(0.1)
            yield

    def _hash(self, blob: _Incoming) -> tuple[str, float]:
        digest, done, busy = hashlib.sha256(), 0, 0.0
        buffer = memoryview(bytearray(BUFFER))
        while True:
            with self._changed:
                while (reached := blob.reached) <= done < blob.file.size:
                    if self._failure is not None:
                        raise self._failure
                    self._changed.wait(1.0)
            began = time.perf_counter()
            while done < reached:
                size = os.preadv(blob.descriptor, [buffer[: reached - done]], done)
                if size == 0:
                    raise IntegrityError(f"{blob.path}.part was cut while it was read")
                digest.update(buffer[:size])
                done += size
            busy += time.perf_counter() - began
            if done == blob.file.size:
                return digest.hexdigest(), busy

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._failure is not None or not self._jobs:
                    return
                blob, part = self._jobs.pop()
            try:
                with self._cache.told("written"):
                    self._part(blob, part)
            except PreheatError as error:
                self._fail(error)
            except Exception as error:  # whoever waits for this blob must not wait for ever
                self._fail(StoreError(f"{self._where(blob)}: {type(error).__name__}: {error}"))

    def _fail(self, error: PreheatError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()

    def _part(self, blob: _Incoming, part: int) -> None:
        """Bring one part, tried again from where it was cut."""
        attempt = 0
        while self._failure is None:
            try:
                self._receive(blob, part)
                return
            except NotPartialError:
                self._bucket.partial = False
                with self._changed:
                    if blob.streamed:
                        return  # another worker brings all of it
                    blob.streamed, part = True, STREAM
            except StoreError as error:
                attempt += 1
                if error.code in _PERMANENT or not self._bucket.deadline.pause(attempt):
                    raise self._told(blob, error, attempt) from error

    def _receive(self, blob: _Incoming, part: int) -> None:
        streamed = part == STREAM
        with self._changed:
            if blob.streamed != streamed or blob.descriptor < 0:
                return  # overtaken: another worker brings all of it, or has brought it
            if streamed:
                blob.restart()  # a stream that was cut begins anew: the server cannot go on from there
            at = blob.progress()
            blob.writers += 1
        try:
            self._write(blob, 0 if streamed else part, at, streamed)
        finally:
            with self._changed:
                blob.writers -= 1
                self._changed.notify_all()

    def _write(self, blob: _Incoming, part: int, at: list[int], streamed: bool) -> None:
        if not streamed and blob.count > 1 and not self._bucket.partial:
            raise NotPartialError("ranges do not work here")
        whole = streamed or (blob.count == 1 and at[0] == 0)
        start, length = part * PART, blob.file.size if streamed else blob.length(part)
        key = blob_key(blob.file.sha256)
        for chunk in self._bucket.stream(key, start + at[part], start + length, whole=whole):
            if self._failure is not None or at is not blob.progress():
                return
            blob.write(at, part, chunk)
            with self._changed:
                self._changed.notify_all()
            self._progress(len(chunk))
        if at[part] < length:
            raise StoreError(f"{self._where(blob)} was cut off after {start + at[part]} bytes")
        if not streamed:
            blob.note(part)

    def _where(self, blob: _Incoming) -> str:
        return self._bucket.where(blob_key(blob.file.sha256))

    def _told(self, blob: _Incoming, error: StoreError, attempts: int) -> StoreError:
        if isinstance(error, MissingError) and error.code == "not_found":
            return MissingError(f"the store has lost {blob.file.path}: {error}")
        tried = f" ({attempts} tries)" if attempts > 1 else ""
        return StoreError(f"{blob.file.path} could not be fetched: {error}{tried}", code=error.code)
