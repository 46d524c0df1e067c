"""Facts about an artifact that was never built, with figures that a test can reckon with."""

from __future__ import annotations

from typing import Any

from preheat.deploy.facts import Facts
from preheat.manifest import File, Golden, Limits, Requires, Variant

from ..test_manifest import DIGEST, manifest

MIB = 1024 * 1024
FIGURES = {
    "portable": {"session_ms": 200, "first_ms": 10, "steady_ms": 8, "rss_mib": 300},
    "packed": {"session_ms": 50, "first_ms": 10, "steady_ms": 4, "rss_mib": 200},
}


def facts(*, home: str = "/f/m", arch: str | None = "x86_64", weights_mib: int = 20, **changes: Any) -> Facts:
    """Two variants: ``portable``, and ``packed``, the best, of two files; measured with two threads."""
    variants = (
        Variant("portable", "p/model.onnx", ("p/model.onnx",), "all", {}, Requires()),
        Variant(
            "packed",
            "k/model.onnx",
            ("k/model.onnx", "k/weights"),
            "disabled",
            {},
            Requires(arch=arch, isa=("avx2", "fma") if arch == "x86_64" else None),
        ),
    )
    sizes = {
        "p/model.onnx": 20 * MIB,
        "k/model.onnx": MIB,
        "k/weights": weights_mib * MIB,
        "g/in": 1,
        "g/out": 1,
    }
    rows = {
        name: {figure: {"median": value} for figure, value in row.items()} for name, row in FIGURES.items()
    }
    whole = manifest(
        version="sha256:" + "a" * 64,
        variants=variants,
        assets={},
        golden=(Golden("g/in", "g/out"),),
        limits=Limits(batch=16),
        files=tuple(File(path, size, DIGEST) for path, size in sizes.items()),
        measurements={"threads": 2, "variants": rows},
    )
    found = Facts("/f/m/artifact", whole, home, stored=False, alias="")
    return found._replace(**changes)
