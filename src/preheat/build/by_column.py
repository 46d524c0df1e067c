"""Weights of matrix products, laid out column by column: in the order in which they are read.

A product's threads take a run of columns each, and its kernel reads (or packs) sixteen columns at a time. In
ONNX's order, row by row, these are a few bytes of every page: each thread has to have every page of the
matrix mapped before it is through. Column by column each reads its own part of the file, from its beginning
to its end. What is computed is the same, but for a single row and weights that are not packed: there ONNX's
order has a kernel of its own.

Source: onnxruntime's Gemm, FusedGemm and FusedMatMul, whose ``transB`` says that the second operand lies
transposed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

FUSED = "com.microsoft"
"""The domain of onnxruntime's own products."""


def lay_out(model: str) -> int:
    """Rewrite a model file and its weights file, in place; gives how many matrices were turned.

    Those in the weights file, of single precision, that are the second operand of products of the main graph
    and nothing else.
    """
    import onnx

    proto = onnx.load(model, load_external_data=False)
    used = Counter(_names(proto.graph))
    products: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        if _is_product(node):
            products.setdefault(node.input[1], []).append(node)
    turned = 0
    for tensor in proto.graph.initializer:
        nodes = products.get(tensor.name, [])
        if (
            len(nodes) == used[tensor.name] > 0
            and len(tensor.dims) == 2
            and tensor.data_type == onnx.TensorProto.FLOAT
            and tensor.data_location == onnx.TensorProto.EXTERNAL
        ):
            _turn(os.path.dirname(model), tensor, onnx.external_data_helper.ExternalDataInfo(tensor))
            for node in nodes:
                _read_transposed(onnx, node)
            turned += 1
    if turned:
        if all(opset.domain != FUSED for opset in proto.opset_import):
            proto.opset_import.append(onnx.helper.make_opsetid(FUSED, 1))
        onnx.save(proto, model)
    return turned


def _names(graph: Any) -> Iterator[str]:
    """Every name that a graph and its subgraphs read, once for each time; what they are given and return is
    counted, too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _names(inner)
    for value in (*graph.input, *graph.output):
        yield value.name


def _is_product(node: Any) -> bool:
    kind = (node.domain, node.op_type)
    if kind not in (("", "MatMul"), ("", "Gemm"), (FUSED, "FusedMatMul"), (FUSED, "FusedGemm")):
        return False
    return not any(a.name in ("transB", "transBatchB") and a.i for a in node.attribute)


def _turn(folder: str, tensor: Any, where: Any) -> None:
    import numpy as np

    rows, columns = tensor.dims
    path = os.path.join(folder, where.location)
    stored = np.memmap(path, "<f4", "r+", where.offset or 0, rows * columns)
    stored[:] = stored.reshape(rows, columns).T.ravel()
    stored.flush()
    tensor.dims[:] = [columns, rows]


def _read_transposed(onnx: Any, node: Any) -> None:
    if node.op_type == "MatMul":
        node.op_type, node.domain = "FusedMatMul", FUSED
    kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("transB", 1)])
