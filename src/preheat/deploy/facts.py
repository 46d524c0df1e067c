"""What is known of a TARGET before it is deployed: its manifest, its size, where it will be opened from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from .. import manifest as manifests
from ..choice import rank
from ..errors import UsageError
from ..fingerprint import usable_cpus
from ..function import target as function_of
from ..manifest import Manifest, Variant
from ..providers import NVIDIA
from ..settings import Settings
from ..stores import open_folder
from ..stores.reference import parse

X86_64, ARM64 = "x86_64", "arm64"
ARCHITECTURES = (X86_64, ARM64)
"""As AWS names them."""
_UNAME = {X86_64: "x86_64", ARM64: "aarch64"}


class Facts(NamedTuple):
    """An artifact, and how a function gets at it."""

    location: str
    """As it was named."""
    manifest: Manifest
    home: str
    """The folder of the ``app.py``, absolute; empty where the target names none."""
    stored: bool
    """Whether it is fetched from a store when an instance starts; else it lies in the function's package."""
    alias: str
    """The alias by which a store's reference names it; empty where it names a version, or a folder."""

    @property
    def bytes(self) -> int:
        """All of the artifact, as a package holds it."""
        return sum(file.size for file in self.manifest.files)

    def opened(self, variant: Variant) -> int:
        """Bytes that an instance fetches from a store to open a variant: its files, assets, golden ones."""
        paths = {*variant.files, *self.manifest.assets.values()}
        paths |= {path for golden in self.manifest.golden for path in golden}
        return sum(file.size for file in self.manifest.files if file.path in paths)

    def fitting(
        self, architecture: str, objective: str = "", *, gpu: bool = False
    ) -> tuple[list[Variant], list[Variant]]:
        """The variants that an architecture may open, best first, and those made for another. ``gpu``:
        whether there is one; else those that need it are in neither."""
        ranked = rank(self.manifest, objective or self.manifest.objective)
        ranked = [v for v in ranked if gpu or v.requires.provider not in NVIDIA]
        fits = [v for v in ranked if v.requires.arch in (None, _UNAME[architecture])]
        return fits, [v for v in ranked if v not in fits]

    @property
    def architecture(self) -> str:
        """The architecture that its variants were made for, by AWS's name; x86_64 where none says."""
        made = {v.requires.arch for v in self.manifest.variants} - {None}
        return ARM64 if made == {_UNAME[ARM64]} else X86_64

    @property
    def threads(self) -> int:
        """Threads that the figures were measured with."""
        measured = self.manifest.measurements.get("threads")
        return measured if isinstance(measured, int) and measured > 0 else usable_cpus()


def read(location: str, environ: Mapping[str, str]) -> Facts:
    """What a TARGET is: an artifact folder, an ``app.py``, or a store's reference, whose manifest alone is
    fetched. Raises UsageError, ArtifactError, ManifestError; StoreError for an alias that is missing.
    """
    if "://" in location:
        return _stored(location, environ)
    location = os.path.abspath(location)
    environ = {**environ, "PREHEAT_ARTIFACT": location}
    function = function_of(location, environ)
    home = os.path.dirname(location) if location.endswith(".py") else ""
    above = os.path.dirname(location)
    if not home and os.path.basename(location) == "artifact" and os.path.isfile(f"{above}/app.py"):
        home = above
    store = open_folder(function.location)
    manifest = manifests.load(store.read(manifests.FILENAME, manifests.MAX_BYTES))
    return Facts(location, manifest, home, stored=False, alias="")


def _stored(location: str, environ: Mapping[str, str]) -> Facts:
    from ..stores.layout import read_version, resolve
    from ..stores.object import Bucket, Deadline

    reference = parse(location)
    timeout_s = Settings.from_environ({**environ, "PREHEAT_ARTIFACT": location}).fetch_timeout
    bucket = Bucket(reference.root, Deadline(timeout_s))
    found = resolve(bucket, reference)
    manifest, _ = read_version(bucket, reference.name, found.version)
    return Facts(location, manifest, "", stored=True, alias="" if found.alias is None else reference.selector)


def check_architecture(name: str) -> str:
    """An architecture by AWS's name. Raises UsageError for another."""
    if name not in ARCHITECTURES:
        raise UsageError(f"the architecture must be one of {', '.join(ARCHITECTURES)}, not {name!r}")
    return name
