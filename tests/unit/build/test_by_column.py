from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from preheat.build import by_column

K, N = 48, 64
ONES = np.ones((3, K), dtype=np.float32)


def save(folder: Path, nodes: Sequence[Any], weights: dict[str, np.ndarray[Any, Any]]) -> Path:
    """A model of ``nodes`` that makes ``y`` of ``x`` [rows, K], its weights in a file of their own."""
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.weights", size_threshold=1024)
    return path


def matrix(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(shape[0]).standard_normal(shape, dtype=np.float32)


def answer(path: Path, x: np.ndarray[Any, Any] = ONES) -> np.ndarray[Any, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = ort.InferenceSession(str(path), options).run(None, {"x": x})
    found: np.ndarray[Any, Any] = y
    return found


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5, transB=0),
        helper.make_node("FusedMatMul", ["x", "w"], ["y"], alpha=2.0, domain=by_column.FUSED),
        helper.make_node("FusedGemm", ["x", "w"], ["y"], activation="Relu", domain=by_column.FUSED),
    ],
    ids=lambda node: str(node.op_type),
)
def test_a_product_reads_its_columns_one_after_another(tmp_path: Path, node: Any) -> None:
    w = matrix(K, N)
    path = save(tmp_path, [node], {"w": w})
    if node.domain:
        proto = onnx.load(path, load_external_data=False)
        proto.opset_import.append(helper.make_opsetid(node.domain, 1))
        onnx.save(proto, path)
    before = answer(path)

    assert by_column.lay_out(str(path)) == 1

    stored = np.fromfile(tmp_path / "model.weights", dtype="<f4")
    assert np.array_equal(stored[: w.size].reshape(N, K), w.T)
    assert np.array_equal(answer(path), before)
    assert by_column.lay_out(str(path)) == 0
    assert np.array_equal(answer(path), before)


def test_a_matrix_of_several_products_is_turned_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["y"]),
    ]
    path = save(tmp_path, nodes, {"w": matrix(K, K)})
    before = answer(path)

    assert by_column.lay_out(str(path)) == 1
    assert np.array_equal(answer(path), before)


def left_alone() -> dict[str, tuple[list[Any], dict[str, np.ndarray[Any, Any]]]]:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    yes = np.array(True)
    return {
        "transposed already": ([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": matrix(N, K)}),
        "small": ([product], {"w": matrix(K, 2)}),
        "of three axes": ([product], {"w": matrix(1, K, N)}),
        "read by something else": (
            [
                product,
                helper.make_node("ReduceSum", ["w"], ["z"], keepdims=0),
            ],
            {"w": matrix(K, N)},
        ),
        "the first operand": (
            [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["w", "t"], ["y"])],
            {"w": matrix(N, K)},
        ),
        "in a subgraph, too": (
            [
                helper.make_node("MatMul", ["x", "w"], ["outer"]),
                helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch),
                helper.make_node("Add", ["outer", "z"], ["y"]),
            ],
            {"w": matrix(K, N), "yes": yes},
        ),
    }


@pytest.mark.parametrize("case", left_alone())
def test_what_else_reads_a_matrix_finds_it_as_it_was(tmp_path: Path, case: str) -> None:
    nodes, weights = left_alone()[case]
    path = save(tmp_path, nodes, weights)
    files = [path, tmp_path / "model.weights"]
    before = [file.read_bytes() if file.exists() else b"" for file in files]

    assert by_column.lay_out(str(path)) == 0
    assert [file.read_bytes() if file.exists() else b"" for file in files] == before


def test_a_weight_that_a_caller_may_give_stays(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": matrix(K, N)})
    proto = onnx.load(path, load_external_data=False)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [K, N]))
    onnx.save(proto, path)

    assert by_column.lay_out(str(path)) == 0
