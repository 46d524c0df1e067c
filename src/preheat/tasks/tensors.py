"""Tensors as they are, for a model that has no task of its own.

Request: ``{"inputs": {name: nested lists, …}}``, every input of the model; the shape is the nesting's. A body
of the Open Inference Protocol (``{"inputs": [{"name": …, "shape": …, "datatype": …, "data": …}, …]}``) is
taken too.
Answer: ``{"outputs": {name: nested lists, …}}``.

Numbers and strings must fit the model's data types; strings are UTF-8 text on both ways. Values that JSON
cannot hold (NaN, other bytes) go over ``/v2`` as binary data.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidRequestError
from ..manifest import TensorSpec
from ..protocol.v2 import inputs_of
from ..protocol.values import shown, to_array, to_list
from ..tensors import BY_V2, Array, Tensors, check_answer, check_shape
from . import Task
from .fields import field


class RawTensors(Task):
    def prepare(self, request: Any) -> Tensors:
        values = field(request, "inputs")
        manifest = self.artifact.manifest
        if isinstance(values, list):
            return inputs_of(request, manifest, memoryview(b""), binary_allowed=False)
        if not isinstance(values, dict):
            raise InvalidRequestError(f"inputs must be an object of name to data, not {shown(values)}")
        specs = {spec.name: spec for spec in manifest.inputs}
        unknown = [name for name in values if name not in specs]
        missing = [name for name in specs if name not in values]
        if unknown or missing:
            wrong = f"{shown(unknown[0])} is not one of them" if unknown else f"{missing[0]!r} is missing"
            raise InvalidRequestError(f"inputs: the model takes {', '.join(map(repr, specs))}; {wrong}")
        return {name: self._array(spec, values[name]) for name, spec in specs.items()}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:  # noqa: ARG002 - the outputs are the answer
        for name, array in outputs.items():
            check_answer(array, name, self.artifact.manifest.limits)
        return {"outputs": {name: to_list(array, name, nested=True) for name, array in outputs.items()}}

    def _array(self, spec: TensorSpec, value: Any) -> Array:
        limits = self.artifact.manifest.limits
        shape: list[int] = []
        inner = value
        while isinstance(inner, list) and len(shape) <= limits.rank:
            shape.append(len(inner))
            inner = inner[0] if inner else None
        check_shape(spec, shape, limits)
        # A tensor of rank 0 is a bare value.
        return to_array(value if shape else [value], BY_V2[spec.dtype], shape, spec.name)
