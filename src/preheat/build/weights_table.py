"""Where the tensors of a model's weights file lie, for a start that sends them to the GPU before the session
is opened (device_weights.py): the run time has no reader of ONNX files but onnxruntime.
"""

from __future__ import annotations

import json
import os
from typing import Any

from ..device_weights import TABLE
from ..dlpack import TYPES

_OURS = {"FLOAT16": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64"}
"""ONNX's names of types, where they are not dlpack.TYPES's own."""


def write(model: str) -> bool:
    """Write ``weights.json`` beside a model file. False, and nothing, where there is nothing to send: no
    tensor lies outside the model, or a subgraph could have one of the same name."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    if any(
        attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute
    ):
        return False
    files, tensors = set(), []
    for tensor in graph.initializer:
        found = _row(onnx, tensor)
        if found is not None:
            files.add(found[0])
            tensors.append(found[1])
    if len(files) != 1:
        return False
    with open(os.path.join(os.path.dirname(model), TABLE), "w") as file:
        json.dump({"file": files.pop(), "tensors": tensors}, file)
    return True


def _row(onnx: Any, tensor: Any) -> tuple[str, list[Any]] | None:
    """The file that a tensor lies in, and its name, type, shape, offset and bytes there."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    where = onnx.external_data_helper.ExternalDataInfo(tensor)
    dtype = onnx.TensorProto.DataType.Name(tensor.data_type)
    dtype, size = _OURS.get(dtype, dtype), where.length or 0
    if dtype not in TYPES or not size:
        return None
    return where.location, [tensor.name, dtype, list(tensor.dims), where.offset or 0, size]
