"""PREHEAT_MODELS, read: which models it names, and where each lies. Nothing of them is opened but what says
their name: a folder's manifest, of a place in a store not even that.
"""

from __future__ import annotations

import os

from . import manifest as manifests
from .errors import ArtifactError, ManifestError, SettingsError
from .stores import Reference, open_store


def named(listing: str) -> dict[str, str]:
    """The models of PREHEAT_MODELS: where each lies, by name. A folder without a manifest stands for the
    artifacts in it.

    Raises what ``open_store`` and reading a manifest raise, and SettingsError for two of one name.
    """
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, listing.split(","))):
        for place in _artifacts(part):
            name = _name(place)
            if name in found:
                raise SettingsError(
                    f"PREHEAT_MODELS names two models {name!r}: {found[name]} and {place}; leave one out, or "
                    "build it with another --name"
                )
            found[name] = place
    return found


def _artifacts(place: str) -> list[str]:
    if "://" in place or not os.path.isdir(place) or os.path.exists(f"{place}/{manifests.FILENAME}"):
        return [place]
    try:
        inner = sorted(entry.path for entry in os.scandir(place))
    except OSError as error:
        raise ArtifactError(f"{place} cannot be listed: {error.strerror}") from None
    return [path for path in inner if os.path.exists(f"{path}/{manifests.FILENAME}")] or [place]


def _name(place: str) -> str:
    store = open_store(place)
    if isinstance(store, Reference):
        return store.name
    try:
        # Its version is held against its content when it is loaded.
        return manifests.load(store.read(manifests.FILENAME, manifests.MAX_BYTES), lambda _: True).name
    except ManifestError as error:
        raise ManifestError(f"{place}: {error}") from None
