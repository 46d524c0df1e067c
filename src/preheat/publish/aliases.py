"""What an alias names: set, promoted, rolled back; each change conditional on what was read before it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import ConflictError, StoreError, UsageError
from ..manifest import digest_of
from ..stores.layout import (
    HISTORY,
    Alias,
    alias_key,
    dump_alias,
    read_alias,
    read_signature,
    read_version,
    resolve,
    signed_key,
    version_key,
)
from ..stores.object import Bucket, Deadline
from ..stores.reference import is_alias, parse
from ..stores.wording import MissingError
from ..trust import Trust, statement
from .pending import keeping
from .signing import Signer


class Expected(NamedTuple):
    """An alias as it was before a change."""

    alias: Alias | None
    """None where it did not exist."""
    tag: str


class Change(NamedTuple):
    alias: str
    version: str
    epoch: int
    before: str | None
    """The version that it named before; None where it is new."""
    changed: bool
    """False where it named this version already."""
    safe: bool
    """False where the store ignores conditions: a change at the same moment could have been lost."""
    signed: bool
    unsigned: bool
    """Whether it was signed before and is no longer."""

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def expected(bucket: Bucket, name: str, alias: str) -> Expected:
    """An alias as it stands. Raises UsageError for what cannot be an alias."""
    if not is_alias(alias):
        raise UsageError(
            f"{alias!r} cannot be an alias: letters, digits, '.', '_' or '-', and not only hexadecimal digits"
        )
    try:
        value, document = read_alias(bucket, name, alias)
    except MissingError as error:
        if error.code == "no_bucket":
            raise
        return Expected(None, "")
    return Expected(value, document.tag)


def set_alias(
    bucket: Bucket,
    name: str,
    alias: str,
    version: str,
    digest: str,
    before: Expected,
    *,
    history: tuple[str, ...] | None = None,
    sign: Signer | None = None,
    carried: Alias | None = None,
) -> Change:
    """Let an alias name a version. Raises ConflictError where it is no longer as it was ``before``.

    ``digest``: its manifest's; ``carried``: its epoch and signature come from elsewhere, and are kept.
    """
    old = before.alias
    if carried is not None and old is not None and old.epoch == carried.epoch:
        if old.version != version:
            raise ConflictError(f"{name}@{alias} names another version in the same epoch, {old.epoch}")
        return Change(alias, version, old.epoch, old.version, False, True, old.envelope is not None, False)
    if (
        carried is None
        and old is not None
        and old.version == version
        and (sign is None or sign.signed(old.envelope))
    ):
        return Change(alias, version, old.epoch, old.version, False, True, old.envelope is not None, False)
    if history is None:
        history = () if old is None else old.history
        if old is not None and old.version != version:
            history = (*history, old.version)[-HISTORY:]
    epoch = carried.epoch if carried else 1 if old is None else old.epoch + 1
    envelope = carried.envelope if carried else None
    if sign is not None:
        envelope = sign.sign(statement(name, version, alias, epoch, digest))
    data = dump_alias(name, alias, Alias(version, epoch, history, envelope))
    key = alias_key(name, alias)
    safe = bucket.conditional(f"artifacts/{name}/conditional-writes")
    try:
        if old is None:
            if not bucket.create(key, data):
                raise ConflictError(f"{bucket.where(key)} was made meanwhile")
        else:
            bucket.replace(key, data, before.tag)
    except ConflictError as error:
        now, document = read_alias(bucket, name, alias)
        if document.data != data:  # else it was ours: the answer to the first try was lost
            raise ConflictError(
                f"{name}@{alias} was changed by another publisher: it names {now.version[:12]} (epoch "
                f"{now.epoch}) now; look, and run this again"
            ) from error
    unsigned = envelope is None and old is not None and old.envelope is not None
    return Change(
        alias, version, epoch, old.version if old else None, True, safe, envelope is not None, unsigned
    )


def sign_version(bucket: Bucket, name: str, version: str, digest: str, sign: Signer) -> None:
    """Leave a signature over a version, for those who name it by its digits. ``digest``: its manifest's.

    Raises TrustError where this key signed another manifest of it before: the store has changed that.
    """
    there, _ = read_signature(bucket, name, version)
    if sign.signed(there):
        where = bucket.where(signed_key(name, version))
        Trust(sign.public).check(there, statement(name, version, "", 0, digest), where)
    else:
        write_signature(bucket, name, version, sign.sign(statement(name, version, "", 0, digest)))


def write_signature(bucket: Bucket, name: str, version: str, envelope: dict[str, Any]) -> None:
    bucket.write(signed_key(name, version), (json.dumps(envelope, indent=1) + "\n").encode())


def promote(location: str, alias: str, *, timeout_s: float, sign: Signer | None = None) -> Change:
    """Let an alias name a published version, given by its digits or by another alias.

    Raises StoreError where a file of that version is not in the store; the alias stays as it is.
    """
    reference = parse(location)
    bucket = Bucket(reference.root, Deadline(timeout_s))
    before = expected(bucket, reference.name, alias)
    version = resolve(bucket, reference).version
    with _whole(bucket, reference.name, version) as digest:
        if sign is not None:
            sign_version(bucket, reference.name, version, digest, sign)
        return set_alias(bucket, reference.name, alias, version, digest, before, sign=sign)


def rollback(location: str, alias: str, *, timeout_s: float, sign: Signer | None = None) -> Change:
    """Let an alias name what it named before. Raises StoreError where there is no such version."""
    reference = parse(location, selected=False)
    if reference.selector:
        raise UsageError(f"{location}: a rollback takes no version; name one with `preheat promote`")
    bucket = Bucket(reference.root, Deadline(timeout_s))
    before = expected(bucket, reference.name, alias)
    if before.alias is None:
        resolve(bucket, reference._replace(selector=alias))  # says what there is instead
        raise StoreError(f"{reference}@{alias} does not exist", code="not_found")
    if not before.alias.history:
        raise StoreError(
            f"{reference}@{alias} named nothing before {before.alias.version[:12]} that it could go back to: "
            "`preheat promote` names a version",
            code="no_history",
        )
    *history, version = before.alias.history
    with _whole(bucket, reference.name, version) as digest:
        if sign is not None:
            sign_version(bucket, reference.name, version, digest, sign)
        kept = tuple(history)
        return set_alias(bucket, reference.name, alias, version, digest, before, history=kept, sign=sign)


@contextlib.contextmanager
def _whole(bucket: Bucket, name: str, version: str) -> Iterator[str]:
    """Hold a published version against collectors for a block, which gets its manifest's digest. Raises
    MissingError where a collector was faster, StoreError where a part is lost."""
    from .upload import missing

    removed = MissingError(f"{name}@{version[:12]} was removed: `preheat promote` names another version")
    try:
        manifest, data = read_version(bucket, name, version)
    except MissingError as error:
        raise removed from error
    blobs = {file.sha256: file for file in manifest.files}
    with keeping(bucket, name, version, blobs):
        if bucket.head(version_key(name, version)) is None:
            raise removed
        lost = missing(bucket, list(blobs.values()))
        if lost:
            raise StoreError(
                f"{name}@{version[:12]} is not whole: {lost[0].path} is not in the store; publish it again",
                code="broken",
            )
        yield digest_of(data)
