import numpy as np
import pytest

from preheat.errors import InvalidRequestError, TooLargeError
from preheat.manifest import Limits, TensorSpec
from preheat.tensors import check_inputs, check_shape, drift, pack, unpack

X = TensorSpec("x", "FP32", ("batch", 3))


def test_pack_keeps_every_type() -> None:
    tensors = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "i": np.array(-5, dtype=np.int64),
        "b": np.array([True, False]),
        "h": np.array([1.5], dtype=np.float16),
        "s": np.array([["ä", ""], ["b", "c"]], dtype=object),
        "e": np.empty((0, 4), dtype=np.int8),
    }
    read = unpack(pack(tensors))
    assert list(read) == list(tensors)
    assert drift(read, tensors) == 0.0
    assert pack(tensors) == pack(tensors)
    assert read["s"][0, 0] == "ä".encode()


@pytest.mark.parametrize("cut", [0, 3, 10, -1])
def test_a_cut_file_is_refused(cut: int) -> None:
    data = pack({"x": np.arange(4, dtype=np.float32)})
    with pytest.raises(InvalidRequestError, match=r"not a file of tensors|takes 16 bytes"):
        unpack(data[:cut])


@pytest.mark.parametrize(
    ("shape", "error", "said"),
    [
        ([1, 4], InvalidRequestError, "axis 1 must be 3"),
        ([3], InvalidRequestError, "rank must be 2"),
        ([0, 3], InvalidRequestError, "axis 0 is empty"),
        ([-1, 3], InvalidRequestError, "whole number"),
        ([True, 3], InvalidRequestError, "whole number"),
        ([2**62, 2**62, 3], TooLargeError, "over the limit"),
        ([1] * 9, TooLargeError, "rank 9 is over"),
        ([11, 3], TooLargeError, "a batch of 11"),
        ([1000, 3], TooLargeError, "elements are over"),
    ],
)
def test_shapes_are_held_against_the_model_before_allocation(
    shape: list[int], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        check_shape(X, shape, Limits(batch=10, elements=100))


def test_inputs_are_held_against_the_model_by_name() -> None:
    good = np.zeros((1, 3), dtype=np.float32)
    check_inputs([X], {"x": good}, Limits())
    with pytest.raises(InvalidRequestError, match=r"missing: 'x'; unknown: 'y'"):
        check_inputs([X], {"y": good}, Limits())
    with pytest.raises(InvalidRequestError, match="must be FP32, not FP64"):
        check_inputs([X], {"x": good.astype(np.float64)}, Limits())
    with pytest.raises(InvalidRequestError, match="NaN or infinite"):
        check_inputs([X], {"x": good * np.nan}, Limits())
    check_inputs([X], {"x": good * np.nan}, Limits(nonfinite=True))


def test_drift_is_relative_to_the_largest_magnitude() -> None:
    want = {"y": np.array([100.0, 1.0])}
    assert drift({"y": np.array([100.0, 2.0])}, want) == pytest.approx(0.01)
    assert drift(want, want) == 0.0
    assert drift({"y": np.array([100.0])}, want) == float("inf")
    assert drift({}, want) == float("inf")
    assert drift({"y": np.array([np.nan, 1.0])}, want) == float("inf")
    nan = {"y": np.array([np.nan, 1.0])}
    assert drift(nan, nan) == 0.0
    assert drift({"y": np.array([1])}, {"y": np.array([2])}) == float("inf")
    assert drift({"y": np.array(["a"], dtype=object)}, {"y": np.array([b"a"], dtype=object)}) == 0.0
    assert drift({}, {"y": np.array([1.0])}, names=[]) == 0.0
