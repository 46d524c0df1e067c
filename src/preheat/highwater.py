"""The high-water mark: the highest epoch of an alias that this deployment has seen."""

from __future__ import annotations

import os

from .errors import ConflictError, StoreError, TrustError


class HighWater:
    """The highest epoch seen of each alias. ``place``: a folder, on a volume that outlives the instance, or a
    store's URL where this deployment may write."""

    def __init__(self, place: str, timeout_s: float) -> None:
        self._place = place
        self._timeout_s = timeout_s

    def reach(self, name: str, alias: str, epoch: int, floor: int) -> None:
        """Return where an epoch is none that has passed, and remember it. Raises TrustError, StoreError."""
        what = f"{name}@{alias}"
        if epoch < floor:
            raise TrustError(f"{what} is of epoch {epoch}; PREHEAT_EPOCH asks for {floor} at least")
        seen = self._remote(name, alias, epoch) if "://" in self._place else self._local(name, alias, epoch)
        if epoch < seen:
            raise TrustError(
                f"{what} is of epoch {epoch}, and {seen} was seen before: the store shows an old state"
            )

    def _local(self, name: str, alias: str, epoch: int) -> int:
        import fcntl

        path = f"{self._place}/{name}@{alias}"
        try:
            os.makedirs(self._place, mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                seen = _number(os.pread(descriptor, 64, 0), path)
                if epoch > seen:
                    # The same length or more: a crash cannot leave a smaller number.
                    os.pwrite(descriptor, b"%020d\n" % epoch, 0)
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(
                f"the high-water mark {path} cannot be kept: {error.strerror}; set PREHEAT_HIGH_WATER",
                code="high_water",
            ) from error
        return seen

    def _remote(self, name: str, alias: str, epoch: int) -> int:
        from .stores.object import Bucket, Deadline
        from .stores.wording import MissingError

        bucket = Bucket(self._place.rstrip("/"), Deadline(self._timeout_s), make=True)
        key = f"high-water/{name}@{alias}"
        while True:
            try:
                found = bucket.read(key, 64)
            except MissingError as error:
                if error.code == "no_bucket":
                    raise
                if bucket.create(key, b"%020d\n" % epoch):
                    return 0
                continue
            seen = _number(found.data, bucket.where(key))
            if epoch <= seen:
                return seen
            try:
                bucket.replace(key, b"%020d\n" % epoch, found.tag)
                return seen
            except ConflictError:
                if not bucket.deadline.left:
                    raise


def _number(data: bytes, where: str) -> int:
    if not data:
        return 0
    if not data.strip().isdigit():
        raise TrustError(f"{where} is not a high-water mark; what was seen before is not known")
    return int(data)
