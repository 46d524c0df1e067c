from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.errors import InvalidRequestError, RequestError, TooLargeError, UnprocessableError
from preheat.manifest import TensorSpec
from preheat.tasks.tensors import RawTensors

from .artifacts import artifact

INPUTS = [
    TensorSpec("x", "FP32", ("batch", 2)),
    TensorSpec("n", "INT8", ()),
    TensorSpec("s", "BYTES", (None,)),
    TensorSpec("free", "BOOL", None),
]
TASK = RawTensors(artifact(INPUTS, [TensorSpec("y", "FP32", None)], batch=4, rank=3, elements=50))
GOOD: dict[str, Any] = {"x": [[1, 2.5], [3, 4]], "n": -7, "s": ["a", "ü"], "free": [[[True]]]}


def test_nested_lists_become_the_models_tensors() -> None:
    tensors = TASK.prepare({"inputs": GOOD})
    assert [(name, str(a.dtype), a.shape) for name, a in tensors.items()] == [
        ("x", "float32", (2, 2)),
        ("n", "int8", ()),
        ("s", "object", (2,)),
        ("free", "bool", (1, 1, 1)),
    ]
    assert tensors["s"].tolist() == [b"a", "ü".encode()]
    assert tensors["n"] == -7


def test_a_protocol_body_is_taken_too() -> None:
    shapes = {"x": [2, 2], "n": [], "s": [2], "free": [1, 1, 1]}
    body = [
        {"name": s.name, "shape": shapes[s.name], "datatype": s.dtype, "data": GOOD[s.name]} for s in INPUTS
    ]
    body[1]["data"] = [-7]
    tensors, natural = TASK.prepare({"inputs": body}), TASK.prepare({"inputs": GOOD})
    assert all(np.array_equal(tensors[name], natural[name]) for name in natural)
    with pytest.raises(InvalidRequestError, match="the model also takes 'n', 's', 'free'"):
        TASK.prepare({"inputs": body[:1]})


def test_outputs_are_nested_lists() -> None:
    outputs = {"y": np.array([[1.5, 2]], dtype=np.float32), "t": np.array([b"a", "b"], dtype=object)}
    answer = TASK.finish(outputs, {})
    assert json.loads(json.dumps(answer)) == {"outputs": {"y": [[1.5, 2]], "t": ["a", "b"]}}
    with pytest.raises(UnprocessableError, match="ask for it as binary data"):
        TASK.finish({"y": np.array([np.nan], dtype=np.float32)}, {})


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"x": 1}, InvalidRequestError, "tensor 'x': rank must be 2"),
        ({"x": [1, 2]}, InvalidRequestError, "tensor 'x': rank must be 2"),
        ({"x": [[1, 2], [3]]}, InvalidRequestError, "nested data does not have the shape"),
        ({"x": [[1, 2, 3]]}, InvalidRequestError, "axis 1 must be 2"),
        ({"x": [[1, "2"]]}, InvalidRequestError, "the data holds strings"),
        ({"x": []}, InvalidRequestError, "tensor 'x': rank must be 2"),
        ({"x": [[]]}, InvalidRequestError, "axis 1 must be 2"),
        ({"x": [[1, 2]] * 5}, TooLargeError, "a batch of 5"),
        ({"n": 300}, InvalidRequestError, "INT8 holds -128 to 127"),
        ({"n": True}, InvalidRequestError, "the data holds booleans"),
        ({"n": None}, InvalidRequestError, "the data holds nulls"),
        ({"n": [1]}, InvalidRequestError, "rank must be 0"),
        ({"free": [[[[True]]]]}, TooLargeError, "rank 4 is over the limit"),
        ({"free": [True] * 51}, TooLargeError, "51 elements are over"),
        ({"z": [1]}, InvalidRequestError, "the model takes 'x', 'n', 's', 'free'; 'z' is not one of them"),
    ],
)
def test_wrong_tensors_are_refused_by_name(change: dict[str, Any], error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        TASK.prepare({"inputs": {**GOOD, **change}})


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (None, "object with the field 'inputs', not null"),
        ({"x": []}, "no field 'inputs'"),
        ({"inputs": 3}, "inputs must be an object of name to data, not 3"),
        ({"inputs": {}}, "'x' is missing"),
        ({"inputs": [3]}, "inputs must be a list of objects"),
    ],
)
def test_wrong_requests_are_refused(request_: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        TASK.prepare(request_)


def test_nesting_as_deep_as_json_can_be_is_refused() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(TooLargeError, match="rank 4 is over the limit"):
        TASK.prepare({"inputs": {**GOOD, "free": deep}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(JSON | st.fixed_dictionaries({"inputs": JSON}), st.sampled_from([s.name for s in INPUTS]), JSON)
def test_no_request_raises_anything_else(request_: Any, name: str, value: Any) -> None:
    for attempt in (request_, {"inputs": {**GOOD, name: value}}):
        try:
            tensors = TASK.prepare(attempt)
        except RequestError:
            continue
        assert set(tensors) == {spec.name for spec in INPUTS}
