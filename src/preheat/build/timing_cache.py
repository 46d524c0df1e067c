"""TensorRT's timing cache of an artifact that was built before, as an input of the next build.

While an engine is built, kernels are tried one after the other, which takes minutes; the cache holds what
each took. It is a file of the artifact, beside the engine. What it holds of one architecture of GPUs and one
TensorRT says nothing of another, so it is taken where the engine beside it would run.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from .. import manifest as manifests
from ..download import sha256_of
from ..errors import BuildError, PreheatError, UsageError
from ..fingerprint import Fingerprint

SUFFIX = ".timing"
NONE = "none"
"""In place of a path: build as if there were no cache."""


class TimingCache(NamedTuple):
    path: str
    """The file to copy."""
    name: str
    """What onnxruntime looks for in the folder where it builds an engine."""
    origin: str
    """Where it comes from, for people."""


def find(given: str | None, replaced: str, machine: Fingerprint) -> tuple[TimingCache | None, str]:
    """The cache to begin with, and a note where the one of the artifact that is replaced does not fit.

    ``given``: a cache's file, an artifact's folder, ``"none"``, or None for the artifact in ``replaced``, if
    there is one. Raises UsageError or BuildError where what was given cannot be used.
    """
    if given == NONE:
        return None, ""
    if given is not None:
        path = os.path.abspath(given)
        if os.path.isfile(path) and os.path.getsize(path):
            return TimingCache(
                path, name_for(machine), os.path.basename(path)
            ), ""  # TensorRT itself says whether it fits
        if not os.path.exists(os.path.join(path, manifests.FILENAME)):
            raise UsageError(
                f"--timing-cache takes a timing cache's file, an artifact or none; {path} is neither"
            )
        try:
            found = of_artifact(path, machine)
        except (PreheatError, OSError) as error:
            raise BuildError(f"the timing cache of {path} cannot be used: {error}") from error
        if found is None:
            raise BuildError(f"{path} has no timing cache: it was built without --provider tensorrt")
        return found, ""
    try:
        found = of_artifact(replaced, machine)
        return found and found._replace(origin="the artifact that was replaced"), ""
    except FileNotFoundError:
        return None, ""
    except (PreheatError, OSError) as error:
        return None, f"the timing cache of the artifact that was replaced was not used: {error}"


def of_artifact(folder: str, machine: Fingerprint) -> TimingCache | None:
    """An artifact's timing cache; None where it has none.

    Raises BuildError where it does not fit this machine or is not what the manifest says, ManifestError and
    OSError where the artifact cannot be read.
    """
    with open(os.path.join(folder, manifests.FILENAME), "rb") as file:
        manifest = manifests.load(file.read(manifests.MAX_BYTES))
    variant = manifest.variant("tensorrt")
    listed = [path for path in variant.files if path.endswith(SUFFIX)] if variant else []
    if variant is None or not listed:
        return None
    # Neither onnxruntime nor the CPU is in it: a new onnxruntime is what a build is most often repeated for.
    reason = machine.refuses(variant.requires._replace(arch=None, isa=None, onnxruntime=None))
    if reason:
        raise BuildError(reason)
    path = os.path.join(folder, listed[0])
    entry = manifest.file(listed[0])
    if entry is None or sha256_of(path) != entry.sha256:
        raise BuildError(f"{path} was changed since it was built")
    return TimingCache(path, name_for(machine), os.path.basename(folder))


def name_for(machine: Fingerprint) -> str:
    """onnxruntime's name of the file (GetTimingCachePath in tensorrt_execution_provider_utils.h)."""
    return f"TensorrtExecutionProvider_cache_{machine.gpu.replace('_', '')}{SUFFIX}"
