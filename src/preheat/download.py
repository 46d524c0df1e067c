"""The download phase: find the manifest, hold the files against it, verify what the session will open.

A file is hashed once; a stamp in the cache folder then vouches for it as long as its device, inode, size and
both times stand (``ctime`` cannot be set back by a program). With ``verify="always"`` it is hashed at every
start. Hashing runs in a thread, beside the imports: hashlib releases the interpreter lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from . import manifest as manifests
from .errors import IntegrityError, ManifestError
from .manifest import File, Manifest
from .phases import Phase, PhaseClock
from .stores import Store

CHUNK = 1024 * 1024
FRESH_NS = 100_000_000
"""A file younger than this is not vouched for: some file systems tick in tens of milliseconds."""


class Artifact:
    """An artifact whose layout has been checked. ``require`` gates the use of a file's content."""

    cached = "local"
    """Where the files came from: ``local``; for a store ``hit`` or ``miss`` of the cache, or
    ``shared``: another process or another artifact brought them."""

    def __init__(self, store: Store, manifest: Manifest, stamps: Stamps, clock: PhaseClock) -> None:
        self.store = store
        self.manifest = manifest
        self._stamps = stamps
        self._clock = clock
        self._lock = threading.Lock()
        self._verified: set[str] = set()

    def path(self, relative: str) -> str:
        """Where a file of the manifest lies on this host."""
        return self.store.local(relative)

    def asset(self, role: str) -> str | None:
        """The path of an asset, verified; None where the artifact has none of that role."""
        relative = self.manifest.assets.get(role)
        if relative is None:
            return None
        self.require([relative])
        return self.path(relative)

    def close(self) -> None:
        """Nobody needs the files any more."""

    def require(self, paths: Iterable[str]) -> None:
        """Return once the content of these files is known to be the manifest's.

        Raises IntegrityError that names the first file that is not.
        """
        with self._lock:
            todo = self._unverified(paths)
            if todo:
                with self._clock.phase(Phase.DOWNLOAD) as attributes:
                    self._verify(todo, attributes)

    def verify_ahead(self, paths: Iterable[str]) -> None:
        """Begin to verify in a thread; ``require`` waits for it. A failure is raised there, not here."""
        with self._lock:
            todo = self._unverified(paths)
        if todo:
            threading.Thread(target=self._verify_quietly, args=(todo,), daemon=True).start()

    def _verify_quietly(self, files: list[File]) -> None:
        # A file that fails is not marked as verified, so that whoever needs it meets the error.
        with contextlib.suppress(IntegrityError):
            self.require([file.path for file in files])

    def _unverified(self, paths: Iterable[str]) -> list[File]:
        files = []
        for path in dict.fromkeys(paths):
            file = self.manifest.file(path)
            if file is not None and path not in self._verified:
                if self._stamps.vouch_for(file.sha256, self.path(path)):
                    self._verified.add(path)
                else:
                    files.append(file)
        return files

    def _verify(self, files: list[File], attributes: dict[str, Any]) -> None:
        for file in files:
            path = self.path(file.path)
            try:
                before = identity(path)
                digest = sha256_of(path)
            except OSError as error:
                raise IntegrityError(f"{path} cannot be read: {error.strerror}") from None
            if digest != file.sha256:
                raise IntegrityError(
                    f"{path} was changed: its sha256 is {digest[:12]}…, the manifest says {file.sha256[:12]}…"
                )
            self._verified.add(file.path)
            self._stamps.add(file.sha256, path, before)
        attributes["verified_bytes"] = sum(file.size for file in files)
        self._stamps.save()


def download(store: Store, *, cache_dir: str, verify: str, clock: PhaseClock) -> Artifact:
    """Read the manifest and hold every file's presence, kind and size against it.

    Raises ManifestError or IntegrityError. No content is read beyond the manifest's.
    """
    with clock.phase(Phase.DOWNLOAD) as attributes:
        stamps = Stamps(store.local(""), cache_dir if verify == "fetch" else "")
        path = store.local(manifests.FILENAME)
        before = identity(path) if os.path.exists(path) else None
        data = store.read(manifests.FILENAME, manifests.MAX_BYTES)
        try:
            manifest = manifests.load(data, lambda version: stamps.vouch_for(_hex(version), path))
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}") from None
        if before is not None and not stamps.vouch_for(_hex(manifest.version), path):
            stamps.add(_hex(manifest.version), path, before)
            stamps.save()  # the files may all be vouched for already: then nothing else would save it
        check_layout(store, manifest)
        attributes.update(cache="local", verify=verify, bytes=sum(file.size for file in manifest.files))
    return Artifact(store, manifest, stamps, clock)


def _hex(version: str) -> str:
    return version.removeprefix("sha256:")


def check_layout(store: Store, manifest: Manifest) -> None:
    """Every listed file is there, plain and of its size, and nothing else is. Raises IntegrityError."""
    for path, problem in layout_problems(store, manifest):
        raise IntegrityError(f"{store.local(path)} {problem}")


def layout_problems(store: Store, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Each path that is not as the manifest lists it, and what is wrong with it, in words."""
    listed = {file.path: file for file in manifest.files}
    for entry in store.entries():
        file = listed.pop(entry.path, None)
        if not entry.regular:
            yield entry.path, "is a link or a special file; an artifact holds plain files"
        elif entry.path == manifests.FILENAME:
            continue
        elif file is None:
            yield entry.path, "is not in the manifest; an artifact holds what was built, no more"
        elif entry.size != file.size:
            yield entry.path, f"has {entry.size} bytes, the manifest says {file.size}"
    for path in listed:
        yield path, "is missing; the manifest lists it"


class Stamps:
    """Which files were hashed before, and what they looked like then. Losing them costs a hash, no more.

    ``root``: the artifact's place; each has a file of stamps of its own. ``cache_dir``: where they are kept;
    empty for not at all.
    """

    def __init__(self, root: str, cache_dir: str) -> None:
        self._path = (
            f"{cache_dir}/verified/{root.strip('/').replace('/', '%')[-200:]}.json" if cache_dir else ""
        )
        self._known: dict[str, list[int]] = {}
        try:
            if self._path:
                with open(self._path, "rb") as file:
                    known = json.loads(file.read())
                self._known = known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            pass

    def vouch_for(self, digest: str, path: str) -> bool:
        """Whether this very file was found to have this digest before, and stands unchanged."""
        stamp = self._known.get(f"{digest}:{path}")
        return stamp is not None and stamp == identity(path)

    def add(self, digest: str, path: str, seen: list[int]) -> None:
        """Remember a file's digest, and what the file looked like before it was read.

        A file changed within the clock's last ticks could be changed once more without showing it: not kept.
        """
        if time.time_ns() - max(seen[3:]) > FRESH_NS:
            self._known[f"{digest}:{path}"] = seen

    def save(self) -> None:
        """Write the stamps, whole or not at all; a cache that cannot be written is no error."""
        if not self._path:
            return
        temporary = f"{self._path}.{os.getpid()}.{threading.get_ident()}"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            standing = {k: v for k, v in self._known.items() if self._stands(k.partition(":")[2], v)}
            with open(temporary, "w") as file:
                json.dump(standing, file)
            os.replace(temporary, self._path)
        except OSError:
            pass

    @staticmethod
    def _stands(path: str, seen: list[int]) -> bool:
        return os.path.exists(path) and identity(path) == seen


def identity(path: str) -> list[int]:
    """What a file's stamp holds: device, inode, size, mtime and ctime in nanoseconds."""
    stat = os.stat(path, follow_symlinks=False)
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def sha256_of(path: str) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    import hashlib

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()
