"""Bundles: one file that carries a version, its files and its signatures to where there is no network.

A tar of plain members in a fixed order: ``bundle.json``, ``manifest.json``, ``blobs/DIGEST``…. It is read
member by member, never unpacked: a name says only which digest is expected; where bytes go is decided here.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import output
from ..errors import ConflictError, StoreError
from ..manifest import digest_of
from ..remote import open_remote
from ..settings import Settings
from ..stores import Reference
from ..stores.layout import read_signature, read_version, resolve
from ..stores.object import Bucket, Deadline
from ..stores.reference import parse
from ..trust import statement
from .progress import Progress
from .signing import Signer

SCHEMA = 1
HEAD, MANIFEST = "bundle.json", "manifest.json"
CHUNK = 1024 * 1024


class Bundle(NamedTuple):
    """What the head of a bundle says."""

    name: str
    version: str
    """64 hexadecimal digits."""
    signature: dict[str, Any] | None
    """Over the version."""
    alias: str
    """The alias that was exported; empty for a version by its digits."""
    epoch: int
    alias_signature: dict[str, Any] | None


class Exported(NamedTuple):
    reference: str
    version: str
    file: str
    bytes: int
    signed: bool

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def export(
    location: str,
    out: str,
    settings: Settings,
    *,
    sign: Signer | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write a published version as one file, verified on the way; whole, or not at all.

    ``sign``: sign the version, where nobody did. Raises UsageError, StoreError, IntegrityError, TrustError.
    """
    from ..phases import PhaseClock

    progress = progress or Progress()
    reference = parse(location)
    place = os.path.abspath(out)  # "-" is a name here: a bundle is no text
    output.make_room(place)
    folder = os.path.dirname(place)
    bucket = Bucket(reference.root, Deadline(settings.fetch_timeout))
    head = _head(bucket, reference, sign)
    with told(out), tempfile.TemporaryDirectory(prefix=".preheat-export-", dir=folder) as staging:
        pinned = reference._replace(selector=f"sha256:{head.version}") if not settings.trust else reference
        artifact = open_remote(
            pinned, settings, cache_dir=staging, clock=PhaseClock(), progress=progress.advance
        )
        if artifact.version != head.version:
            raise ConflictError(f"{reference} was changed while it was exported; run this again")
        blobs = {file.sha256: file for file in artifact.manifest.files}
        progress.begin("fetching", sum(file.size for file in blobs.values()))
        artifact.require([file.path for file in blobs.values()])
        written = os.path.join(staging, "bundle.tar")
        with tarfile.open(written, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, HEAD, json.dumps({"schema": SCHEMA, **head._asdict()}, indent=1).encode())
            with open(artifact.path(MANIFEST), "rb") as source:
                _add(tar, MANIFEST, source.read())
            for digest, file in sorted(blobs.items()):
                with open(artifact.path(file.path), "rb") as source:
                    tar.addfile(_member(f"blobs/{digest}", file.size), source)
        artifact.close()
        size = os.stat(written).st_size
        os.chmod(written, 0o644)
        os.replace(written, out)
    return Exported(str(reference), head.version, out, size, head.signature is not None)


def _head(bucket: Bucket, reference: Reference, sign: Signer | None) -> Bundle:
    version, alias = resolve(bucket, reference)
    signature, _ = read_signature(bucket, reference.name, version)
    if sign is not None and not sign.signed(signature):
        _, data = read_version(bucket, reference.name, version)
        signature = sign.sign(statement(reference.name, version, "", 0, digest_of(data)))
    if alias is None:
        return Bundle(reference.name, version, signature, "", 0, None)
    return Bundle(reference.name, version, signature, reference.selector, alias.epoch, alias.envelope)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    tar.addfile(_member(name, len(data)), io.BytesIO(data))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """Nothing of the machine is in a bundle: the same version gives the same bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or path}: {error.strerror}", code="file") from error
