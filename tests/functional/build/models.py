"""Small ONNX models, each with one thing in it that a builder can stumble over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F, I64, STR, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def tensor(name: str, kind: int, shape: list[int | str | None] | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weights(name: str, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng([seed, *name.encode()]).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(values / np.float32(np.sqrt(shape[0])), name)


def model(
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    initializers: list[Any] | None = None,
    *,
    opset: int = 17,
    domains: dict[str, int] | None = None,
    **more: Any,
) -> Any:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers or [])
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="tests", **more)


def save(built: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(built, str(path))
    return path


def linear(width: int = 64, depth: int = 3, seed: int = 0) -> Any:
    """A chain of MatMul and Relu: [batch, width] -> [batch, width]."""
    nodes, initializers, last = [], [], "x"
    for layer in range(depth):
        initializers.append(weights(f"w{layer}", width, width, seed=seed))
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = "y" if layer == depth - 1 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"m{layer}"], [last]))
    return model(nodes, [tensor("x", F, ["batch", width])], [tensor("y", F, ["batch", width])], initializers)


def several() -> Any:
    """Three inputs of three types that share a symbol, two outputs."""
    nodes = [
        helper.make_node("Where", ["mask", "a", "b"], ["chosen"]),
        helper.make_node("MatMul", ["chosen", "w"], ["scores"]),
        helper.make_node("ReduceSum", ["a"], ["total"], keepdims=0),
    ]
    inputs = [
        tensor("a", F, ["batch", "length"]),
        tensor("b", F, ["batch", "length"]),
        tensor("mask", BOOL, ["batch", "length"]),
    ]
    outputs = [tensor("scores", F, ["batch", 8]), tensor("total", F, [])]
    return model(nodes, inputs, outputs, [weights("w", 32, 8)])


def strings() -> Any:
    """Strings in, strings and numbers out."""
    nodes = [
        helper.make_node("Identity", ["text"], ["same"]),
        helper.make_node(
            "LabelEncoder",
            ["text"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["hot start", "cold start"],
            values_int64s=[7, 8],
            default_int64=-1,
        ),
    ]
    outputs = [tensor("same", STR, ["n"]), tensor("code", I64, ["n"])]
    return model(nodes, [tensor("text", STR, ["n"])], outputs, domains={"ai.onnx.ml": 2})


def control_flow() -> Any:
    """A Loop around an If; the weights hang in the If's branches."""

    def branch(name: str, seed: int) -> Any:
        nodes = [helper.make_node("MatMul", ["state", f"w_{name}"], [f"out_{name}"])]
        out = [tensor(f"out_{name}", F, ["batch", 64])]
        return helper.make_graph(nodes, name, [], out, [weights(f"w_{name}", 64, 64, seed=seed)])

    body = helper.make_graph(
        [
            helper.make_node("Mod", ["step", "two"], ["odd"]),
            helper.make_node("Cast", ["odd"], ["is_odd"], to=BOOL),
            helper.make_node(
                "If", ["is_odd"], ["next"], then_branch=branch("a", 1), else_branch=branch("b", 2)
            ),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "body",
        [tensor("step", I64, []), tensor("go_on", BOOL, []), tensor("state", F, ["batch", 64])],
        [tensor("still", BOOL, []), tensor("next", F, ["batch", 64])],
        [numpy_helper.from_array(np.array(2, dtype=np.int64), "two")],
    )
    nodes = [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)]
    inputs = [tensor("x", F, ["batch", 64])]
    times = numpy_helper.from_array(np.array(3, dtype=np.int64), "times")
    return model(nodes, inputs, [tensor("y", F, ["batch", 64])], [times])


def scan() -> Any:
    """A running sum: one state tensor through a Scan."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["sum_in", "row"], ["sum_out"]),
            helper.make_node("Identity", ["sum_out"], ["o"]),
        ],
        "body",
        [tensor("sum_in", F, [4]), tensor("row", F, [4])],
        [tensor("sum_out", F, [4]), tensor("o", F, [4])],
    )
    nodes = [helper.make_node("Scan", ["state", "rows"], ["stateN", "sums"], body=body, num_scan_inputs=1)]
    inputs = [tensor("state", F, [4]), tensor("rows", F, ["time", 4])]
    return model(nodes, inputs, [tensor("stateN", F, [4]), tensor("sums", F, ["time", 4])])


def decoder() -> Any:
    """A decoder step as optimum exports it: past keys, and a mask whose axis is a sum of two symbols."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Unsqueeze", ["embedded", "one"], ["now"]),
        helper.make_node("Concat", ["past_key_values.0.key", "now"], ["present.0.key"], axis=2),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=F),
        helper.make_node("Unsqueeze", ["seen", "ends"], ["seen4"]),
        helper.make_node("Mul", ["present.0.key", "seen4"], ["weighed"]),
        helper.make_node("ReduceMean", ["weighed"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["logits"]),
    ]
    inputs = [
        tensor("input_ids", I64, ["batch_size", "sequence_length"]),
        tensor("attention_mask", I64, ["batch_size", "past_sequence_length + sequence_length"]),
        tensor("past_key_values.0.key", F, ["batch_size", 1, "past_sequence_length", 32]),
    ]
    outputs = [
        tensor("logits", F, ["batch_size", 50]),
        tensor("present.0.key", F, ["batch_size", 1, "past_sequence_length + sequence_length", 32]),
    ]
    initializers = [
        weights("table", 50, 32),
        weights("head", 32, 50),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "one"),
        numpy_helper.from_array(np.array([1, 3], dtype=np.int64), "ends"),
    ]
    return model(nodes, inputs, outputs, initializers)


def random_output() -> Any:
    """One output that is never the same twice beside one that is."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["noisy"]),
        helper.make_node("Relu", ["x"], ["clean"]),
    ]
    outputs = [tensor("noisy", F, ["batch", 8]), tensor("clean", F, ["batch", 8])]
    return model(nodes, [tensor("x", F, ["batch", 8])], outputs)


def sequence_output() -> Any:
    """A sequence beside a tensor."""
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    parts = helper.make_tensor_sequence_value_info("parts", F, None)
    return model(nodes, [tensor("x", F, [4, 4])], [parts, tensor("y", F, [4, 4])])


def sequence_input() -> Any:
    nodes = [helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=0)]
    parts = helper.make_tensor_sequence_value_info("parts", F, None)
    return model(nodes, [parts], [tensor("y", F, None)])


def default_input() -> Any:
    """An input that an initializer backs, so that it need not be sent."""
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    inputs = [tensor("x", F, [4]), tensor("scale", F, [1])]
    scale = numpy_helper.from_array(np.array([3], dtype=np.float32), "scale")
    return model(nodes, inputs, [tensor("y", F, [4])], [scale])


def any_rank() -> Any:
    return model([helper.make_node("Neg", ["x"], ["y"])], [tensor("x", F, None)], [tensor("y", F, None)])


def picky() -> Any:
    """Takes [rows, 37] only, and does not say so."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(
        nodes, [tensor("x", F, ["rows", "columns"])], [tensor("y", F, ["rows", 4])], [weights("w", 37, 4)]
    )


def half() -> Any:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    kind = TensorProto.FLOAT16
    return model(nodes, [tensor("x", kind, ["n", 4])], [tensor("y", kind, ["n", 4])])


def brain_float() -> Any:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=F)]
    return model(nodes, [tensor("x", TensorProto.BFLOAT16, [4])], [tensor("y", F, [4])])


def nan_output() -> Any:
    """Answers NaN, whatever is sent."""
    nodes = [helper.make_node("Mul", ["x", "nan"], ["y"])]
    nan = numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "nan")
    return model(nodes, [tensor("x", F, [4])], [tensor("y", F, [4])], [nan])


def function() -> Any:
    """A local function that holds its weights as an attribute."""
    body = [
        helper.make_node("Constant", [], ["w"], value=weights("w", 64, 64)),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    opset = [helper.make_opsetid("", 17)]
    own = helper.make_function("local", "Project", ["a"], ["b"], body, opset)
    nodes = [helper.make_node("Project", ["x"], ["y"], domain="local")]
    inputs, outputs = [tensor("x", F, ["batch", 64])], [tensor("y", F, ["batch", 64])]
    return model(nodes, inputs, outputs, domains={"local": 1}, functions=[own])


def sparse() -> Any:
    """A sparse initializer."""
    values = numpy_helper.from_array(np.arange(1, 65, dtype=np.float32), "w")
    indices = numpy_helper.from_array(np.arange(64, dtype=np.int64) * 65, "w_at")
    built = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", F, ["n", 64])],
        [tensor("y", F, ["n", 64])],
    )
    built.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [64, 64]))
    return built


def custom_operator() -> Any:
    nodes = [helper.make_node("Warp", ["x"], ["y"], domain="com.example")]
    return model(nodes, [tensor("x", F, [4])], [tensor("y", F, [4])], domains={"com.example": 1})


def opset_from_the_future() -> Any:
    built = any_rank()
    built.opset_import[0].version = 99
    return built


def external(tensor_: Any, location: str, *, offset: int | None = None, length: int | None = None) -> Any:
    """Turn a tensor into one whose data lies in a file."""
    tensor_.ClearField("raw_data")
    tensor_.data_location = TensorProto.EXTERNAL
    del tensor_.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor_.external_data.add()
            entry.key, entry.value = key, str(value)
    return tensor_


def with_external_data(folder: Path, location: str = "model.data") -> Path:
    """linear(), its weights in one file beside it."""
    built = linear()
    path = folder / "model.onnx"
    data = b""
    for initializer in built.graph.initializer:
        raw = initializer.raw_data
        external(initializer, location, offset=len(data), length=len(raw))
        data += raw
    target = folder / location
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return save(built, path)
