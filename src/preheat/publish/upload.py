"""Publish: files, then the version, then the alias, so that an alias never names half of an artifact."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from .. import manifest as manifests
from ..download import check_layout
from ..errors import ConflictError, IntegrityError, StoreError, UsageError
from ..manifest import File, Manifest
from ..stores.layout import blob_key, check_manifest, version_key
from ..stores.local import LocalStore
from ..stores.object import UPLOAD_PART, Bucket
from ..stores.reference import parse
from .aliases import Change, expected, set_alias, sign_version
from .pending import keeping
from .progress import Progress
from .signing import Signer

WORKERS = 4


class Published(NamedTuple):
    reference: str
    version: str
    """64 hexadecimal digits."""
    new: bool
    """False where the store had this version already."""
    uploaded: int
    """Blobs that were sent."""
    uploaded_bytes: int
    shared: int
    """Blobs that lay there already."""
    shared_bytes: int
    alias: Change | None

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "alias": self.alias and self.alias.to_dict()}


def publish(
    folder: str,
    location: str,
    *,
    alias: str | None,
    timeout_s: float,
    sign: Signer | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> Published:
    """Upload what the store lacks of an artifact, and name it.

    ``location``: ``s3://bucket/prefix/name``, where ``name`` is the artifact's. It may be run again after
    any failure: what arrived is not sent twice. ``verify``: read back what lies there already, and send again
    what is not whole. Raises UsageError, ArtifactError, ConflictError.
    """
    from ..stores.object import Deadline

    progress = progress or Progress()
    reference = parse(location, selected=False)
    if reference.selector:
        raise UsageError(f"{location}: give the version no name here; --alias {reference.selector} names it")
    store = LocalStore(folder)
    data = store.read(manifests.FILENAME, manifests.MAX_BYTES)
    manifest = manifests.load(data)
    if manifest.name != reference.name:
        raise UsageError(
            f"the artifact is named {manifest.name!r}: publish it to {reference.root}/{manifest.name}"
        )
    check_layout(store, manifest)
    _check_private(store, manifest)
    version = manifest.version.removeprefix("sha256:")
    blobs = list({file.sha256: file for file in manifest.files}.values())
    _check_content(store, blobs, progress)
    bucket = Bucket(reference.root, Deadline(timeout_s), make=True)
    before = expected(bucket, reference.name, alias) if alias else None
    paths = {file.sha256: store.local(file.path) for file in blobs}
    with keeping(bucket, reference.name, version, list(paths)):
        sent = send(bucket, paths, blobs, progress, verify=verify)
        new = write_version(bucket, manifest, version, data, exact=sign is not None)
        digest = manifests.digest_of(data)
        if sign is not None:
            sign_version(bucket, reference.name, version, digest, sign)
        change = None
        if alias is not None and before is not None:
            change = set_alias(bucket, reference.name, alias, version, digest, before, sign=sign)
    uploaded = {file.sha256: file.size for file in sent}
    total = sum(file.size for file in blobs)
    return Published(
        f"{reference.root}/{reference.name}@{alias or version[:12]}",
        version,
        new,
        len(uploaded),
        sum(uploaded.values()),
        len(blobs) - len(uploaded),
        total - sum(uploaded.values()),
        change,
    )


def _check_private(store: LocalStore, manifest: Manifest) -> None:
    """No file has a second name, through which it could change; none is larger than a deployment takes."""
    for entry in store.entries():
        if entry.links > 1:
            raise IntegrityError(
                f"{store.local(entry.path)} has {entry.links} names (hard links), and could be changed by "
                "another of them; publish a copy: cp -r"
            )
    for file in manifest.files:
        if file.size > manifests.MAX_FILE_BYTES:
            raise IntegrityError(
                f"{store.local(file.path)} has {file.size} bytes; the most that a deployment takes is "
                f"{manifests.MAX_FILE_BYTES}"
            )


def _check_content(store: LocalStore, files: list[File], progress: Progress) -> None:
    """Every file is what the manifest says, before any of it is sent."""
    progress.begin("checking", sum(file.size for file in files))
    for file in files:
        digest = hashlib.sha256()
        for chunk in _chunks(store.local(file.path), progress.advance):
            digest.update(chunk)
        if digest.hexdigest() != file.sha256:
            raise IntegrityError(
                f"{store.local(file.path)} was changed after the build: its sha256 is "
                f"{digest.hexdigest()[:12]}…, the manifest says {file.sha256[:12]}…"
            )


def missing(bucket: Bucket, files: list[File]) -> list[File]:
    """Those whose blob the store lacks, or has with another size."""
    with ThreadPoolExecutor(WORKERS * 2) as pool:
        found = list(pool.map(lambda file: bucket.head(blob_key(file.sha256)), files))
    return [file for file, head in zip(files, found, strict=True) if head is None or head.size != file.size]


def send(
    bucket: Bucket, paths: dict[str, str], files: list[File], progress: Progress, *, verify: bool = False
) -> list[File]:
    """Upload those that the store lacks, and give them. ``paths``: digest -> where its bytes lie here.

    ``verify``: read the others back, and upload those too that are not what they should be.
    """
    lacking = missing(bucket, files)
    if verify:
        there = [file for file in files if file not in lacking]
        progress.begin("reading back", sum(file.size for file in there))
        lacking += [file for file in there if not _whole(bucket, file, progress.advance)]
    if not lacking:
        return []
    progress.begin("uploading", sum(file.size for file in lacking))
    given_up = threading.Event()

    def upload(file: File) -> None:
        try:
            _upload(bucket, paths[file.sha256], file, given_up, progress.advance)
        except BaseException:
            given_up.set()  # the others stop at their next piece
            raise

    pool = ThreadPoolExecutor(WORKERS)
    try:
        jobs = [pool.submit(upload, file) for file in sorted(lacking, key=lambda file: -file.size)]
        for job in jobs:
            job.result()
    finally:
        given_up.set()
        pool.shutdown(cancel_futures=True)
    return lacking


def _upload(
    bucket: Bucket, path: str, file: File, given_up: threading.Event, advance: Callable[[int], None]
) -> None:
    """Send one file, and see that it is there: once more where it is not, then it is removed and refused."""
    tags: set[str] = set()

    def pieces() -> Iterator[bytes]:
        digest, whole, parts = hashlib.sha256(), hashlib.md5(usedforsecurity=False), []
        ahead = b""
        for piece in _chunks(path, advance):
            if given_up.is_set():
                raise StoreError("the upload was given up", code="given_up")
            digest.update(piece)
            whole.update(piece)
            parts.append(hashlib.md5(piece, usedforsecurity=False).digest())
            if ahead:
                yield ahead
            ahead = piece
        # Held back until all of it was hashed: an upload that ends early leaves no object.
        if digest.hexdigest() != file.sha256:
            raise IntegrityError(f"{path} changed while it was uploaded")
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        tags.update((whole.hexdigest(), f"{joined}-{len(parts)}"))
        yield ahead

    key = blob_key(file.sha256)
    for _ in range(2):
        bucket.upload(key, pieces)
        head = bucket.head(key)
        # S3's tag is the MD5 of what it received, or of its parts'; not with every encryption, nor elsewhere.
        if head and head.size == file.size and (head.tag in tags or _whole(bucket, file)):
            return
    bucket.delete(key)
    raise StoreError(
        f"{bucket.where(key)}: {file.path} arrived changed or cut, twice; it was removed: publish again"
    )


def _whole(bucket: Bucket, file: File, advance: Callable[[int], None] = lambda _bytes: None) -> bool:
    """Whether the store gives back the very file."""
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in bucket.stream(blob_key(file.sha256), 0, file.size, whole=True):
            digest.update(chunk)
            size += len(chunk)
            advance(len(chunk))
    except StoreError as error:
        if error.code != "store":  # a connection that was cut gives less than all of it
            raise
    return size == file.size and digest.hexdigest() == file.sha256


def _chunks(path: str, advance: Callable[[int], None]) -> Iterator[bytes]:
    try:
        with open(path, "rb", buffering=0) as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while piece := source.read(UPLOAD_PART):
                advance(len(piece))
                yield piece
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", code="unreadable") from error


def write_version(bucket: Bucket, manifest: Manifest, version: str, data: bytes, *, exact: bool) -> bool:
    """Whether it was new. What is there already must be this version: it stays as it is.

    ``exact``: its measurements must be these too, because they are about to be signed. Raises ConflictError
    where they are not.
    """
    key = version_key(manifest.name, version)
    if bucket.head(key) is None and bucket.create(key, data):
        return True
    there = bucket.read(key, manifests.MAX_BYTES).data
    check_manifest(there, manifest.name, version, bucket.where(key))
    if exact and there != data:
        raise ConflictError(
            f"{bucket.where(key)} is this version with other measurements, from another build of it; "
            f"`preheat promote {bucket.root}/{manifest.name}@{version[:12]} --sign` signs those"
        )
    return False
