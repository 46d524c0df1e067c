"""An object store over obstore: ``s3://``, ``gs://``, ``az://`` and ``file://``.

obstore reads the platforms' own environment variables (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``). A request is
tried again with jitter until a deadline; what another try cannot change (a missing key, a refusal) is raised
at once, in words.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import ConflictError, IntegrityError, StoreError
from .client import connect
from .wording import MissingError, NotPartialError, said

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

ATTEMPTS = 8
CHUNK = 1024 * 1024
"""Bytes that a stream yields at a time, at least."""
UPLOAD_PART = 8 * 1024 * 1024


class Document(NamedTuple):
    data: bytes
    tag: str
    """What the store calls this content; a replacement is conditional on it."""


class Head(NamedTuple):
    size: int
    tag: str
    """Where it is an MD5 in hexadecimal, it says what the store has; it may be anything."""


class Listed(NamedTuple):
    key: str
    size: int
    modified: float
    """Seconds since the epoch."""


class Deadline:
    """A moment, and the pauses between tries before it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(self._at - time.monotonic(), 0.0)

    def pause(self, attempt: int) -> bool:
        """Sleep before try ``attempt`` (1 is the second); False where there is no time or try left."""
        delay = min(0.05 * 2**attempt, 2.0) * random.uniform(0.5, 1.5)  # noqa: S311 - spreads clients, no secret
        if attempt >= ATTEMPTS or self.left <= delay:
            return False
        time.sleep(delay)
        return True


class Bucket:
    """A store's root. The client is made when it is first used. Safe to call from several threads.

    Every method raises StoreError that names the object and the cause.
    """

    def __init__(self, root: str, deadline: Deadline, *, make: bool = False) -> None:
        try:
            import obstore  # noqa: F401 - the first thing that needs it
        except ImportError as missing:
            raise StoreError(
                "object storage needs obstore: pip install 'preheat[store]'", code="unsupported"
            ) from missing
        self.root = root
        self.deadline = deadline
        self.ranges = True
        """Whether a part of an object can be had; found out by the first that cannot."""
        self._partial = True
        """Whether obstore can: it wants 206 for an answer."""
        self._make = make
        self._clients: dict[bool, ObjectStore] = {}

    def read(self, key: str, limit: int, *, probe: bool = False) -> Document:
        """A small document, whole. Raises MissingError; IntegrityError for more than ``limit`` bytes.

        ``probe``: ask for it as a range, and so find out early whether ranges work here.
        """
        import obstore

        def get() -> Document:
            ranged: Any = {"range": (0, limit + 1)} if probe and self._partial else None
            found = obstore.get(self._client(), key, options=ranged)
            if found.meta["size"] > limit:
                raise IntegrityError(f"{self.where(key)} is larger than {limit} bytes")
            data = bytes(found.bytes())
            if len(data) != found.meta["size"]:
                raise StoreError(f"{self.where(key)}: {len(data)} bytes came of {found.meta['size']}")
            return Document(data, found.meta["e_tag"] or "")

        try:
            return self._try(key, get)
        except NotPartialError:
            self._partial = False
            return self._try(key, get)

    def head(self, key: str) -> Head | None:
        """What the store says of an object; None where there is none."""
        import obstore

        try:
            found = self._try(key, lambda: obstore.head(self._client(), key))
            return Head(found["size"], (found["e_tag"] or "").strip('"'))
        except MissingError as error:
            if error.code == "no_bucket":
                raise
            return None

    def stream(self, key: str, start: int, end: int, *, whole: bool = False) -> Iterator[memoryview]:
        """The bytes from ``start`` up to ``end``, once, as they arrive. ``whole``: without asking for a
        range, because all of it is wanted. Nothing is tried again here: what arrived would come twice.

        Raises NotPartialError where the server does not do ranges.
        """
        import obstore

        options: Any = None if whole else {"range": (start, end)}
        if whole or self._partial:
            try:
                with said(self.root, key):
                    for chunk in obstore.get(self._client(whole), key, options=options).stream(CHUNK):
                        yield memoryview(chunk)
                return
            except NotPartialError:  # raised before the first chunk, or never
                self._partial = False
        try:
            yield from self._ranged(key, start, end)
        except NotPartialError:
            self.ranges = False
            raise

    def _ranged(self, key: str, start: int, end: int) -> Iterator[memoryview]:
        """The same without obstore, where that can be."""
        from datetime import timedelta

        import obstore

        from .ranges import possible, ranged

        if not self.ranges or not self.root.startswith("s3://"):
            raise NotPartialError(f"{self.where(key)}: ranges do not work here")
        client: Any = self._client()
        with said(self.root, key):
            url = obstore.sign(client, "GET", key, timedelta(seconds=self.deadline.seconds + 60))
        if not possible(url):
            raise NotPartialError(f"{self.where(key)}: the server does not answer ranges with 206")
        yield from ranged(url, start, end, self._patience, self.where(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object that must not exist yet; False where it does."""
        try:
            self._put(key, data, "create")
        except ConflictError:
            return False
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whatever lay there."""
        self._put(key, data, "overwrite")

    def replace(self, key: str, data: bytes, tag: str) -> None:
        """Write over the very content that ``tag`` stands for. Raises ConflictError where it has changed."""
        if self.root.startswith("file://"):
            self._replace_file(key, data, tag)
        else:
            self._put(key, data, {"e_tag": tag})

    def upload(self, key: str, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Write an object from pieces, whole or not at all; ``chunks`` is called anew for every try."""
        import obstore

        def put() -> None:
            obstore.put(
                self._client(whole=True),
                key,
                iter(chunks()),
                chunk_size=UPLOAD_PART,
                max_concurrency=4,
            )

        self._try(key, put)

    def entries(self, prefix: str) -> Iterator[Listed]:
        """Every object under a prefix."""
        import obstore

        with said(self.root, prefix):
            for page in obstore.list(self._client(), prefix):
                for found in page:
                    yield Listed(found["path"], found["size"], found["last_modified"].timestamp())

    def folders(self, prefix: str) -> list[str]:
        """The names one level under a prefix."""
        import obstore

        found = self._try(prefix, lambda: obstore.list_with_delimiter(self._client(), prefix))
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

    def delete(self, key: str) -> None:
        import obstore

        with contextlib.suppress(MissingError):
            self._try(key, lambda: obstore.delete(self._client(), key))

    def where(self, key: str) -> str:
        return f"{self.root}/{key}"

    def conditional(self, key: str) -> bool:
        """Whether the store honours conditions on writes, tried out on an object of ours.

        Some S3-compatible servers ignore them (rclone's); an alias is not safe from a second publisher there.
        """
        self.create(key, b"1")
        return not self.create(key, b"1")

    def _put(self, key: str, data: bytes, mode: Any) -> None:
        import obstore

        def put() -> None:
            obstore.put(self._client(), key, data, mode=mode, use_multipart=False)

        self._try(key, put)

    def _replace_file(self, key: str, data: bytes, tag: str) -> None:
        """obstore's local store has no conditional write: compare and write under a lock."""
        import fcntl

        lock = os.open(f"{self.root.removeprefix('file://')}/.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.read(key, 2**20).tag != tag:
                raise ConflictError(f"{self.where(key)} changed meanwhile")
            self.write(key, data)
        finally:
            os.close(lock)

    def _client(self, whole: bool = False) -> ObjectStore:
        """obstore's client, made once. A request's timeout covers its body too: ``whole`` is for one that may
        take all the time there is, the other gives up early enough to try again."""
        if whole not in self._clients:
            seconds = self.deadline.seconds if whole else self._patience
            with said(self.root, ""):
                self._clients[whole] = connect(self.root, seconds, make=self._make)
        return self._clients[whole]

    @property
    def _patience(self) -> float:
        """Seconds that one request for a part of something may take."""
        return max(min(30.0, self.deadline.seconds / 4), 0.1)

    def _try(self, key: str, call: Callable[[], T]) -> T:
        attempt = 0
        while True:
            try:
                with said(self.root, key):
                    return call()
            except StoreError as error:
                attempt += 1
                if error.code != "store" or not self.deadline.pause(attempt):
                    raise
