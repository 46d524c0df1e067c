"""Whether rows may be run together: told from what the model does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from preheat.build.joining import rates
from preheat.manifest import Limits, TensorSpec


class Model:
    def __init__(self, answer: Any, shape: tuple[Any, ...] = ("n", 4), most: int = 256) -> None:
        self.manifest: Any = SimpleNamespace(
            inputs=(TensorSpec("x", "FP32", shape),),
            outputs=(TensorSpec("y", "FP32", ("n", 4)),),
            limits=Limits(batch=most),
            stable_outputs=("y",),
            tolerance=1e-4,
        )
        self.answer = answer

    def run(self, inputs: Any) -> Any:
        return {"y": self.answer(inputs["x"])}

    infer = run


X = {"x": np.array([[1.0, 2.0, 3.0, 4.0]], dtype=np.float32)}


def measured(model: Model) -> dict[str, float]:
    return rates(cast(Any, model), X, callers=2)


def test_rows_that_stand_alone_are_measured() -> None:
    found = measured(Model(lambda x: x * 2))
    assert list(found) == ["1", "2", "4", "8", "16"]
    assert found["16"] > found["1"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x - x.mean(axis=0),  # looks at its neighbours
        lambda x: x / np.abs(x).max(),  # a scale of all rows together, as dynamic quantisation has
        lambda x: x[::-1],  # another order
        lambda x: x.sum(axis=0, keepdims=True),  # one row for all
    ],
)
def test_rows_that_depend_on_each_other_are_not(answer: Any) -> None:
    assert measured(Model(answer)) == {}


def test_an_axis_that_is_not_free_is_not() -> None:
    assert measured(Model(lambda x: x, shape=(1, 4))) == {}


def test_no_more_rows_than_the_artifact_takes() -> None:
    assert list(measured(Model(lambda x: x, most=4))) == ["1", "2", "4"]
