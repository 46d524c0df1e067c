"""Inputs for the golden inferences: natural requests, a recipe's, or made up from the input specifications.

Made-up inputs climb a ladder: sizes for the free axes, then kinds of values, until the model accepts one.
They are seeded by the input's name, so that the same model gets the same inputs in every build.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UsageError
from ..manifest import TensorSpec
from ..tensors import BY_V2, Array

SIZES = (16, 1, 512, 128, 8, 2, 3, 4, 32, 64, 256, 224, 576, 1024)
"""Sizes for free axes that nothing is known about, in the order in which they are tried."""
VALUES = ("usual", "positive", "ones", "zeros")
MOST_ELEMENTS = 4 * 1024 * 1024
"""A made-up tensor is not larger than this."""

_PYTHON = b"""import sys


def greet(name: str) -> str:
    return f"Hello, {name}!"


print(greet(sys.argv[1]))
"""
_STATE = re.compile(r"(^|[^a-z])([hc]\d?|(state|hidden|cell|past|cache)\w*)$")
_TEXT = "A model that starts hot answers its first request as fast as its second."


class Recipe(NamedTuple):
    """A recipe file: how often each golden inference is run at warm-up, and what is asked."""

    runs: int = 1
    requests: tuple[Any, ...] = ()
    """Natural requests of the task."""
    inputs: tuple[list[Any], ...] = ()
    """Lists of tensors as in the Open Inference Protocol's JSON."""


def read_recipe(path: str) -> Recipe:
    """Read a recipe file. Raises UsageError that says what is wrong with it."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"the recipe {path} must hold an object with 'requests' or 'inputs'")
    unknown = sorted(set(document) - {"runs", "requests", "inputs", "comment"})
    if unknown:
        raise UsageError(f"the recipe {path} has unknown fields: {', '.join(unknown)}")
    runs = document.get("runs", 1)
    if not isinstance(runs, int) or isinstance(runs, bool) or not 1 <= runs <= 1000:
        raise UsageError(f"the recipe {path}: 'runs' must be a whole number from 1 to 1000")
    found: dict[str, tuple[Any, ...]] = {}
    for key in ("requests", "inputs"):
        value = document.get(key, [])
        if not isinstance(value, list) or (key == "inputs" and not all(isinstance(v, list) for v in value)):
            kind = "a list" if key == "requests" else "a list of lists of tensors"
            raise UsageError(f"the recipe {path}: {key!r} must be {kind}")
        found[key] = tuple(value)
    if bool(found["requests"]) == bool(found["inputs"]):
        raise UsageError(f"the recipe {path} must have either 'requests' or 'inputs', at least one of them")
    return Recipe(runs, found["requests"], found["inputs"])


def natural_request(task: str) -> Any:
    """A request that every model of a built-in task can answer; None for tasks that take tensors."""
    return {
        "text_embedding": {"input": _TEXT},
        "text_classification": {"input": _TEXT},
        "image_classification": {"image": base64.b64encode(picture(64, 48)).decode()},
        "filetype": {"content": base64.b64encode(_PYTHON).decode()},
    }.get(task)


def picture(width: int, height: int) -> bytes:
    """A PNG of that size: a colour gradient, the same bytes every time (PNG specification, RFC 2083)."""
    rows = b"".join(
        b"\0" + b"".join(bytes((255 * x // width, 255 * y // height, 128)) for x in range(width))
        for y in range(height)
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def made_up(specs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    """Candidates for a model's inputs, the most likely first."""
    tried: set[tuple[Any, ...]] = set()
    for sizes in _ladder(specs):
        shapes = _shapes(specs, sizes)
        if shapes is None:
            continue
        for style in VALUES:
            key = (style, *shapes.items())
            if key not in tried:
                tried.add(key)
                yield {spec.name: _values(spec, shapes[spec.name], style, sizes) for spec in specs}


# Free axes. A symbol is one group wherever it stands; an axis without a symbol is a group of its own.


def _ladder(specs: Sequence[TensorSpec]) -> Iterator[dict[str, int]]:
    """Sizes for every group of free axes: first the likely ones, then all to one size, then combinations."""
    likely: dict[str, int | None] = {}
    for spec in specs:
        for axis, dim in enumerate(spec.shape or ()):
            for group in _terms(spec, axis, dim):
                if likely.get(group) is None:
                    likely[group] = _likely(spec, axis, group)
    for size in SIZES:
        yield {group: guess or size for group, guess in likely.items()}
    for size in SIZES:
        yield dict.fromkeys(likely, size)
    groups = list(likely)
    for combination in itertools.product(SIZES[:6], repeat=min(len(groups), 4)):
        yield {
            **{group: guess or 1 for group, guess in likely.items()},
            **dict(zip(groups, combination, strict=False)),
        }


def _terms(spec: TensorSpec, axis: int, dim: int | str | None) -> list[str]:
    """The groups whose sizes add up to an axis: "past + sequence" has two, a number none."""
    if isinstance(dim, int):
        return []
    if dim is None:
        return [f"{spec.name}[{axis}]"]
    return [term for term in _sum(dim) if not term.isdigit()]


def _sum(symbol: str) -> list[str]:
    """Exporters write sums as text: ``past_sequence_length + 1``."""
    terms = [term.strip() for term in symbol.split("+")]
    return terms if all(terms) else [symbol]


def _likely(spec: TensorSpec, axis: int, group: str) -> int | None:
    """What a free axis most likely means, by its symbol, its place and its input's name; None: no idea."""
    symbol = group.lower() if isinstance(spec.shape and spec.shape[axis], str) else ""
    for pattern, size in (("batch|beam", 1), ("channel", 3), ("height|width", 224), ("past", 4)):
        if re.search(pattern, symbol):
            return size
    rank = len(spec.shape or ())
    if axis == 0 and rank > 1:
        return 1
    if not symbol and _STATE.search(spec.name.lower()):
        return 1  # a state's free axis is the batch
    if rank == 4 and spec.dtype in ("FP32", "FP16", "FP64", "UINT8"):
        return 3 if axis == 1 else 224  # an image: batch, channels, height, width
    return None


def _shapes(specs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]] | None:
    """The inputs' shapes under these sizes; None where one would be too large."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        shape = []
        for axis, dim in enumerate(spec.shape or ()):
            if isinstance(dim, int):
                shape.append(dim)
            elif dim is None:
                shape.append(sizes[f"{spec.name}[{axis}]"])
            else:
                shape.append(sum(int(t) if t.isdigit() else sizes[t] for t in _sum(dim)))
        free = any(not isinstance(dim, int) for dim in spec.shape or ())
        if free and math.prod(shape) > MOST_ELEMENTS:
            return None
        shapes[spec.name] = tuple(shape)
    return shapes


# Values.


def _values(spec: TensorSpec, shape: tuple[int, ...], style: str, sizes: Mapping[str, int]) -> Array:
    name = spec.name.lower()
    generator = np.random.default_rng([7, *spec.name.encode()])
    if spec.dtype == "BYTES":
        text = {"zeros": b"0", "ones": b"1"}.get(style, b"hot start")
        return np.full(shape, text, dtype=object)
    dtype = np.dtype(BY_V2[spec.dtype].numpy)
    if style in ("zeros", "ones"):
        return np.full(shape, style == "ones", dtype=dtype)
    if dtype.kind == "b":
        return np.full(shape, "use_cache" not in name, dtype=dtype)
    if dtype.kind == "f":
        if "mask" in name:
            return np.ones(shape, dtype=dtype)
        drawn = generator.standard_normal(shape) if style == "usual" else generator.random(shape)
        return np.asarray(drawn, dtype=dtype)
    return _whole_numbers(name, shape, dtype, generator, sizes)


def _whole_numbers(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    generator: np.random.Generator,
    sizes: Mapping[str, int],
) -> Array:
    """What an integer input of that name usually holds, as far as its type goes."""
    if re.fullmatch(r"sr|.*sampl\w*_?rate", name):
        values = np.full(shape, 16000)
    elif "mask" in name:
        values = np.ones(shape, dtype=np.int64)
    elif "token_type" in name or "segment" in name:
        values = np.zeros(shape, dtype=np.int64)
    elif "position" in name and shape:
        values = np.broadcast_to(np.arange(shape[-1]), shape)
    elif re.search(r"(^|_)len(gths?)?$", name):
        values = np.full(shape, max(sizes.values(), default=1))
    else:
        # An index must lie in a vocabulary of unknown size; a byte may be anything.
        values = generator.integers(1, 256 if dtype == np.uint8 else 10, shape)
    highest = min(int(np.iinfo(dtype).max), 2**63 - 1)
    return np.asarray(np.minimum(values, highest), dtype=dtype)
