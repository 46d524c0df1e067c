"""A manifest as the JSON text that an artifact holds: a build writes it, ``manifest.py`` reads it."""

from __future__ import annotations

import json
from typing import Any

from ..manifest import SCHEMA, Manifest, TensorSpec, Variant, version_of


def dump(manifest: Manifest) -> str:
    """The manifest as JSON text, its version computed anew from its canonical part."""
    document = _document(manifest)
    document["version"] = version_of(document)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _document(m: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {"schema": SCHEMA}
    document.update(m._asdict())
    document["inputs"] = [_spec(s) for s in m.inputs]
    document["outputs"] = [_spec(s) for s in m.outputs]
    document["limits"] = m.limits._asdict()
    document["variants"] = [_variant(v) for v in m.variants]
    document["golden"] = [g._asdict() for g in m.golden]
    document["stable_outputs"] = list(m.stable_outputs)
    document["files"] = [f._asdict() for f in m.files]
    return document


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {**spec._asdict(), "shape": None if spec.shape is None else list(spec.shape)}


def _variant(variant: Variant) -> dict[str, Any]:
    """What only a GPU's variant has is left out elsewhere, so that others keep the version that they had."""
    requires = _plain(variant.requires._asdict())
    for name in ("gpu", "driver", "libraries"):
        if requires[name] is None:
            del requires[name]
    record = {**variant._asdict(), "files": list(variant.files), "requires": requires}
    if not variant.provider_options:
        del record["provider_options"]
    return record


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}
