"""The compile phase: open the session of a variant."""

from __future__ import annotations

from .download import Artifact
from .engine import Engine, open_session
from .manifest import Manifest, Variant
from .providers import NVIDIA


def compile(artifact: Artifact, variant: Variant, *, threads: int) -> Engine:
    """Open a variant, its files verified. Raises IntegrityError or EngineError."""
    manifest = artifact.manifest
    # What the task and the warm-up read, too: nothing of an artifact that was changed makes a session.
    golden = (path for pair in manifest.golden for path in pair)
    artifact.require((*variant.files, *manifest.assets.values(), *golden))
    if variant.requires.provider in NVIDIA:
        from . import device  # nothing of it is needed on a CPU

        device.require(device_mib(artifact.manifest, variant), f"variant {variant.name!r}")
    return opened(artifact.path(variant.model), artifact.manifest, variant, threads=threads)


def opened(path: str, manifest: Manifest, variant: Variant, *, threads: int) -> Engine:
    """A variant's model file as an engine; as a CUDA graph where the variant is one. Raises EngineError."""
    session = open_session(path, variant, threads=threads)
    if variant.provider_options:
        from .bound import BoundSession, captures

        if captures(variant):
            session = BoundSession(session, manifest)
    return Engine(session, manifest, variant)


def device_mib(manifest: Manifest, variant: Variant) -> float:
    """MiB of the GPU's memory that a variant takes, as the build measured it; else at least its weights."""
    measured = manifest.measured(variant.name, "device_mib")
    return measured or sum(file.size for file in manifest.files if file.path in variant.files) / (1 << 20)
