"""What CUDA graphs are run by, over the CPU's provider: the same binding, and no graph."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from preheat.bound import BoundSession, captures, fixed
from preheat.engine import Engine, open_session
from preheat.errors import RequestError
from preheat.manifest import Manifest, Requires, TensorSpec, Variant
from preheat.providers import CUDA, TENSORRT

from ..functional.build import models
from .test_manifest import manifest

PORTABLE = Variant("portable", "m.onnx", ("m.onnx",), "all", {}, Requires())


@pytest.fixture
def bound(tmp_path: Path) -> tuple[Engine, Engine]:
    """A model of one shape, bound and not."""
    built = models.linear(width=16)
    for value in (*built.graph.input, *built.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    path = models.save(built, tmp_path / "m.onnx")
    specs = {name: (TensorSpec(name, "FP32", (2, 16)),) for name in ("x", "y")}
    found: Manifest = manifest(inputs=specs["x"], outputs=specs["y"])
    session = open_session(str(path), PORTABLE, threads=1)
    return Engine(BoundSession(session, found, "cpu"), found, PORTABLE), Engine(session, found, PORTABLE)


def test_it_answers_as_a_session_does_and_keeps_no_answer(bound: tuple[Engine, Engine]) -> None:
    ours, theirs = bound
    first, second = (np.random.default_rng(seed).normal(size=(2, 16)).astype("f4") for seed in (1, 2))
    one = ours.run({"x": first})["y"]
    two = ours.run({"x": second})["y"]
    np.testing.assert_array_equal(one, theirs.run({"x": first})["y"])
    np.testing.assert_array_equal(two, theirs.run({"x": second})["y"])
    assert not np.array_equal(one, two)


def test_its_runs_do_not_meet(bound: tuple[Engine, Engine]) -> None:
    ours, theirs = bound
    feeds = [np.random.default_rng(seed).normal(size=(2, 16)).astype("f4") for seed in range(8)]
    wanted = [theirs.run({"x": x})["y"] for x in feeds]
    wrong: list[int] = []

    def ask(index: int) -> None:
        for _ in range(50):
            if not np.array_equal(ours.run({"x": feeds[index]})["y"], wanted[index]):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


def test_another_shape_is_refused_before_it(bound: tuple[Engine, Engine]) -> None:
    with pytest.raises(RequestError):
        bound[0].run({"x": np.zeros((1, 16), "f4")})


@pytest.mark.parametrize(
    ("spec", "has_one"),
    [
        (TensorSpec("x", "FP32", (1, 4)), True),
        (TensorSpec("x", "FP32", ()), True),
        (TensorSpec("x", "FP32", ("batch", 4)), False),
        (TensorSpec("x", "FP32", (1, None)), False),
        (TensorSpec("x", "FP32", None), False),
        (TensorSpec("x", "BYTES", (1,)), False),
    ],
)
def test_which_tensors_have_one_shape(spec: TensorSpec, has_one: bool) -> None:
    assert fixed([spec]) is has_one


def test_which_variants_are_graphs() -> None:
    def variant(provider: str, **options: str) -> Variant:
        return PORTABLE._replace(requires=Requires(provider), provider_options=options)

    assert captures(variant(CUDA, enable_cuda_graph="1"))
    assert captures(variant(TENSORRT, trt_cuda_graph_enable="1"))
    assert not captures(variant(CUDA))
    assert not captures(variant(CUDA, enable_cuda_graph="0"))
    assert not captures(variant(TENSORRT, enable_cuda_graph="1"))
    assert not captures(PORTABLE)
