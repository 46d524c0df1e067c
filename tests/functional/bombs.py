"""A model of many bombs: each input is a size, and what is made from it is as large as that size says."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from .build.models import BOOL, I64, F, model, tensor

U8 = 2


def _constant(name: str, value: Any) -> Any:
    return numpy_helper.from_array(np.asarray(value), name)


CONSTANTS = {
    "zero": np.int64(0),
    "one": np.int64(1),
    "axes0": np.array([0], np.int64),
    "row": np.ones((1, 1024), np.float32),
    "pixel": np.ones((1, 1, 1, 1), np.float32),
    "none": np.array([], np.float32),
    "ones2": np.array([1.0, 1.0], np.float32),
    "on_off": np.array([0.0, 1.0], np.float32),
    "true": np.array(True),
    "fone": np.float32(1),
    "page": np.array([1024], np.int64),
    "width": np.array([1024], np.int64),
    "pads0": np.array([0], np.int64),
}


def _make() -> tuple[list[Any], list[str]]:
    node = helper.make_node
    nodes = [
        node("ConstantOfShape", ["fill"], ["m_fill"]),
        node("Concat", ["expand", "width"], ["s_expand"], axis=0),
        node("Expand", ["row", "s_expand"], ["m_expand"]),
        node("Concat", ["tile", "axes1"], ["s_tile"], axis=0),
        node("Tile", ["row", "s_tile"], ["m_tile"]),
        node("Squeeze", ["range"], ["s_range"]),
        node("Range", ["zero", "s_range", "one"], ["m_range"]),
        node("Squeeze", ["onehot"], ["s_onehot"]),
        node("OneHot", ["zeros8", "s_onehot", "on_off"], ["m_onehot"]),
        node("Cast", ["resize"], ["f_resize"], to=F),
        node("Concat", ["ones2", "f_resize", "f_resize"], ["s_resize"], axis=0),
        node("Resize", ["pixel", "", "s_resize"], ["m_resize"], mode="nearest"),
        node("Concat", ["pads0", "pad"], ["s_pad"], axis=0),
        node("Pad", ["ones2", "s_pad"], ["m_pad"]),
        node("Squeeze", ["gather"], ["s_gather"]),
        node("Loop", ["s_gather", "true", "fone"], ["v_gather", "m_gather"], body=_gathering()),
        node("Squeeze", ["turn"], ["s_turn"]),
        node("Loop", ["s_turn", "true", "fone"], ["m_turn"], body=_turning()),
        node("ConstantOfShape", ["answer"], ["y_answer"], value=helper.make_tensor("b", U8, [1], [1])),
    ]
    summed = ["fill", "expand", "tile", "range", "onehot", "resize", "pad", "gather"]
    for name in summed:
        nodes += [
            node("Cast", [f"m_{name}"], [f"c_{name}"], to=F),
            node("ReduceMax", [f"c_{name}"], [f"y_{name}"], keepdims=0),
        ]
    nodes.append(node("Identity", ["m_turn"], ["y_turn"]))
    return nodes, summed


def _gathering() -> Any:
    """Each turn adds four KiB to what is kept."""
    node = helper.make_node
    return helper.make_graph(
        [
            node("Identity", ["go"], ["on"]),
            node("Identity", ["v"], ["w"]),
            node("Expand", ["v", "page"], ["k"]),
        ],
        "gathering",
        [tensor("i", I64, []), tensor("go", BOOL, []), tensor("v", F, [])],
        [tensor("on", BOOL, []), tensor("w", F, []), tensor("k", F, [1024])],
    )


def _turning() -> Any:
    node = helper.make_node
    return helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["v", "fone"], ["w"])],
        "turning",
        [tensor("i", I64, []), tensor("go", BOOL, []), tensor("v", F, [])],
        [tensor("on", BOOL, []), tensor("w", F, [])],
    )


NODES, SUMMED = _make()
NAMES = (*SUMMED, "turn", "answer")


def bombs() -> Any:
    """Ten inputs of one size each; small ones make nothing of note."""
    more = {"axes1": np.array([1], np.int64), "zeros8": np.zeros(8, np.int64)}
    constants = [_constant(name, value) for name, value in {**CONSTANTS, **more}.items()]
    outputs = [tensor(f"y_{name}", F, []) for name in (*SUMMED, "turn")]
    outputs.append(tensor("y_answer", U8, ["long"]))
    return model(NODES, [tensor(name, I64, [1]) for name in NAMES], outputs, constants)


def constant_bomb() -> Any:
    """Its memory does not depend on its input: 160 GB."""
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["m"]),
        helper.make_node("ReduceMax", ["m"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    huge = [_constant("huge", np.array([40_000_000_000], np.int64))]
    return model(nodes, [tensor("x", F, [4])], [tensor("y", F, [4])], huge)
