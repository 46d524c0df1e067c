"""All that can be said of an artifact: what it holds, whether it is whole, what would run here."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .. import fingerprint
from .. import manifest as manifests
from ..choice import rank
from ..download import layout_problems, sha256_of
from ..manifest import OBJECTIVES, Manifest
from ..stores.local import LocalStore
from . import manifest_text


class Inspection(NamedTuple):
    path: str
    manifest: Manifest
    refused: dict[str, str]
    """Variants whose requirements do not hold on this machine, each with its reason."""
    ranking: dict[str, list[str]]
    """Objective -> variants, best first."""
    problems: list[str]
    """What is wrong with the files; empty where the artifact is whole."""

    def chosen(self, objective: str) -> str | None:
        """The variant that would run here."""
        return next((name for name in self.ranking[objective] if name not in self.refused), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the manifest's own document, and what was found out about it."""
        document = json.loads(manifest_text.dump(self.manifest))
        return {
            "path": self.path,
            "ok": not self.problems,
            "problems": self.problems,
            "refused": self.refused,
            "ranking": self.ranking,
            "chosen": {objective: self.chosen(objective) for objective in OBJECTIVES},
            **document,
        }


def inspect(path: str, *, hashed: bool = True) -> Inspection:
    """Read the manifest and look at every file. ``hashed``: hold each against its digest too.

    Raises ArtifactError or ManifestError where there is no manifest that can be read; what is wrong with the
    files is collected, not raised.
    """
    store = LocalStore(path)
    manifest = manifests.load(store.read(manifests.FILENAME, manifests.MAX_BYTES))
    machine = fingerprint.with_runtime(fingerprint.machine())
    reasons = {variant.name: machine.refuses(variant.requires) for variant in manifest.variants}
    return Inspection(
        path=store.root,
        manifest=manifest,
        refused={name: reason for name, reason in reasons.items() if reason is not None},
        ranking={o: [variant.name for variant in rank(manifest, o)] for o in OBJECTIVES},
        problems=_problems(store, manifest, hashed),
    )


def _problems(store: LocalStore, manifest: Manifest, hashed: bool) -> list[str]:
    """Every file that is missing, extra, special, of another size or changed."""
    wrong = dict(layout_problems(store, manifest))
    if hashed:
        for file in manifest.files:
            if file.path not in wrong and sha256_of(store.local(file.path)) != file.sha256:
                wrong[file.path] = "was changed: its sha256 is not the manifest's"
    return [f"{path} {problem}" for path, problem in sorted(wrong.items())]
