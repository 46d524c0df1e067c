from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import InvalidRequestError, RequestError, UnprocessableError
from preheat.protocol.values import dimensions, int_range, shown, to_array, to_list
from preheat.tensors import BY_V2

INTEGERS = [t for t in BY_V2 if t.startswith(("INT", "UINT"))]
FLOATS = ["FP16", "FP32", "FP64"]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_taken_to_their_ends_and_not_beyond(name: str) -> None:
    low, high = int_range(BY_V2[name])
    array = to_array([low, 0, high], BY_V2[name], [3], "x")
    assert array.dtype == np.dtype(BY_V2[name].numpy)
    assert array.tolist() == [low, 0, high]
    assert (low, high) == (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    for beyond in (low - 1, high + 1, 10**30, -(10**30)):
        with pytest.raises(InvalidRequestError, match=f"{name} holds {low} to {high}"):
            to_array([0, beyond], BY_V2[name], [2], "x")


@pytest.mark.parametrize(
    ("name", "beyond"),
    [("FP16", 70000), ("FP16", -1e6), ("FP32", 1e39), ("FP64", 10**400), ("FP64", float("inf"))],
)
def test_numbers_too_large_for_a_float_are_refused(name: str, beyond: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"a number is too large for {name}"):
        to_array([0.5, beyond], BY_V2[name], [2], "x")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("BOOL", [1, 0], "BOOL takes booleans, and the data holds whole numbers"),
        ("INT64", [True, 2], "INT64 takes whole numbers, and the data holds booleans"),
        ("INT64", [1.0, 2], "the data holds numbers with a fraction"),
        (
            "FP32",
            [True, 2.5],
            "FP32 takes whole numbers or numbers with a fraction, and the data holds booleans",
        ),
        ("FP32", ["1", None], "the data holds nulls and strings"),
        ("FP32", [1, [2]], "the data holds lists"),
        ("BYTES", ["a", 1], "BYTES takes strings, and the data holds whole numbers"),
        ("BYTES", ["a", "\ud800"], "half of a surrogate pair"),
        ("FP32", [1, {}], "the data holds objects"),
        ("FP32", "12", "the data must be a list, not '12'"),
        ("FP32", {"0": 1}, "the data must be a list, not an object"),
        ("FP32", [1], r"shape \[2\] holds 2 elements, and 1 were sent"),
        ("FP32", [1, 2, 3], r"shape \[2\] holds 2 elements, and 3 were sent"),
    ],
)
def test_types_are_not_mixed_up(name: str, data: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        to_array(data, BY_V2[name], [2], "x")


def test_data_is_flat_or_nested_as_the_shape_says() -> None:
    flat = to_array([1, 2, 3, 4, 5, 6], BY_V2["INT8"], [2, 3], "x")
    nested = to_array([[1, 2, 3], [4, 5, 6]], BY_V2["INT8"], [2, 3], "x")
    assert np.array_equal(flat, nested)
    assert to_array([7], BY_V2["INT8"], [], "x").shape == ()
    assert to_array([[], []], BY_V2["FP32"], [2, 0], "x").shape == (2, 0)
    for wrong in (
        [[1, 2], [3, 4], [5, 6]],
        [[1, 2, 3], [4, 5]],
        [[1, 2, 3], 4],
        [[[1], [2], [3]], [[4], [5], [6]]],
    ):
        with pytest.raises(InvalidRequestError):
            to_array(wrong, BY_V2["INT8"], [2, 3], "x")
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(InvalidRequestError):
        to_array(deep, BY_V2["FP32"], [1, 1], "x")


SCALARS = {
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=5),
    "FP16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    **{name: st.integers(*int_range(BY_V2[name])) for name in INTEGERS},
}


@given(st.data(), st.sampled_from(sorted(SCALARS)), st.lists(st.integers(0, 3), max_size=3))
def test_what_goes_in_comes_out(data: st.DataObject, name: str, shape: list[int]) -> None:
    count = int(np.prod(shape, dtype=int))
    flat = data.draw(st.lists(SCALARS[name], min_size=count, max_size=count))
    array = to_array(flat, BY_V2[name], shape, "x")
    assert array.shape == tuple(shape)
    assert to_list(array, "x", nested=False) == flat
    if shape and count:
        assert np.array_equal(to_array(to_list(array, "x", nested=True), BY_V2[name], shape, "x"), array)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.sampled_from(sorted(BY_V2)), st.lists(st.integers(0, 3), max_size=3))
def test_no_data_raises_anything_else(data: Any, name: str, shape: list[int]) -> None:
    try:
        array = to_array(data, BY_V2[name], shape, "x")
    except RequestError:
        return
    assert array.shape == tuple(shape)


@given(JSON)
def test_anything_can_be_shown_on_one_short_line(value: Any) -> None:
    text = shown(value)
    assert len(text) < 500
    assert text.isprintable()


@given(JSON)
def test_shapes_are_lists_of_sizes(value: Any) -> None:
    try:
        sizes = dimensions(value, "shape")
    except RequestError:
        return
    assert all(type(size) is int and 0 <= size < 2**63 for size in sizes)


def test_sizes_that_no_array_can_have_are_refused() -> None:
    for size in (-1, 2**63, 10**5000, True, 1.0, "1", None, [1]):
        with pytest.raises(InvalidRequestError, match="size must be a whole number"):
            dimensions([1, size], "shape")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_json_cannot_hold_what_is_not_finite(bad: float) -> None:
    with pytest.raises(UnprocessableError, match="ask for it as binary data") as caught:
        to_list(np.array([1.0, bad], dtype=np.float32), "y", nested=False)
    assert caught.value.code == "nonfinite_output"


def test_json_cannot_hold_bytes_that_are_not_text() -> None:
    strings = np.array([b"a", "b", b"\xff"], dtype=object)
    assert to_list(strings[:2], "y", nested=True) == ["a", "b"]
    with pytest.raises(UnprocessableError) as caught:
        to_list(strings, "y", nested=True)
    assert caught.value.code == "binary_output"
