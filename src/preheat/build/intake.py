"""The source, taken into the artifact: checked or exported, copied as `portable`, its assets with it."""

from __future__ import annotations

import os
import shutil
from typing import Any, NamedTuple

from ..download import sha256_of
from ..manifest import File, Variant
from . import assets, export, isolated, source, variants
from .progress import Progress, Step

EXPORT_TIMEOUT = 3600.0
"""Seconds."""

FOLDER = "variants/portable"


class Model(NamedTuple):
    """The source, taken into the artifact as its portable variant."""

    variant: Variant
    unranked: tuple[str, ...]
    facts: dict[str, Any]
    """The manifest's ``source``."""
    task: str
    options: dict[str, Any]
    assets: dict[str, str]
    """Role -> path in the artifact."""
    notes: tuple[str, ...]


def take(model: str, root: str, task: str | None, files: Files, progress: Progress) -> Model:
    """Check the source, export it if it is a model folder, and put it into the artifact."""
    if os.path.isdir(model):
        wanted = export.plan(model, task)
        progress(Step("exporting to ONNX"))
        exported = os.path.join(root, ".export")
        how = isolated.call(
            "preheat.build.export",
            {"folder": wanted.folder, "hf_task": wanted.hf_task, "target": exported},
            timeout=EXPORT_TIMEOUT,
        )
        checked = source.check(os.path.join(exported, how["model"]))
        folders = [*dict.fromkeys((model, wanted.folder)), exported]
        task, digest = wanted.task, wanted.digest
        facts = {"format": "huggingface", "exporter": how["exporter"], "architecture": wanted.architecture}
        notes = tuple(how["notes"])
    else:
        progress(Step("checking the model"))
        checked = source.check(model)
        folders = [checked.folder, os.path.dirname(checked.folder)]
        task, digest = task or "tensors", ""
        facts = {"format": "onnx", "exporter": checked.producer}
        notes = ()
    found = assets.find(task, folders)
    progress(Step("copying the model"))
    file = source.copy(checked, os.path.join(root, FOLDER), move=os.path.isdir(model))
    added = [files.add(f"{FOLDER}/{name}") for name in (file, *checked.data)]
    facts["digest"] = digest or _digest(added)
    kept = {}
    for role, path in found.assets.items():
        kept[role] = f"assets/{os.path.basename(path)}"
        os.makedirs(os.path.join(root, "assets"), exist_ok=True)
        shutil.copyfile(path, os.path.join(root, kept[role]))
    shutil.rmtree(os.path.join(root, ".export"), ignore_errors=True)
    return Model(
        variant=variants.portable(f"{FOLDER}/{file}", tuple(f"{FOLDER}/{n}" for n in checked.data)),
        unranked=checked.unranked,
        facts={**facts, "opset": checked.opset, "ir_version": checked.ir_version},
        task=task,
        options=found.options,
        assets=kept,
        notes=notes,
    )


class Files:
    """The artifact's files, each hashed once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._known: dict[str, File] = {}

    def add(self, path: str) -> File:
        if path not in self._known:
            full = os.path.join(self.root, path)
            self._known[path] = File(path, os.path.getsize(full), sha256_of(full))
        return self._known[path]

    def remove(self, path: str) -> None:
        self._known.pop(path, None)
        os.remove(os.path.join(self.root, path))

    def all(self) -> tuple[File, ...]:
        return tuple(self._known[path] for path in sorted(self._known))


def _digest(files: list[File]) -> str:
    """The digest of a model: that of its one file, or that over all of its files' digests and names."""
    import hashlib

    if len(files) == 1:
        return f"sha256:{files[0].sha256}"
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
