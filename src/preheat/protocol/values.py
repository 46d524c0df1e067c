"""JSON as clients send it, and the arrays it stands for.

Nothing is guessed and nothing wraps around: a number that its data type cannot hold, a boolean where a number
is meant or a literal that JSON does not have is refused. Work on numbers is done in C (``map``, ``min``,
numpy), never element by element.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from types import NoneType
from typing import Any

import numpy as np

from ..errors import InvalidRequestError, UnprocessableError
from ..pauses import pause
from ..tensors import BY_V2, Array, Datatype, element_count
from . import strict_json

MAX_DIM = 2**63
"""The protocol's sizes are int64; longer ones are refused before they are multiplied."""

_COMPACT = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_AT_ONCE = 16 * 1024
"""Numbers that become an array's at once: nobody else is answered meanwhile."""

_INT, _FLOAT = frozenset({int}), frozenset({int, float})
_KINDS = {
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
    **{v2: _FLOAT if v2.startswith("FP") else _INT for v2 in BY_V2 if v2 not in ("BOOL", "BYTES")},
}
_KIND_NAMES = {
    bool: "booleans",
    int: "whole numbers",
    float: "numbers with a fraction",
    str: "strings",
    list: "lists",
    dict: "objects",
    NoneType: "nulls",
}


def dumps(document: Any) -> bytes:
    """Compact JSON. The document must hold finite numbers only."""
    return strict_json.dumps(document, _COMPACT).encode()


def shown(value: object) -> str:
    """What a client sent, as an error message may show it: short, on one line, printable."""
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return str(value) if abs(value) < 1e18 else "a very large number"
    return "a list" if isinstance(value, list) else "an object"


def dimensions(value: object, where: str) -> list[int]:
    """A shape as JSON gives it. Raises InvalidRequestError."""
    if not isinstance(value, list):
        raise InvalidRequestError(f"{where} must be a list of sizes, not {shown(value)}")
    for dim in value:
        if type(dim) is not int or not 0 <= dim < MAX_DIM:
            raise InvalidRequestError(
                f"{where}: a size must be a whole number from 0 to 2^63-1, not {shown(dim)}"
            )
    return value


def to_array(
    data: object, datatype: Datatype, shape: Sequence[int], name: str, *, use_up: bool = False
) -> Array:
    """The array of a shape from JSON data, flat in row-major order or nested as the shape says.

    The lists of large data are empty after that: millions of numbers are not let go of at once, either.
    The shape must have been held against the model (tensors.check_shape). Raises InvalidRequestError.
    """
    rows: Iterable[list[Any]] = _rows(data, shape, name)
    array = np.empty(element_count(shape, name), dtype=datatype.numpy)
    values = chain.from_iterable(_used_up(rows) if use_up else rows)
    done = 0
    while some := list(islice(values, _AT_ONCE)):
        array[done : done + len(some)] = _converted(some, datatype, name)
        done += len(some)
        if done < len(array):
            pause()
    return array.reshape(shape)


def _converted(some: list[Any], datatype: Datatype, name: str) -> Array:
    kinds = set(map(type, some))
    if not kinds <= _KINDS[datatype.v2]:
        wanted = " or ".join(_KIND_NAMES[kind] for kind in sorted(_KINDS[datatype.v2], key=str, reverse=True))
        got = " and ".join(sorted(_KIND_NAMES[kind] for kind in kinds - _KINDS[datatype.v2]))
        raise InvalidRequestError(f"tensor {name!r}: {datatype.v2} takes {wanted}, and the data holds {got}")
    if datatype.v2 == "BYTES":
        return _strings(some, name)
    if datatype.v2.startswith("FP"):
        return _floats(some, datatype, name)
    if datatype.v2 != "BOOL":
        low, high = int_range(datatype)
        if min(some) < low or max(some) > high:
            raise InvalidRequestError(
                f"tensor {name!r}: {datatype.v2} holds {low} to {high}, and the data goes beyond"
            )
    return np.array(some, dtype=datatype.numpy)


def to_list(array: Array, name: str, *, nested: bool) -> list[Any]:
    """The JSON data of an output, nested by its shape or flat in row-major order.

    Raises UnprocessableError (``nonfinite_output``, ``binary_output``) for values that JSON cannot hold.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnprocessableError(
            f"output {name!r} holds NaN or infinite values, which JSON cannot; ask for it as binary data",
            code="nonfinite_output",
        )
    if array.dtype.kind in "OSU":
        try:
            texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
        except UnicodeDecodeError:
            raise UnprocessableError(
                f"output {name!r} holds bytes that are not UTF-8, which JSON cannot; ask for binary data",
                code="binary_output",
            ) from None
        array = np.array(texts, dtype=object).reshape(array.shape)
    values: list[Any] = array.tolist() if nested else array.ravel().tolist()
    return values


def int_range(datatype: Datatype) -> tuple[int, int]:
    """The lowest and the highest value of an integer type."""
    bits = 8 * datatype.size
    return (0, 2**bits - 1) if datatype.v2.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _rows(data: object, shape: Sequence[int], name: str) -> list[list[Any]]:
    """The data's innermost lists, which together hold as many elements as the shape."""
    if not isinstance(data, list):
        raise InvalidRequestError(f"tensor {name!r}: the data must be a list, not {shown(data)}")
    rows: list[Any] = [data]
    if len(shape) > 1 and data and isinstance(data[0], list):
        for axis, dim in enumerate(shape):
            if set(map(type, rows)) - {list} or set(map(len, rows)) - {dim}:
                raise InvalidRequestError(
                    f"tensor {name!r}: the nested data does not have the shape {list(shape)} (axis {axis})"
                )
            if axis < len(shape) - 1:
                rows = list(chain.from_iterable(rows))
    count, sent = element_count(shape, name), sum(map(len, rows))
    if sent != count:
        raise InvalidRequestError(
            f"tensor {name!r}: shape {list(shape)} holds {count} elements, and {sent} were sent"
        )
    return rows


def _used_up(rows: Iterable[list[Any]]) -> Iterator[list[Any]]:
    for row in rows:
        if len(row) <= _AT_ONCE:
            yield row
        else:
            pieces = [row[start : start + _AT_ONCE] for start in range(0, len(row), _AT_ONCE)]
            row.clear()
            yield from _used_up(pieces)
        row.clear()


def _floats(flat: list[Any], datatype: Datatype, name: str) -> Array:
    # JSON has no infinity: one that appears here comes from a number that the type cannot hold (1e999).
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(flat, dtype=np.float64).astype(datatype.numpy, copy=False)
        fits = bool(np.isfinite(array).all())
    except OverflowError:  # an integer beyond the largest double
        fits = False
    if not fits:
        raise InvalidRequestError(f"tensor {name!r}: a number is too large for {datatype.v2}")
    return array


def _strings(flat: list[str], name: str) -> Array:
    array = np.empty(len(flat), dtype=object)
    try:
        array[:] = [text.encode() for text in flat]
    except UnicodeEncodeError:
        raise InvalidRequestError(f"tensor {name!r}: a string has half of a surrogate pair") from None
    return array
