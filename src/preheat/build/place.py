"""Where an artifact is put: built beside its place, moved there whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from .. import manifest as manifests
from ..errors import BuildError, ManifestError, UsageError
from . import manifest_text

RENAME_EXCHANGE = 2
"""renameat2(2): swap two paths in one step."""


class Place:
    """A folder to be written. Raises UsageError where something lies there that is not an artifact."""

    def __init__(self, out: str) -> None:
        self.path = os.path.realpath(out)
        self._refuse_what_is_not_ours()

    @contextmanager
    def staging(self) -> Iterator[str]:
        """A new folder beside the place, removed again unless it was committed."""
        parent = os.path.dirname(self.path)
        try:
            os.makedirs(parent, exist_ok=True)
            folder = tempfile.mkdtemp(prefix=f".{os.path.basename(self.path)}.building-", dir=parent)
        except OSError as error:
            raise BuildError(f"nothing can be written in {parent}: {error.strerror}") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # after a commit: the artifact that was replaced

    def commit(self, folder: str) -> None:
        """Put a staging folder in place; what lay there takes the staging folder's place."""
        self._refuse_what_is_not_ours()  # building took a while: look again
        _let_others_read(folder)
        try:
            if not os.path.lexists(self.path):
                os.rename(folder, self.path)
            elif not os.listdir(self.path):
                os.rename(folder, self.path)  # rename(2) replaces an empty folder
            elif not _exchange(folder, self.path):
                aside = folder + ".replaced"
                os.rename(self.path, aside)
                try:
                    os.rename(folder, self.path)
                except OSError:
                    os.rename(aside, self.path)
                    raise
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise BuildError(f"{self.path} cannot be written: {error.strerror}") from None

    def _refuse_what_is_not_ours(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not os.path.isdir(self.path):
            raise UsageError(f"{self.path} is a file; give -o a folder")
        foreign = _foreign(self.path)
        if foreign:
            raise UsageError(
                f"{self.path} {foreign}, and building there would delete what it holds; "
                "give -o another folder, or move it away"
            )


def _foreign(folder: str) -> str:
    """Why a folder may not be replaced, in words; "" where it is empty or holds an artifact and no more."""
    if not os.listdir(folder):
        return ""
    try:
        with open(os.path.join(folder, manifests.FILENAME), "rb") as file:
            document = json.loads(file.read(manifests.MAX_BYTES))
        listed = {entry["path"] for entry in document["files"]}
        schema = document["schema"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "is not an artifact"
    if not isinstance(schema, int):
        return "is not an artifact"
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/")
            if path != manifests.FILENAME and path not in listed:
                return f"holds {path}, which is not part of the artifact"
    return ""


def _exchange(one: str, other: str) -> bool:
    """Swap two paths in one step, so that no reader ever finds neither. False where it is not supported."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    at_cwd = -100
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), RENAME_EXCHANGE) == 0)


def _let_others_read(folder: str) -> None:
    """Modes as new files and folders have them: what was moved here may be its owner's only."""
    mask = _umask()
    for root, _, names in os.walk(folder):
        os.chmod(root, 0o777 & ~mask)
        for name in names:
            os.chmod(os.path.join(root, name), 0o666 & ~mask)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_manifest(folder: str, manifest: manifests.Manifest) -> manifests.Manifest:
    """Write ``manifest.json``; gives the manifest as a reader will see it, version included."""
    text = manifest_text.dump(manifest)
    try:
        read_back = manifests.load(text.encode())
    except ManifestError as error:
        raise BuildError(f"the manifest would not be readable: {error}") from error
    with open(os.path.join(folder, manifests.FILENAME), "w", encoding="utf-8") as file:
        file.write(text)
    return read_back
