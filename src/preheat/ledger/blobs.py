"""Outcomes and requests that are too large for a record, in a folder or an object store under their digest.

The record then holds a reference. The blob is written before the record names it; its digest is checked when
it is read. Blobs lie in folders named by the day after which no record names them any more::

    2026-05-02/5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ..errors import LedgerError, PreheatError, SettingsError
from . import Claim, Claimed, Ledger, Pending, Record, Replay

if TYPE_CHECKING:
    from ..stores.object import Bucket

_MARK = b"\x00preheat-blob\x00"
"""What a reference begins with. A caller's own bytes that begin so are stored behind ``_MARK`` and "=": the
two cannot be confused."""
_REFERENCE = re.compile(rb"(\d{4}-\d\d-\d\d)/([0-9a-f]{64}) (\d+)")
_DAY_S = 86400
_DEADLINE_S = 10.0
LIMIT = 256 * 1024**2


class Place(Protocol):
    """Where blobs lie. Raises PreheatError or OSError."""

    name: str

    def write(self, key: str, data: bytes) -> None: ...
    def read(self, key: str, size: int) -> bytes: ...


class WithBlobs:
    """A ledger over another, which takes what the other does not: see Ledger. Without a place it still tells
    references from other bytes, so workers with and without one may share a store."""

    def __init__(self, ledger: Ledger, place: Place | None = None) -> None:
        self.ledger = ledger
        self.place = place
        self.name = ledger.name
        self.durability = ledger.durability
        self.limit = ledger.limit if place is None else max(LIMIT, ledger.limit)

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        packed = self._pack("request", request, keep)
        claim = self.ledger.claim(key, fingerprint, fence, lease=lease, keep=keep, request=packed)
        if isinstance(claim, Claimed):
            mine = claim.request == packed
            return claim._replace(request=request if mine else self._unpack(claim.request))
        return Replay(self._unpack(claim.outcome)) if isinstance(claim, Replay) else claim

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        return self.ledger.heartbeat(key, fence, lease=lease)

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._end(self.ledger.commit, key, fence, outcome, keep)

    def release(self, key: str, fence: str) -> bool:
        return self.ledger.release(key, fence)

    def read(self, key: str) -> Record | None:
        record = self.ledger.read(key)
        if record is None:
            return None
        outcome = None if record.outcome is None else self._unpack(record.outcome)
        return record._replace(outcome=outcome, request=self._unpack(record.request))

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._end(self.ledger.cancel, key, fence, outcome, keep)

    def remove(self, key: str) -> bool:
        return self.ledger.remove(key)

    def pending(self, limit: int) -> list[Pending]:
        return self.ledger.pending(limit)

    def init(self) -> None:
        self.ledger.init()
        self._try_out()

    def check(self) -> None:
        self.ledger.check()
        self._try_out()

    def close(self) -> None:
        self.ledger.close()

    def _end(
        self, end: Callable[..., bytes | None], key: str, fence: str, outcome: bytes, keep: float
    ) -> bytes | None:
        packed = self._pack("outcome", outcome, keep)
        stands = end(key, fence, packed, keep=keep)
        if stands is None:
            return None
        return outcome if stands == packed else self._unpack(stands)

    def _pack(self, what: str, data: bytes, keep: float) -> bytes:
        """What the record holds. A blob is written before this returns."""
        if len(data) <= self.ledger.limit - len(_MARK) - 1:
            return data if not data.startswith(_MARK) else _MARK + b"=" + data
        if self.place is None:
            raise LedgerError(
                f"the {what} has {len(data)} bytes, and the ledger's records take {self.ledger.limit}: "
                "name a folder or a store for large ones in PREHEAT_LEDGER_BLOBS",
                code="ledger_too_large",
            )
        if len(data) > self.limit:
            raise LedgerError(
                f"the {what} has {len(data)} bytes, more than {self.limit}", code="ledger_too_large"
            )
        # A day for clocks, and for an owner that commits late.
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + keep + _DAY_S))
        key = f"{day}/{hashlib.sha256(data).hexdigest()}"
        with _told(self.place, key):
            self.place.write(key, data)
        return _MARK + f"{key} {len(data)}".encode()

    def _unpack(self, stored: bytes) -> bytes:
        """The bytes that a record stands for. Raises LedgerError where they are gone or not the same."""
        if not stored.startswith(_MARK):
            return stored
        rest = stored[len(_MARK) :]
        if rest.startswith(b"="):
            return rest[1:]
        found = _REFERENCE.fullmatch(rest)
        if found is None:
            raise LedgerError("a record of the ledger holds a reference that this version cannot read")
        key, digest, size = f"{found[1].decode()}/{found[2].decode()}", found[2].decode(), int(found[3])
        if self.place is None:
            raise LedgerError(
                f"a record names the blob {key}: set PREHEAT_LEDGER_BLOBS as the worker that wrote it has it"
            )
        with _told(self.place, key):
            data = self.place.read(key, size)
        if hashlib.sha256(data).hexdigest() != digest:
            raise LedgerError(f"the blob {key} in {self.place.name} does not have its digest: it was changed")
        return data

    def _try_out(self) -> None:
        """Write a blob and read it back."""
        if self.place is not None:
            data = b"preheat ledger check"
            day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + _DAY_S))
            key = f"{day}/{hashlib.sha256(data).hexdigest()}"
            with _told(self.place, key):
                self.place.write(key, data)
                if self.place.read(key, len(data)) != data:
                    raise LedgerError(f"{self.place.name} gives other bytes than were written")


class Folder:
    """Blobs in a folder that every worker sees. Those of days gone by are removed now and then."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._writes = 0

    def write(self, key: str, data: bytes) -> None:
        path = os.path.join(self.name, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.{os.urandom(8).hex()}"
        try:
            with open(partial, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # the record that names it may be synced as well
            os.replace(partial, path)
        except BaseException:
            if os.path.exists(partial):
                os.unlink(partial)
            raise
        self._writes += 1
        if self._writes % 64 == 1:
            self._purge()

    def read(self, key: str, size: int) -> bytes:
        with open(os.path.join(self.name, key), "rb") as file:
            return file.read(size + 1)

    def _purge(self) -> None:
        import shutil  # rarely needed

        today = time.strftime("%Y-%m-%d", time.gmtime())
        for name in os.listdir(self.name):
            if re.fullmatch(r"\d{4}-\d\d-\d\d", name) and name < today:
                shutil.rmtree(os.path.join(self.name, name), ignore_errors=True)


class Objects:
    """Blobs in an object store; a lifecycle rule of the bucket's own removes them."""

    def __init__(self, url: str) -> None:
        self.name = url
        self._shared: tuple[int, Bucket] | None = None

    def write(self, key: str, data: bytes) -> None:
        self._bucket().write(key, data)

    def read(self, key: str, size: int) -> bytes:
        return self._bucket().read(key, size).data

    def _bucket(self) -> Bucket:
        """One client, and a deadline for each call."""
        from ..stores.object import Bucket, Deadline

        if self._shared is None or self._shared[0] != os.getpid():
            self._shared = os.getpid(), Bucket(self.name, Deadline(_DEADLINE_S))
        bucket = copy.copy(self._shared[1])
        bucket.deadline = Deadline(_DEADLINE_S)
        return bucket


@contextmanager
def _told(place: Place, key: str) -> Iterator[None]:
    """Failures of a place as LedgerError that names it."""
    blob = f"{place.name}/{key}"
    try:
        yield
    except LedgerError:
        raise
    except FileNotFoundError as error:
        raise LedgerError(f"the blob {blob} is not there: it was removed, or lies elsewhere") from error
    except OSError as error:
        raise LedgerError(f"the blob {blob} cannot be kept or read: {error.strerror}") from error
    except PreheatError as error:
        raise LedgerError(f"the blob {blob}: {error}", code=error.code) from error


def open_place(place: str) -> Place | None:
    """What PREHEAT_LEDGER_BLOBS names; None for nothing. Raises SettingsError."""
    scheme, separator, rest = place.partition("://")
    if not separator:
        return Folder(os.path.abspath(place)) if place else None
    if scheme == "file" and rest.startswith("/"):
        return Folder(rest)
    if scheme in ("s3", "gs", "az") and rest.strip("/"):
        return Objects(place.rstrip("/"))
    raise SettingsError(
        f"PREHEAT_LEDGER_BLOBS must be a folder, file:///folder, s3://, gs:// or az://, not {place!r}"
    )
