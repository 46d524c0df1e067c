"""Tensors by name: the Open Inference Protocol's data types, their packing, and the checks before a run.

A ``Tensors`` maps an input's or output's name to its array. Strings are object arrays of ``bytes`` or
``str``; on the wire and in files each element is a 4-byte little-endian length and its bytes.
Source of the names and of the packing: Open Inference Protocol v2, binary tensor data extension.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from .errors import InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from .manifest import Limits, TensorSpec

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Tensors: TypeAlias = Mapping[str, Array]


class Padding(NamedTuple):
    """How a request's rows are made as long as others: along axis 1 of every input."""

    fill: dict[str, int]
    """By input."""
    left: bool
    """Whether the filling goes before the row's own."""


class Datatype(NamedTuple):
    """One tensor type under its three names."""

    v2: str
    """Open Inference Protocol."""
    onnx: str
    """As onnxruntime prints it inside ``tensor(…)``."""
    numpy: str
    """numpy's type string, little-endian."""
    size: int
    """Bytes of one element; 0 for strings."""


_TYPES = (
    Datatype("BOOL", "bool", "|b1", 1),
    Datatype("UINT8", "uint8", "|u1", 1),
    Datatype("UINT16", "uint16", "<u2", 2),
    Datatype("UINT32", "uint32", "<u4", 4),
    Datatype("UINT64", "uint64", "<u8", 8),
    Datatype("INT8", "int8", "|i1", 1),
    Datatype("INT16", "int16", "<i2", 2),
    Datatype("INT32", "int32", "<i4", 4),
    Datatype("INT64", "int64", "<i8", 8),
    Datatype("FP16", "float16", "<f2", 2),
    Datatype("FP32", "float", "<f4", 4),
    Datatype("FP64", "double", "<f8", 8),
    Datatype("BYTES", "string", "|O", 0),
)
BY_V2 = {t.v2: t for t in _TYPES}
BY_ONNX = {t.onnx: t for t in _TYPES}


def datatype_of(array: Array) -> Datatype:
    """The type of an array that a session took or gave. Raises InvalidRequestError for any other."""
    if array.dtype.kind in "OSU":
        return BY_V2["BYTES"]
    for t in _TYPES:
        if t.size and np.dtype(t.numpy) == array.dtype:
            return t
    raise InvalidRequestError(f"arrays of type {array.dtype} have no name in the protocol")


def to_bytes(array: Array) -> bytes:
    """The raw little-endian bytes of an array in C order; strings length-prefixed."""
    if array.dtype.kind not in "OSU":
        return array.astype(datatype_of(array).numpy, copy=False).tobytes()
    parts = []
    for item in array.ravel():
        data = item if isinstance(item, bytes) else str(item).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def from_bytes(data: bytes | memoryview, datatype: Datatype, shape: Sequence[int], name: str) -> Array:
    """The inverse of to_bytes. ``shape`` is trusted only as far as ``data`` bears it out.

    Raises InvalidRequestError where the bytes do not hold exactly the elements of the shape.
    """
    count = element_count(shape, name)
    if datatype.size:
        if len(data) != count * datatype.size:
            raise InvalidRequestError(
                f"tensor {name!r}: shape {list(shape)} of {datatype.v2} takes {count * datatype.size} bytes, "
                f"and {len(data)} were sent"
            )
        if datatype.v2 == "BOOL" and np.frombuffer(data, dtype=np.uint8).max(initial=0) > 1:
            raise InvalidRequestError(f"tensor {name!r}: a boolean is a byte of 0 or 1")
        return np.frombuffer(data, dtype=datatype.numpy).reshape(shape)
    if 4 * count > len(data):
        raise InvalidRequestError(f"tensor {name!r}: {len(data)} bytes cannot hold {count} strings")
    items, at, view = [], 0, memoryview(data)
    for _ in range(count):
        (length,) = struct.unpack_from("<I", view, at) if at + 4 <= len(view) else (-1,)
        at += 4
        if length < 0 or at + length > len(view):
            raise InvalidRequestError(f"tensor {name!r}: a string's length points past the end of the data")
        items.append(bytes(view[at : at + length]))
        at += length
    if at != len(view):
        raise InvalidRequestError(f"tensor {name!r}: {len(view) - at} bytes follow the last string")
    array = np.empty(count, dtype=object)
    array[:] = items
    return array.reshape(shape)


def element_count(shape: Sequence[int], name: str) -> int:
    """The product of a shape in unbounded integers, so that it cannot overflow."""
    count = 1
    for dim in shape:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 0:
            raise InvalidRequestError(
                f"tensor {name!r}: a dimension must be a whole number >= 0, not {dim!r}"
            )
        count *= dim
    return count


def check_shape(spec: TensorSpec, shape: Sequence[int], limits: Limits) -> int:
    """Hold a client's shape against the model's and the limits; give the number of elements.

    Called before anything of that size is allocated. Raises InvalidRequestError or TooLargeError.
    """
    name = spec.name
    if len(shape) > limits.rank:
        raise TooLargeError(f"tensor {name!r}: rank {len(shape)} is over the limit of {limits.rank}")
    count = element_count(shape, name)
    if count > limits.elements:
        raise TooLargeError(f"tensor {name!r}: {count} elements are over the limit of {limits.elements}")
    if spec.shape is None:
        return count
    if len(shape) != len(spec.shape):
        raise InvalidRequestError(
            f"tensor {name!r}: rank must be {len(spec.shape)} ({_shown(spec.shape)}), not {len(shape)}"
        )
    for axis, (got, want) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(want, int) and got != want:
            raise InvalidRequestError(
                f"tensor {name!r}: axis {axis} must be {want} ({_shown(spec.shape)}), not {got}"
            )
        if not isinstance(want, int) and got == 0:
            raise InvalidRequestError(f"tensor {name!r}: axis {axis} is empty; send at least one element")
    if spec.shape and not isinstance(spec.shape[0], int) and shape[0] > limits.batch:
        raise TooLargeError(f"tensor {name!r}: a batch of {shape[0]} is over the limit of {limits.batch}")
    return count


def check_inputs(specs: Sequence[TensorSpec], inputs: Tensors, limits: Limits) -> None:
    """Everything a session would refuse, refused first and by name.

    Raises InvalidRequestError or TooLargeError; the message says what was expected.
    """
    wanted = {spec.name: spec for spec in specs}
    unknown = sorted(set(inputs) - set(wanted))
    missing = [name for name in wanted if name not in inputs]
    if unknown or missing:
        raise InvalidRequestError(
            f"the model takes {', '.join(map(repr, wanted))}"
            + (f"; missing: {', '.join(map(repr, missing))}" if missing else "")
            + (f"; unknown: {', '.join(map(repr, unknown))}" if unknown else "")
        )
    for name, array in inputs.items():
        spec = wanted[name]
        check_shape(spec, array.shape, limits)
        got = datatype_of(array).v2
        if got != spec.dtype:
            raise InvalidRequestError(f"tensor {name!r}: the data type must be {spec.dtype}, not {got}")
        if array.dtype.kind == "f" and not limits.nonfinite and not np.isfinite(array).all():
            raise InvalidRequestError(f"tensor {name!r} holds NaN or infinite values")


def check_answer(array: Array, name: str, limits: Limits) -> None:
    """Hold a tensor that a client asked for against the limits, before it is encoded: its bytes are copied,
    and a number in JSON takes fifty. Raises TooLargeError (``answer_too_large``)."""
    if array.size > limits.elements:
        raise TooLargeError(
            f"output {name!r} has {array.size} elements, over the limit of {limits.elements}: send "
            "fewer inputs at a time",
            code="answer_too_large",
        )


def drift(got: Tensors, want: Tensors, names: Sequence[str] | None = None) -> float:
    """How far answers are from the wanted ones: the largest absolute difference of any output, over that
    output's largest magnitude. 0.0 is equal; infinite where shapes, strings, NaN positions or the set of
    outputs differ. Integers, booleans and strings must be equal.
    """
    worst = 0.0
    for name in want if names is None else names:
        if name not in got or got[name].shape != want[name].shape:
            return float("inf")
        a, b = got[name], want[name]
        if b.dtype.kind != "f":
            same = (
                np.array_equal(_as_bytes(a), _as_bytes(b)) if b.dtype.kind in "OSU" else np.array_equal(a, b)
            )
            if not same:
                return float("inf")
            continue
        if b.size == 0:
            continue
        finite = np.isfinite(b)
        if not np.array_equal(np.isfinite(a), finite) or not np.array_equal(
            a[~finite], b[~finite], equal_nan=True
        ):
            return float("inf")
        if finite.any():
            x, y = a[finite].astype(np.float64), b[finite].astype(np.float64)
            worst = max(worst, float(np.abs(x - y).max() / max(float(np.abs(y).max()), 1e-12)))
    return worst


def _as_bytes(array: Array) -> Array:
    flat = np.array([i if isinstance(i, bytes) else str(i).encode() for i in array.ravel()], dtype=object)
    return flat.reshape(array.shape)


def _shown(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def pack(tensors: Tensors) -> bytes:
    """One file of tensors: header length (4 bytes, little-endian), JSON header, raw data one after another.

    The same tensors give the same bytes.
    """
    bodies = {name: to_bytes(array) for name, array in tensors.items()}
    header = json.dumps(
        [
            {"name": n, "datatype": datatype_of(a).v2, "shape": list(a.shape), "bytes": len(bodies[n])}
            for n, a in tensors.items()
        ],
        separators=(",", ":"),
    ).encode()
    return struct.pack("<I", len(header)) + header + b"".join(bodies.values())


def unpack(data: bytes) -> dict[str, Array]:
    """The inverse of pack. Raises InvalidRequestError where the bytes are not such a file."""
    try:
        (length,) = struct.unpack_from("<I", data)
        header = json.loads(data[4 : 4 + length])
        at, view, tensors = 4 + length, memoryview(data), {}
        for entry in header:
            size = entry["bytes"]
            body = view[at : at + size]
            tensors[entry["name"]] = from_bytes(body, BY_V2[entry["datatype"]], entry["shape"], entry["name"])
            at += size
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRequestError(f"not a file of tensors: {error}") from None
    if at != len(data):
        raise InvalidRequestError("not a file of tensors: its length does not match its header")
    return tensors
