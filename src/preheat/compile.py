"""The compile phase: open the session of a variant."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from .download import Artifact
from .engine import Engine, open_session
from .manifest import Manifest, Variant
from .providers import NVIDIA

if TYPE_CHECKING:
    from .device_weights import Ahead, Ready


def compile(artifact: Artifact, variant: Variant, *, threads: int, ahead: Ahead | None = None) -> Engine:
    """Open a variant, its files verified. ``ahead``: who makes the device ready beside the imports.

    Raises IntegrityError or EngineError.
    """
    path, manifest = artifact.path(variant.model), artifact.manifest
    # What the task and the warm-up read, too: nothing of an artifact that was changed makes a session.
    artifact.require(manifest.read_with(variant))
    ready = None if ahead is None else ahead.take(variant)
    if ahead is not None and ready is not None:
        try:
            return opened(path, manifest, variant, threads=threads, ready=ready)
        except Exception as error:  # of whatever library: without what was made ready it may open
            ahead.drop(ready, f"the session does not open with it: {error}")
    elif variant.requires.provider in NVIDIA:
        from . import device  # nothing of it is needed on a CPU

        device.require(manifest.device_mib(variant), f"variant {variant.name!r}")
    return opened(path, manifest, variant, threads=threads)


def opened(
    path: str, manifest: Manifest, variant: Variant, *, threads: int, ready: Ready | None = None
) -> Engine:
    """A variant's model file as an engine; as a CUDA graph where the variant is one. ``ready``: weights that
    lie on the device, for as long as the session lives. Raises EngineError."""
    if ready is None:
        session = open_session(path, variant, threads=threads)
    else:
        weights = ready.initializers()
        session = open_session(path, variant, threads=threads, initializers=weights)
        # onnxruntime keeps addresses of both. A process that ends gives the device's memory back by itself.
        weakref.finalize(session, _free, ready, weights).atexit = False
    if variant.provider_options:
        from .bound import BoundSession, captures

        if captures(variant):
            session = BoundSession(session, manifest)
    return Engine(session, manifest, variant)


def _free(ready: Ready, weights: dict[str, object]) -> None:
    ready.free()
    weights.clear()
