"""An artifact as a task sees it: a manifest, and assets at paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from preheat.download import Artifact
from preheat.manifest import Limits, Manifest, TensorSpec

from ..test_manifest import manifest as any_manifest


class FakeArtifact(Artifact):
    """Assets lie where they lie; nothing is downloaded, nothing verified."""

    def __init__(self, manifest: Manifest, assets: dict[str, Path]) -> None:
        self.manifest = manifest
        self.files = assets

    def asset(self, role: str) -> str | None:
        return str(self.files[role]) if role in self.files else None


def artifact(
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    *,
    options: dict[str, Any] | None = None,
    assets: dict[str, Path] | None = None,
    **limits: int,
) -> FakeArtifact:
    return FakeArtifact(
        any_manifest(
            inputs=tuple(inputs), outputs=tuple(outputs), options=options or {}, limits=Limits(**limits)
        ),
        assets or {},
    )


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path
