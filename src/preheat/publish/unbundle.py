"""Import: a bundle into a store, every byte checked before anything is written there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from .. import manifest as manifests
from ..errors import ConflictError, IntegrityError, UsageError
from ..highwater import HighWater
from ..manifest import File, Manifest
from ..settings import Settings
from ..stores.layout import Alias, check_manifest
from ..stores.object import Bucket, Deadline
from ..stores.reference import parse, version_prefix
from ..trust import MAX_ENVELOPE_BYTES, Trust, statement
from .aliases import Change, expected, set_alias, write_signature
from .bundle import HEAD, MANIFEST, SCHEMA, Bundle, told
from .pending import keeping
from .progress import Progress
from .signing import Signer
from .upload import send, write_version

CHUNK = 1024 * 1024


class Imported(NamedTuple):
    reference: str
    version: str
    new: bool
    uploaded: int
    signed: bool
    alias: Change | None

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "alias": self.alias and self.alias.to_dict()}


def import_bundle(
    path: str,
    location: str,
    settings: Settings,
    *,
    alias: str | None,
    sign: Signer | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Put a bundle into a store, checked before anything is written there. Needs no network but the store's.

    ``alias``: let it name the version. Where the bundle carries that very alias, signed, its epoch and
    signature are kept; else the alias goes on counting, unsigned unless ``sign`` is given. What it named
    before stays in its history. Raises UsageError, IntegrityError, TrustError, ConflictError, StoreError.
    """
    progress = progress or Progress()
    reference = parse(location, selected=False)
    if reference.selector:
        raise UsageError(f"{location}: --alias {reference.selector} names the version")
    with told(path), tempfile.TemporaryDirectory(prefix="preheat-import-") as staging:
        head, manifest, data, files = _unpack(path, reference.name, staging, progress)
        digest = manifests.digest_of(data)
        carried = alias is not None and head.alias == alias and head.alias_signature is not None and not sign
        if settings.trust:
            _check_trust(head, digest, settings, alias if carried else None)
        bucket = Bucket(reference.root, Deadline(settings.fetch_timeout), make=True)
        before = expected(bucket, reference.name, alias) if alias else None
        if carried and before and before.alias and before.alias.epoch > head.epoch:
            raise ConflictError(
                f"{reference.name}@{alias} is of epoch {before.alias.epoch} here, the bundle's of "
                f"{head.epoch}: it is older; `preheat rollback` goes back to an older version"
            )
        blobs = list({file.sha256: file for file in manifest.files}.values())
        with keeping(bucket, reference.name, head.version, list(files)):
            sent = send(bucket, files, blobs, progress)
            new = write_version(bucket, manifest, head.version, data, exact=bool(sign or head.signature))
            signature = (
                sign.sign(statement(head.name, head.version, "", 0, digest)) if sign else head.signature
            )
            if signature is not None:
                write_signature(bucket, head.name, head.version, signature)
            change = None
            if alias is not None and before is not None:
                kept = Alias(head.version, head.epoch, (), head.alias_signature) if carried else None
                change = set_alias(
                    bucket, reference.name, alias, head.version, digest, before, sign=sign, carried=kept
                )
    return Imported(
        f"{reference.root}/{reference.name}@{alias or head.version[:12]}",
        head.version,
        new,
        len(sent),
        signature is not None,
        change,
    )


def _check_trust(head: Bundle, digest: str, settings: Settings, alias: str | None) -> None:
    """A trusted key signed the version; and the alias, where its signature is to be kept."""
    trust, what = Trust(settings.trust), f"the bundle of {head.name}@{head.version[:12]}"
    trust.check(head.signature, statement(head.name, head.version, "", 0, digest), what)
    if alias is not None:
        wanted = statement(head.name, head.version, alias, head.epoch, digest)
        trust.check(head.alias_signature, wanted, what)
        if settings.high_water:
            mark = HighWater(settings.high_water, settings.fetch_timeout)
            mark.reach(head.name, alias, head.epoch, settings.epoch)


def _unpack(
    path: str, name: str, staging: str, progress: Progress
) -> tuple[Bundle, Manifest, bytes, dict[str, str]]:
    """Check every byte of a bundle; gives its head, its manifest, and where each blob lies by digest."""
    with _opened(path) as tar:
        head = _read_head(_small(tar, HEAD, 2 * MAX_ENVELOPE_BYTES + 4096, path), path)
        if head.name != name:
            raise UsageError(f"{path} holds {head.name!r}: import it to …/{head.name}")
        data = _small(tar, MANIFEST, manifests.MAX_BYTES, path)
        manifest = check_manifest(data, head.name, head.version, f"{path}: {MANIFEST}")
        wanted = {file.sha256: file for file in manifest.files}
        progress.begin("checking", sum(file.size for file in wanted.values()))
        found: dict[str, str] = {}
        for member in _members(tar, path):
            file = wanted.get(member.name.removeprefix("blobs/"))
            if file is None or member.name != f"blobs/{file.sha256}" or file.sha256 in found:
                raise IntegrityError(f"{path} holds {member.name[:100]!r}, which its manifest does not list")
            found[file.sha256] = os.path.join(staging, file.sha256)
            _copy(tar, member, file, found[file.sha256], path, progress)
    for digest, file in wanted.items():
        if digest not in found:
            raise IntegrityError(f"{path} was cut: {file.path} is missing")
    return head, manifest, data, found


def _copy(
    tar: tarfile.TarFile, member: tarfile.TarInfo, file: File, to: str, path: str, progress: Progress
) -> None:
    if member.size != file.size:
        raise IntegrityError(f"{path}: {file.path} has {member.size} bytes, the manifest says {file.size}")
    source, digest = _content(tar, member, path), hashlib.sha256()
    with open(to, "xb") as copy:
        while piece := source.read(CHUNK):
            digest.update(piece)
            copy.write(piece)
            progress.advance(len(piece))
    if digest.hexdigest() != file.sha256:
        raise IntegrityError(f"{path} was cut or changed: the sha256 of {file.path} is another")


def _read_head(data: bytes, path: str) -> Bundle:
    try:
        document = json.loads(data)
        if document.pop("schema") != SCHEMA:
            raise ValueError
        head = Bundle(**document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError(f"{path} is not a bundle of this version of Preheat") from None
    whole = (
        isinstance(head.version, str)
        and len(head.version) == 64
        and version_prefix(head.version) is not None
        and isinstance(head.name, str)
        and manifests.is_name(head.name)
        and isinstance(head.alias, str)
        and isinstance(head.epoch, int)
        and head.epoch >= 0
        and isinstance(head.signature, dict | None)
        and isinstance(head.alias_signature, dict | None)
    )
    if not whole:
        raise IntegrityError(f"{path} is not a bundle of this version of Preheat")
    return head


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as tar:  # uncompressed: nothing inside can grow
            yield tar
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise IntegrityError(f"{path} is not a bundle, or was cut: {error}") from error


def _members(tar: tarfile.TarFile, path: str) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        if not member.isreg() or member.issparse():
            raise IntegrityError(f"{path} holds {member.name[:100]!r}, which is a link or a special file")
        yield member


def _small(tar: tarfile.TarFile, name: str, limit: int, path: str) -> bytes:
    """The next member, which must be this one."""
    member = next(_members(tar, path), None)
    if member is None or member.name != name or member.size > limit:
        raise IntegrityError(f"{path} is not a bundle: {name} is not where it belongs")
    return _content(tar, member, path).read()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> IO[bytes]:
    source = tar.extractfile(member)
    if source is None:
        raise IntegrityError(f"{path}: {member.name[:100]!r} has no content")
    return source
