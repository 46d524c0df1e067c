"""What a build is asked for, checked before anything is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..errors import UsageError
from ..manifest import OBJECTIVES, Limits, is_name
from ..tasks import BUILT_IN

MADE = ("mapped", "unpacked", "packed", "ort")
"""The variants beside ``portable`` that are made without being asked for."""

ACCELERATED = {"cuda": ("cuda", "fp16"), "tensorrt": ("cuda", "fp16", "tensorrt")}
"""Those that a provider asks for: its own, and what runs where its own does not."""


def name_of(model: str) -> str:
    """A name from the source's: the file's, or the folder's where every export has the same file name."""
    stem, extension = os.path.splitext(os.path.basename(model.rstrip("/")))
    if os.path.isdir(model) or not extension:
        stem += extension
    if stem in ("model", "model_optimized", "model_quantized", "onnx"):
        folder = os.path.dirname(model)
        stem = os.path.basename(folder)
        if stem in ("onnx", "model"):
            stem = os.path.basename(os.path.dirname(folder))
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem).lstrip("._-")
    return plain[:64] if is_name(plain[:64]) else "model"


def wanted_variants(
    only: Sequence[str], quantize: str | None, provider: str | None = None
) -> tuple[str, ...]:
    unknown = [name for name in only if name not in MADE]
    if unknown:
        raise UsageError(f"there is no variant {unknown[0]!r} to make; there are {', '.join(MADE)}")
    chosen = tuple(name for name in MADE if name in only) if only else MADE
    return (*chosen, *([quantize] if quantize else []), *(ACCELERATED[provider] if provider else ()))


def check(
    name: str | None,
    task: str | None,
    objective: str,
    quantize: str | None,
    tolerance: float,
    rounds: int,
    limits: Mapping[str, int | bool],
    provider: str | None = None,
    timings: str | None = None,
) -> None:
    if name is not None and not is_name(name):
        raise UsageError(
            f"the name {name!r} must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    if task is not None and task not in BUILT_IN:
        raise UsageError(f"there is no task {task!r}; the tasks are {', '.join(BUILT_IN)}")
    if objective not in OBJECTIVES:
        raise UsageError(f"the objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
    if quantize not in (None, "int8"):
        raise UsageError(f"quantize must be int8, not {quantize!r}")
    if provider is not None and provider not in ACCELERATED:
        raise UsageError(f"the provider must be one of {', '.join(ACCELERATED)}, not {provider!r}")
    if timings is not None and provider != "tensorrt":
        raise UsageError("--timing-cache is TensorRT's: give --provider tensorrt too")
    if not 0 < tolerance < float("inf"):
        raise UsageError(f"the tolerance must be a number above 0, not {tolerance}")
    if not 1 <= rounds <= 100:
        raise UsageError(f"rounds must lie between 1 and 100, not {rounds}")
    for field, value in limits.items():
        if field not in Limits._fields:
            raise UsageError(f"there is no limit {field!r}; the limits are {', '.join(Limits._fields)}")
        if type(value) is not type(Limits._field_defaults[field]) or (type(value) is int and value < 0):
            kind = "true or false" if field == "nonfinite" else "a whole number >= 0"
            raise UsageError(f"the limit {field} must be {kind}, not {value!r}")
