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
from .incoming import PART, Incoming
from .manifest import File
from .stores.layout import blob_key
from .stores.object import Bucket
from .stores.wording import MissingError, NotPartialError

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
        self._jobs: list[tuple[Incoming, int]] = []

    def run(self, files: Sequence[File]) -> Fetched:
        """Bring these files' blobs into the cache, verified.

        Raises StoreError or IntegrityError that names the file and the cause; then nothing of what is not
        whole has a blob's name.
        """
        began = time.perf_counter()
        blobs: list[Incoming] = []
        threads: list[threading.Thread] = []
        busy = 0.0
        try:
            for file in sorted(files, key=lambda file: -file.size):  # the longest first: it decides
                blobs.append(Incoming(self._cache, file))
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

    def _verify(self, blob: Incoming) -> float:
        """Follow a blob's bytes with the hash; gives the seconds spent hashing. Raises IntegrityError."""
        busy = 0.0
        for again in (True, False):
            digest, spent = self._hash(blob)
            busy += spent
            if digest == blob.file.sha256:
                return busy
            if again:  # a fault on the way, perhaps, or a part that a crash left: once more, all of it
                with self._alone(blob):
                    blob.restart()
                    self._jobs += [(blob, STREAM)] if blob.streamed else [(blob, p) for p in blob.missing()]
                self._work()
        with self._alone(blob):
            blob.discard()
        raise IntegrityError(
            f"{self._where(blob)} is not {blob.file.path}: its sha256 is {digest[:12]}…, the manifest says "
            f"{blob.file.sha256[:12]}…; `preheat publish --verify` mends the store"
        )

    @contextlib.contextmanager
    def _alone(self, blob: Incoming) -> Iterator[None]:
        """Wait for the blob's writers, which stop at their next chunk, and keep others from starting."""
        with self._changed:
            while blob.writers:
                self._changed.wait(0.1)
            yield

    def _hash(self, blob: Incoming) -> tuple[str, float]:
        """The sha256 of what lies in the file, and the seconds it took. Where it is the right one, the blob
        has its name when this returns.

        A restart writes over bytes that were hashed already, so it begins the hash anew: what was hashed must
        be what lies there.
        """
        busy = 0.0
        while True:
            at = blob.progress()
            found, spent = self._hash_once(blob, at)
            busy += spent
            if found is None:
                continue
            with self._alone(blob):
                if blob.progress() is not at:
                    continue
                if found == blob.file.sha256:
                    with self._cache.told("written"):
                        blob.keep()
                    self._cache.stamp(found)
                return found, busy

    def _hash_once(self, blob: Incoming, at: list[int]) -> tuple[str | None, float]:
        """The same of one attempt, whose progress is ``at``; None where another has begun."""
        digest, done, busy = hashlib.sha256(), 0, 0.0
        buffer = memoryview(bytearray(BUFFER))
        while True:
            with self._changed:
                while (reached := blob.reached) <= done < blob.file.size and blob.progress() is at:
                    if self._failure is not None:
                        raise self._failure
                    self._changed.wait(1.0)
                if blob.progress() is not at:
                    return None, busy
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

    def _part(self, blob: Incoming, part: int) -> None:
        """Bring one part, tried again from where it was cut."""
        attempt = 0
        while self._failure is None:
            try:
                self._receive(blob, part)
                return
            except NotPartialError:
                with self._changed:
                    if blob.streamed:
                        return  # another worker brings all of it
                    blob.streamed, part = True, STREAM
            except StoreError as error:
                attempt += 1
                if error.code in _PERMANENT or not self._bucket.deadline.pause(attempt):
                    raise self._told(blob, error, attempt) from error

    def _receive(self, blob: Incoming, part: int) -> None:
        streamed = part == STREAM
        with self._changed:
            if blob.streamed != streamed or blob.descriptor < 0:
                return  # overtaken: another worker brings all of it, or has brought it
            if streamed:
                blob.restart()  # a stream that was cut begins anew: the server cannot go on from there
                while blob.writers:  # an overtaken one must not write over what this one brings
                    self._changed.wait(0.1)
            at = blob.progress()
            blob.writers += 1
        try:
            self._write(blob, 0 if streamed else part, at, streamed)
        finally:
            with self._changed:
                blob.writers -= 1
                self._changed.notify_all()

    def _write(self, blob: Incoming, part: int, at: list[int], streamed: bool) -> None:
        if not streamed and blob.count > 1 and not self._bucket.ranges:
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

    def _where(self, blob: Incoming) -> str:
        return self._bucket.where(blob_key(blob.file.sha256))

    def _told(self, blob: Incoming, error: StoreError, attempts: int) -> StoreError:
        if isinstance(error, MissingError) and error.code == "not_found":
            return MissingError(f"the store has lost {blob.file.path}: {error}")
        tried = f" ({attempts} tries)" if attempts > 1 else ""
        return StoreError(f"{blob.file.path} could not be fetched: {error}{tried}", code=error.code)
