"""How a store is laid out, and how a reference is resolved in it.

::

    blobs/ab/ab12…                        a file's bytes, under their sha256; several artifacts share them
    artifacts/NAME/versions/VERSION.json  a manifest; written once, never changed
    artifacts/NAME/aliases/ALIAS.json     which version an alias names; changed by compare-and-set only
    artifacts/NAME/signed/VERSION.json    a signature over a version (preheat.trust)
    pending/…                             what publishers and collectors are about to do; gone when they end

An alias is changed last, when all that it names lies there.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .. import manifest as manifests
from ..errors import IntegrityError, ManifestError, StoreError
from ..manifest import Manifest
from ..trust import MAX_ENVELOPE_BYTES, parse_envelope
from . import Reference
from .object import Bucket, Document
from .reference import version_prefix
from .wording import MissingError

SCHEMA = 1
MAX_ALIAS_BYTES = 256 * 1024
HISTORY = 50
"""Versions that an alias remembers for a rollback."""


class Alias(NamedTuple):
    """What an alias document says."""

    version: str
    """64 hexadecimal digits."""
    epoch: int
    """Grows by one with every change, a rollback included."""
    history: tuple[str, ...]
    """Versions that it named before, oldest first; a rollback takes the last."""
    envelope: dict[str, Any] | None = None
    """A DSSE envelope over name, alias, version and epoch; None where it was not signed."""


class Resolved(NamedTuple):
    version: str
    """64 hexadecimal digits."""
    alias: Alias | None
    """The document that said so; None where the reference names a version."""


def blob_key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def version_key(name: str, version: str) -> str:
    return f"artifacts/{name}/versions/{version}.json"


def alias_key(name: str, alias: str) -> str:
    return f"artifacts/{name}/aliases/{alias}.json"


def signed_key(name: str, version: str) -> str:
    return f"artifacts/{name}/signed/{version}.json"


def dump_alias(name: str, alias: str, value: Alias) -> bytes:
    """An alias document as it is stored."""
    document = {
        "schema": SCHEMA,
        "name": name,
        "alias": alias,
        "version": f"sha256:{value.version}",
        "epoch": value.epoch,
        "history": [f"sha256:{version}" for version in value.history],
        "envelope": value.envelope,
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def read_alias(bucket: Bucket, name: str, alias: str) -> tuple[Alias, Document]:
    """An alias and the document it was read from. Raises MissingError; IntegrityError for another thing."""
    key = alias_key(name, alias)
    found = bucket.read(key, MAX_ALIAS_BYTES)
    return parse_alias(found.data, bucket.where(key), name, alias), found


def parse_alias(data: bytes, where: str, name: str, alias: str) -> Alias:
    """An alias from its document. Raises IntegrityError for another thing."""
    try:
        document = json.loads(data)
        said = document["schema"], document["name"], document["alias"]
        envelope = document["envelope"]
        value = Alias(
            _digits(document["version"]),
            document["epoch"],
            tuple(_digits(version) for version in document["history"]),
            envelope,
        )
        whole = isinstance(value.epoch, int) and value.epoch > 0 and isinstance(envelope, dict | None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole, said = False, (0, name, alias)
    if not whole or said != (SCHEMA, name, alias):
        raise IntegrityError(f"{where} is not the alias {alias!r} of {name!r}")
    return value


def read_version(bucket: Bucket, name: str, version: str) -> tuple[Manifest, bytes]:
    """A manifest, held against the version and the name that it was asked for, and its bytes.

    Raises MissingError, ManifestError or IntegrityError.
    """
    key = version_key(name, version)
    data = bucket.read(key, manifests.MAX_BYTES, probe=True).data
    return check_manifest(data, name, version, bucket.where(key)), data


def read_signature(bucket: Bucket, name: str, version: str) -> tuple[dict[str, Any] | None, bytes]:
    """The envelope over a version, and its bytes; None where nobody signed it."""
    key = signed_key(name, version)
    try:
        data = bucket.read(key, MAX_ENVELOPE_BYTES).data
    except MissingError:
        return None, b""
    return parse_envelope(data, bucket.where(key)), data


def check_manifest(data: bytes, name: str, version: str, where: str) -> Manifest:
    """Read a manifest that must be this version of this artifact."""
    try:
        manifest = manifests.load(data)
    except ManifestError as error:
        raise ManifestError(f"{where}: {error}") from error
    if manifest.version != f"sha256:{version}":
        raise IntegrityError(f"{where} holds {manifest.version}, which is another version than asked for")
    if manifest.name != name:
        raise IntegrityError(f"{where} is an artifact named {manifest.name!r}, not {name!r}")
    return manifest


def versions(bucket: Bucket, name: str) -> dict[str, float]:
    """Every version of an artifact, with when it was published, in seconds since the epoch."""
    found = {}
    for entry in bucket.entries(f"artifacts/{name}/versions/"):
        digits = entry.key.rpartition("/")[2].removesuffix(".json")
        if len(digits) == 64 and version_prefix(digits) is not None:
            found[digits] = entry.modified
    return found


def aliases(bucket: Bucket, name: str) -> list[str]:
    """The names of an artifact's aliases."""
    keys = (entry.key for entry in bucket.entries(f"artifacts/{name}/aliases/"))
    return sorted(key.rpartition("/")[2].removesuffix(".json") for key in keys if key.endswith(".json"))


def resolve(bucket: Bucket, reference: Reference) -> Resolved:
    """Which version a reference names. Raises StoreError that says what the store has instead."""
    prefix = version_prefix(reference.selector)
    if prefix is None:
        try:
            alias, _ = read_alias(bucket, reference.name, reference.selector)
        except MissingError as missing:
            if missing.code == "no_bucket":
                raise
            raise MissingError(f"{reference}: {_instead(bucket, reference)}") from missing
        return Resolved(alias.version, alias)
    if len(prefix) == 64:
        return Resolved(prefix, None)
    fitting = [version for version in versions(bucket, reference.name) if version.startswith(prefix)]
    if len(fitting) > 1:
        raise StoreError(f"{reference}: {len(fitting)} versions begin so; give more digits", code="ambiguous")
    if not fitting:
        raise MissingError(f"{reference}: no version begins so; `preheat ls {reference.root}` lists them")
    return Resolved(fitting[0], None)


def _instead(bucket: Bucket, reference: Reference) -> str:
    """Why an alias is not there, and what is."""
    known = aliases(bucket, reference.name)
    if known:
        return f"there is no alias {reference.selector!r}; there are {', '.join(known)}"
    names = bucket.folders("artifacts")
    if reference.name in names:
        return f"there is no alias {reference.selector!r}; `preheat promote` makes one"
    return f"there is no artifact {reference.name!r}" + (f"; there are {', '.join(names)}" if names else "")


def _digits(version: str) -> str:
    digits = version.removeprefix("sha256:")
    if len(digits) != 64 or version_prefix(digits) is None:
        raise ValueError(version)
    return digits
