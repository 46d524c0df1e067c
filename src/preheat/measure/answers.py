"""Is an answer the right one? Held against what the build recorded, within the artifact's tolerance."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from ..errors import PreheatError
from ..manifest import Manifest
from .client import Response


def natural(response: Response, manifest: Manifest) -> str | None:
    """What is wrong with the answer to the manifest's sample request; None for a correct one."""
    assert manifest.sample is not None  # noqa: S101 - the caller sent it
    wrong = _status(response)
    if wrong is not None:
        return wrong
    try:
        got = json.loads(response.body)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    return differs(got, manifest.sample["answer"], manifest.tolerance)


def differs(got: Any, want: Any, tolerance: float) -> str | None:
    """Where two JSON values differ, in words; None where they do not.

    Numbers that stand at the same place of a list's items are one quantity: each may be off by ``tolerance``
    times that quantity's largest magnitude, as tensors.drift has it for an output. All else must be equal.
    """
    largest: dict[str, float] = {}
    _magnitudes(want, "answer", largest)
    return _differs(got, want, "answer", "answer", largest, tolerance)


def _magnitudes(value: Any, quantity: str, largest: dict[str, float]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _magnitudes(item, f"{quantity}.{key}", largest)
    elif isinstance(value, list):
        for item in value:
            _magnitudes(item, quantity, largest)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        largest[quantity] = max(largest.get(quantity, 0.0), abs(value))


def _differs(
    got: Any, want: Any, where: str, quantity: str, largest: dict[str, float], tolerance: float
) -> str | None:
    if isinstance(want, dict):
        if not isinstance(got, dict) or got.keys() != want.keys():
            return f"{where} must have the fields {', '.join(want)}"
        pairs = [(got[key], item, f"{where}.{key}", f"{quantity}.{key}") for key, item in want.items()]
    elif isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return f"{where} must be a list of {len(want)}"
        pairs = [(got[i], item, f"{where}[{i}]", quantity) for i, item in enumerate(want)]
    elif isinstance(want, int | float) and not isinstance(want, bool):
        if not isinstance(got, int | float) or isinstance(got, bool):
            return f"{where} must be a number"
        allowed = tolerance * max(largest[quantity], 1e-12)
        off = abs(got - want)
        return None if off <= allowed else f"{where} is {got:.6g}, which is {off:.3g} off {want:.6g}"
    else:
        same = type(got) is type(want) and got == want
        return None if same else f"{where} is {str(got)[:80]!r}, not {str(want)[:80]!r}"
    return next((found for pair in pairs if (found := _differs(*pair, largest, tolerance))), None)


def binary(response: Response, manifest: Manifest, golden_outputs: bytes) -> str | None:
    """What is wrong with an Open Inference Protocol answer whose outputs are all binary; None: nothing.

    ``golden_outputs``: the content of a file written by tensors.pack.
    """
    wrong = _status(response)
    if wrong is not None:
        return wrong
    length = response.headers.get("inference-header-content-length", "")
    try:
        end = int(length)
        entries = json.loads(response.body[:end])["outputs"]
        sizes = [int(entry["parameters"]["binary_data_size"]) for entry in entries]
        names = [str(entry["name"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return "the answer is not an inference response with binary outputs"
    return _outputs(_cut(response.body[end:], sizes), names, manifest, golden_outputs)


def framed(response: Response, manifest: Manifest, golden_outputs: bytes) -> str | None:
    """What is wrong with the floor's answer: raw outputs, each behind its length."""
    wrong = _status(response)
    if wrong is not None:
        return wrong
    parts, at = [], 0
    while at < len(response.body):
        (size,) = struct.unpack_from("<Q", response.body, at)
        parts.append(response.body[at + 8 : at + 8 + size])
        at += 8 + size
    return _outputs(parts, [spec.name for spec in manifest.outputs], manifest, golden_outputs)


def _status(response: Response) -> str | None:
    if response.status == 200:
        return None
    return f"status {response.status}: {response.body[:300].decode(errors='replace')}"


def _cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts


def _outputs(
    parts: Sequence[bytes], names: Sequence[str], manifest: Manifest, golden_outputs: bytes
) -> str | None:
    from ..tensors import datatype_of, drift, from_bytes, unpack  # numpy, only after the last start

    golden = unpack(golden_outputs)
    if len(parts) != len(names) or set(names) != set(golden):
        return f"the answer must have the outputs {', '.join(golden)}"
    got = {}
    for name, part in zip(names, parts, strict=True):
        want = golden[name]
        if name in manifest.stable_outputs:
            try:
                got[name] = from_bytes(part, datatype_of(want), want.shape, name)
            except PreheatError as error:
                return f"output {name!r} has another shape: {error}"
    off = drift(got, golden, manifest.stable_outputs)
    return None if off <= manifest.tolerance else f"the outputs are {off:.3g} off the golden ones"
