"""Which functions are up, by name: found in the arguments of the command, or in the current folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .. import manifest as manifests
from ..errors import UsageError
from ..settings import Settings
from ..stores import Reference, open_store

CONTROL = "_preheat"
"""The gateway's own first segment, which no function can have."""


class Found(NamedTuple):
    name: str
    """The first segment of its routes."""
    location: str
    """What PREHEAT_ARTIFACT is for its instances: an ``app.py`` or an artifact's folder, absolute; a store's
    URL."""
    environ: Mapping[str, str]
    """The environment of its instances."""
    settings: Settings

    @property
    def lacks(self) -> str:
        """What its first start will miss, as far as one look tells; empty for nothing."""
        beside = os.path.join(os.path.dirname(self.location), "artifact")
        if self.location.endswith(".py") and not os.path.exists(beside):
            return f"there is no {beside}; `preheat build SOURCE -o {beside}` makes it"
        return ""


def find(targets: Sequence[str], environ: Mapping[str, str]) -> list[Found]:
    """The functions that are named, or ``functions/*/app.py`` where none is. Raises UsageError for what is no
    function and for two of one name, SettingsError, ArtifactError."""
    here = sorted(str(path) for path in Path("functions").glob("*/app.py"))
    locations = [_location(target) for target in targets or here]
    if not locations:
        raise UsageError(
            "there is no functions/*/app.py here: name an app.py, a function's folder or an artifact's"
        )
    found: dict[str, Found] = {}
    for location in locations:
        name = _name(location)
        if name in found:
            raise UsageError(f"{location} and {found[name].location} are both called {name!r}")
        if name == CONTROL or not manifests.is_name(name):
            raise UsageError(f"{location}: {name!r} cannot be a function's name")
        own = {key: value for key, value in environ.items() if key not in ("PORT", "PREHEAT_PORT")}
        own["PREHEAT_ARTIFACT"] = location
        found[name] = Found(name, location, own, Settings.from_environ(own))
    return list(found.values())


def _location(target: str) -> str:
    if "://" in target:
        return target
    path = Path(os.path.abspath(target))
    if path.is_dir():
        for inner in (path / "app.py", path / "artifact"):
            if not (path / manifests.FILENAME).exists() and inner.exists():
                return str(inner)
        if not (path / manifests.FILENAME).exists():
            raise UsageError(f"{target} holds neither app.py nor {manifests.FILENAME}")
    elif not path.exists():
        raise UsageError(f"{target} does not exist")
    elif path.suffix != ".py":
        raise UsageError(f"{target} is no folder and no app.py")
    return str(path)


def _name(location: str) -> str:
    if location.endswith(".py"):
        return os.path.basename(os.path.dirname(location))
    place = open_store(location)
    if isinstance(place, Reference):
        return place.name
    return manifests.load(place.read(manifests.FILENAME, manifests.MAX_BYTES)).name
