"""What a reference names at this moment, and whether a trusted key says so."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .cache import Cache
from .errors import IntegrityError, StoreError, TrustError
from .highwater import HighWater
from .settings import Settings
from .stores import Reference
from .stores.layout import MAX_ALIAS_BYTES, Alias, dump_alias, parse_alias, read_signature, resolve
from .stores.reference import version_prefix
from .trust import MAX_ENVELOPE_BYTES, Trust, parse_envelope, statement

if TYPE_CHECKING:
    from .stores.object import Bucket

STALE_WAIT_S = 5.0
"""How long a store is waited for, where what it said last is at hand."""


class Named(NamedTuple):
    version: str
    """64 hexadecimal digits."""
    alias: Alias | None
    """The document that said so; None where the reference names a version."""
    stale_s: float | None = None
    """Seconds since the store said so, where it cannot be asked now."""


def resolved(reference: Reference, settings: Settings, cache: Cache, bucket: Callable[[], Bucket]) -> Named:
    """Which version a reference names.

    Where the store cannot be reached, an alias is taken as this host read it last, at most PREHEAT_STALE
    seconds ago. Raises StoreError or IntegrityError.
    """
    if not settings.stale or version_prefix(reference.selector) is not None:
        return Named(*resolve(bucket(), reference))
    path = f"{cache.root}/{hashlib.sha256(str(reference).encode()).hexdigest()[:32]}.alias"
    last = _last(path, reference, settings.stale)
    try:
        if last is None:
            named = Named(*resolve(bucket(), reference))  # says what there is, where there is no such alias
        else:
            from .stores.object import Bucket, Deadline

            wait = min(STALE_WAIT_S, settings.fetch_timeout)
            named = Named(*resolve(Bucket(reference.root, Deadline(wait)), reference))
    except StoreError as error:
        if last is None or error.code != "store":
            raise
        return last
    assert named.alias is not None  # noqa: S101 - an alias was asked for
    cache.write(path, dump_alias(reference.name, reference.selector, named.alias))
    return named


def _last(path: str, reference: Reference, most_s: float) -> Named | None:
    """What this host read last, if that is not too long ago."""
    with contextlib.suppress(OSError, IntegrityError), open(path, "rb") as file:
        age = time.time() - os.fstat(file.fileno()).st_mtime
        alias = parse_alias(file.read(MAX_ALIAS_BYTES), path, reference.name, reference.selector)
        if 0 <= age <= most_s:
            return Named(alias.version, alias, round(age, 3))
    return None


def check_signature(
    reference: Reference, named: Named, settings: Settings, cache: Cache, bucket: Callable[[], Bucket]
) -> str:
    """The digest of the manifest that a trusted key has signed for what the reference names.

    Raises TrustError where none did, or where it is an old state.
    """
    trust, name, alias = Trust(settings.trust), reference.name, named.alias
    if alias is not None:
        wanted = statement(name, named.version, reference.selector, alias.epoch)
        digest = trust.check(alias.envelope, wanted, str(reference))
        place = settings.high_water or f"{cache.root}/high-water"
        HighWater(place, settings.fetch_timeout).reach(name, reference.selector, alias.epoch, settings.epoch)
        return digest
    wanted, path = statement(name, named.version, "", 0), f"{cache.folder(named.version)}.dsse"
    with contextlib.suppress(OSError, TrustError), open(path, "rb") as file:
        return trust.check(parse_envelope(file.read(MAX_ENVELOPE_BYTES), path), wanted, str(reference))
    envelope, data = read_signature(bucket(), name, named.version)
    digest = trust.check(envelope, wanted, str(reference))
    cache.write(path, data)
    return digest
