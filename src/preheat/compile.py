"""The compile phase: open the session of a variant."""

from __future__ import annotations

from .download import Artifact
from .engine import Engine, open_session
from .manifest import Variant


def compile(artifact: Artifact, variant: Variant, *, threads: int) -> Engine:
    """Open a variant, its files verified. Raises IntegrityError or EngineError."""
    artifact.require(variant.files)
    session = open_session(artifact.path(variant.model), variant, threads=threads)
    return Engine(session, artifact.manifest, variant)
