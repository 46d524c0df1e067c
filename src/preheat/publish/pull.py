"""Pull: a published artifact into a folder, whole and verified, or not at all."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from ..build.place import Place
from ..errors import StoreError
from ..phases import PhaseClock
from ..remote import open_remote
from ..settings import Settings
from ..stores.reference import parse
from .progress import Progress


class Pulled(NamedTuple):
    reference: str
    version: str
    folder: str
    files: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def pull(location: str, out: str, settings: Settings, *, progress: Progress | None = None) -> Pulled:
    """Fetch every file of a published artifact. What lay at ``out`` before is replaced if it is an artifact.

    Raises UsageError, StoreError or IntegrityError; then ``out`` is as it was.
    """
    progress = progress or Progress()
    reference = parse(location)
    place = Place(out)
    with place.staging() as staging:
        # A cache of its own: its folder becomes the artifact, and the links to it go with the rest.
        artifact = open_remote(
            reference,
            settings,
            cache_dir=staging,
            clock=PhaseClock(),
            progress=progress.advance,
        )
        files = artifact.manifest.files
        progress.begin("fetching", sum({file.sha256: file.size for file in files}.values()))
        artifact.require([file.path for file in files])
        folder = artifact.path("").rstrip("/")
        try:
            for file in files:
                os.chmod(artifact.path(file.path), 0o644)
        except OSError as error:
            raise StoreError(f"{out} cannot be written: {error.strerror}", code="cache") from error
        place.commit(folder)
        artifact.close()
    return Pulled(str(reference), artifact.version, place.path, len(files), sum(file.size for file in files))
