"""The download phase for a reference into a store: resolve, read the manifest, fetch what will be opened.

Only the chosen variant's files, the assets and the golden inferences are fetched. The transfer runs in a
thread, beside the imports. A reference that names a version is opened from the cache without asking the
store; an alias is asked for at every start.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import manifest as manifests
from .cache import Cache
from .download import Artifact, Stamps, sha256_of
from .errors import IntegrityError, PreheatError, StoreError, TrustError
from .manifest import File, Manifest
from .phases import Phase, PhaseClock
from .settings import Settings
from .stores import Reference
from .stores.local import LocalStore
from .stores.reference import version_prefix

if TYPE_CHECKING:
    from .stores.object import Bucket


class RemoteArtifact(Artifact):
    """An artifact whose files are fetched into the cache when they are first needed."""

    def __init__(
        self,
        reference: Reference,
        manifest: Manifest,
        cache: Cache,
        clock: PhaseClock,
        *,
        verify: str,
        bucket: Callable[[], Bucket],
        held: int,
        progress: Callable[[int], None] = lambda _bytes: None,
    ) -> None:
        self.version = manifest.version.removeprefix("sha256:")
        super().__init__(LocalStore(cache.folder(self.version)), manifest, Stamps("", ""), clock)
        self.reference = reference
        self.cached = "hit"
        self._cache = cache
        self._held = held
        self._verify_always = verify == "always"
        self._bucket = bucket
        self._progress = progress
        self._ahead: threading.Thread | None = None
        self._failed: dict[str, PreheatError] = {}

    def close(self) -> None:
        """Let the cache evict these files. Not before a session that maps them is freed."""
        os.close(self._held)

    def require(self, paths: Iterable[str]) -> None:
        """Return once these files lie in the cache, verified. Raises StoreError or IntegrityError."""
        wanted = list(paths)
        if self._ahead is not None and self._ahead is not threading.current_thread():
            self._ahead.join()
        for path in wanted:
            if path in self._failed:
                raise self._failed[path]
        with self._lock:
            todo = self._unverified(wanted)
            if todo:
                with self._clock.phase(Phase.DOWNLOAD) as attributes:
                    self._bring(todo, attributes)

    def verify_ahead(self, paths: Iterable[str]) -> None:
        """Begin to fetch in a thread, unless all of it is here; ``require`` waits for it and raises its
        failure."""
        with self._lock:
            todo = [file.path for file in self._unverified(paths)]
        if todo:
            self._ahead = threading.Thread(target=self._bring_quietly, args=(todo,), daemon=True)
            self._ahead.start()

    def _bring_quietly(self, paths: list[str]) -> None:
        try:
            self.require(paths)
        except PreheatError as error:
            self._failed = dict.fromkeys(paths, error)

    def _unverified(self, paths: Iterable[str]) -> list[File]:
        files = []
        for path in dict.fromkeys(paths):
            file = self.manifest.file(path)
            if file is not None and path not in self._verified:
                if not self._verify_always and self._cache.vouch_for(file.sha256, self.path(path)):
                    self._verified.add(path)
                else:
                    files.append(file)
        return files

    def _bring(self, files: list[File], attributes: dict[str, Any]) -> None:
        began = time.perf_counter()
        here = [file for file in files if self._whole(file)]
        if here:
            attributes.update(
                verified_bytes=sum(file.size for file in here),
                verify_ms=round((time.perf_counter() - began) * 1e3, 3),
            )
            self._verified |= {file.path for file in here}
        files = [file for file in files if file.path not in self._verified]
        if not files:
            return
        blobs = {file.sha256: file for file in files}
        bucket = self._bucket()
        with contextlib.ExitStack() as held:
            began = time.perf_counter()
            for digest in sorted(blobs):  # one order for every process: none waits for the other in a ring
                held.enter_context(self._cache.fetching(digest, bucket.deadline.left))
            waited = (time.perf_counter() - began) * 1e3
            missing = [file for file in blobs.values() if not self._cache.has(file)]
            fetched = self._fetch(bucket, missing) if missing else None
            for file in files:
                self._cache.link(self.version, file)
        self._verified |= {file.path for file in files}
        if self.cached != "miss":
            self.cached = "miss" if fetched else "shared"
        attributes.update(
            cache="miss" if fetched else "shared",
            wait_ms=round(waited, 3),
            fetch_ms=round(fetched.fetch_ms, 3) if fetched else 0.0,
            verify_ms=round(attributes.get("verify_ms", 0.0) + (fetched.verify_ms if fetched else 0.0), 3),
            fetched_bytes=fetched.bytes if fetched else 0,
            blobs=len(missing),
        )

    def _whole(self, file: File) -> bool:
        """Whether the file lies here with the right content; a damaged one is dropped, to be fetched anew."""
        path = self.path(file.path)
        try:
            if os.stat(path, follow_symlinks=False).st_size == file.size and sha256_of(path) == file.sha256:
                with contextlib.suppress(OSError):
                    if os.path.samefile(path, self._cache.blob(file.sha256)):
                        self._cache.stamp(file.sha256)
                return True
        except OSError:
            pass
        if os.path.lexists(path):
            for damaged in (path, self._cache.blob(file.sha256), f"{self._cache.blob(file.sha256)}.ok"):
                with contextlib.suppress(FileNotFoundError), self._cache.told("written"):
                    os.unlink(damaged)
        return False

    def _fetch(self, bucket: Bucket, files: list[File]) -> Any:
        from .eviction import evict, make_room
        from .fetch import Fetch

        make_room(self._cache, sum(file.size for file in files))
        try:
            return Fetch(bucket, self._cache, self._progress).run(files)
        except StoreError as error:
            if error.code != "no_space":
                raise
            evict(self._cache, self._cache.limit)  # all that nobody uses
            return Fetch(bucket, self._cache, self._progress).run(files)


def open_remote(
    reference: Reference,
    settings: Settings,
    *,
    cache_dir: str,
    clock: PhaseClock,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> RemoteArtifact:
    """Resolve a reference and hold what the cache has of it against the manifest; nothing is fetched yet.

    Raises StoreError, ManifestError or IntegrityError.
    """
    with clock.phase(Phase.DOWNLOAD) as attributes:
        cache = Cache(cache_dir, settings.cache_bytes)
        opened: list[Bucket] = []

        def bucket() -> Bucket:
            from .stores.object import Bucket, Deadline  # not for a hit: it brings obstore

            if not opened:
                opened.append(Bucket(reference.root, Deadline(settings.fetch_timeout)))
            return opened[0]

        began = time.perf_counter()
        version, named = version_prefix(reference.selector) or "", None
        if len(version) < 64:
            from .release import resolved

            named = resolved(reference, settings, cache, bucket)
            version = named.version
            attributes["resolve_ms"] = round((time.perf_counter() - began) * 1e3, 3)
            if named.stale_s is not None:
                attributes["stale_s"] = named.stale_s
        held = cache.use(version)  # until the process ends: the session maps what lies there
        try:
            signed = ""
            if settings.trust:
                from .release import Named, check_signature

                signed = check_signature(reference, named or Named(version, None), settings, cache, bucket)
                attributes["signed"] = True
            manifest = _manifest(reference, version, signed, cache, bucket)
            check_cached(LocalStore(cache.folder(version)), manifest)
        except BaseException:
            os.close(held)
            raise
        attributes.update(verify=settings.verify, bytes=sum(file.size for file in manifest.files))
    return RemoteArtifact(
        reference,
        manifest,
        cache,
        clock,
        verify=settings.verify,
        bucket=bucket,
        held=held,
        progress=progress,
    )


def _manifest(
    reference: Reference, version: str, signed: str, cache: Cache, bucket: Callable[[], Bucket]
) -> Manifest:
    """The manifest of a version, from the cache or from the store. ``signed``: the digest that its bytes must
    have, measurements and all, because a signature says so; empty where nothing was signed."""
    path = f"{cache.folder(version)}/{manifests.FILENAME}"
    with contextlib.suppress(OSError, PreheatError):
        with open(path, "rb") as file:
            data = file.read(manifests.MAX_BYTES + 1)
        known = cache.knows(version)
        manifest = manifests.load(data, lambda claimed: known and claimed == f"sha256:{version}")
        same = not signed or manifests.digest_of(data) == signed
        if same and manifest.version == f"sha256:{version}" and manifest.name == reference.name:
            if not known:
                cache.know(version)
            return manifest
    from .stores.layout import read_version

    manifest, data = read_version(bucket(), reference.name, version)
    if signed and manifests.digest_of(data) != signed:
        raise TrustError(f"{reference}: the manifest's measurements were changed after it was signed")
    for listed in manifest.files:
        if not 0 <= listed.size <= manifests.MAX_FILE_BYTES or listed.path == manifests.FILENAME:
            raise IntegrityError(f"{reference}: the manifest lists {listed.path} with {listed.size} bytes")
    cache.write(path, data)
    cache.know(version)
    return manifest


def check_cached(store: LocalStore, manifest: Manifest) -> None:
    """What lies in an artifact's cached folder is plain and listed. What is missing is fetched when it is
    needed. Raises IntegrityError."""
    listed = {file.path for file in manifest.files} | {manifests.FILENAME}
    for entry in store.entries():
        where = store.local(entry.path)
        if entry.path not in listed:
            raise IntegrityError(f"{where} is not in the manifest; remove it, or the whole cache")
        if not entry.regular:
            raise IntegrityError(f"{where} is a link or a special file; remove it, or the whole cache")
