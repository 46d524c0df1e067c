"""Open Inference Protocol v2: JSON, the binary tensor data extension, the classification extension.

A request's body is JSON alone, or JSON of ``Inference-Header-Content-Length`` bytes with the raw data of its
inputs behind it, in their order. Sources: the KServe V2 data plane specification; Triton's
extension_binary_data and extension_classification. Shared memory and sequences are refused.

What a request claims (names, types, shapes, sizes) is held against the model and its limits before anything
of that size is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..errors import InvalidRequestError
from ..manifest import Manifest, TensorSpec
from ..tensors import BY_V2, Array, Tensors, check_answer, check_shape, datatype_of, from_bytes, to_bytes
from .strict_json import loads
from .values import dimensions, dumps, shown, to_array, to_list

PLATFORM = "onnxruntime_onnx"
"""Triton's name for what runs the model."""

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")


class WantedOutput(NamedTuple):
    name: str
    binary: bool
    """Raw data behind the JSON, rather than numbers in it."""
    classes: int = 0
    """Give the indices of the n highest values instead of the tensor; 0: give the tensor."""


class InferRequest(NamedTuple):
    id: str | None
    """Repeated in the response."""
    inputs: dict[str, Array]
    """Every input of the model, of its data type; may be views of the body."""
    outputs: tuple[WantedOutput, ...]
    """What to answer with, in this order; all of the model's outputs if the client named none."""
    parameters: dict[str, Any]
    """The request's own parameters, as sent."""

    @property
    def output_names(self) -> list[str]:
        """For Engine.run."""
        return [output.name for output in self.outputs]


def decode(body: bytes, header_length: int | None, manifest: Manifest) -> InferRequest:
    """Read an inference request.

    ``header_length``: the value of ``Inference-Header-Content-Length``; None where the header is absent and
    the body is JSON alone. Raises InvalidRequestError or TooLargeError; the message names the field.
    """
    end = len(body) if header_length is None else header_length
    if not 0 <= end <= len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length is {end}, and the body has {len(body)} bytes"
        )
    view = memoryview(body)
    document = loads(view[:end])
    if not isinstance(document, dict):
        raise InvalidRequestError(f"the request must be a JSON object, not {shown(document)}")
    request_id = document.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidRequestError(f"id must be a string, not {shown(request_id)}")
    parameters = _parameters(document, "parameters")
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise InvalidRequestError("parameters.sequence_id: the model keeps no state between requests")
    binary = header_length is not None
    inputs = inputs_of(document, manifest, view[end:], binary_allowed=binary, use_up=True)
    outputs = _outputs(document, manifest, _flag(parameters, "binary_data_output", "parameters"))
    return InferRequest(request_id, inputs, outputs, parameters)


def encode(
    request: InferRequest, outputs: Tensors, manifest: Manifest, *, labels: Sequence[str] = ()
) -> tuple[bytes, int | None]:
    """The response's body, and the value of its ``Inference-Header-Content-Length``, None for no such header.

    ``labels``: names of the classes, for outputs that the request wants classified. Raises UnprocessableError
    (``nonfinite_output``, ``binary_output``) where JSON cannot hold a value that was wanted in JSON,
    TooLargeError (``answer_too_large``) for a tensor over the manifest's limit.
    """
    entries: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for wanted in request.outputs:
        array = outputs[wanted.name]
        if wanted.classes:
            array = classify(array, wanted.classes, labels)
        check_answer(array, wanted.name, manifest.limits)
        entry: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype_of(array).v2,
            "shape": list(array.shape),
        }
        if wanted.binary:
            data = to_bytes(array)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = to_list(array, wanted.name, nested=False)
        entries.append(entry)
    document: dict[str, Any] = {"model_name": manifest.name, "model_version": version_of(manifest)}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = entries
    header = dumps(document)
    return (b"".join([header, *raw]), len(header)) if raw else (header, None)


def classify(array: Array, count: int, labels: Sequence[str] = ()) -> Array:
    """The ``count`` highest values of each row as strings ``value:index`` or ``value:index:label``.

    ``array``: [batch, …], each row taken flat, or [classes]; gives [batch, count] or [count].
    """
    rows = array.reshape(array.shape[0] if array.ndim > 1 else 1, -1)
    last = rows.shape[1] - 1
    # Reversed twice, so that the lower index comes first among equals.
    best = (last - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1])[:, :count]
    texts = [_class(rows[r, i], int(i), labels) for r in range(len(rows)) for i in best[r]]
    result = np.empty(len(texts), dtype=object)
    result[:] = texts
    return result.reshape(best.shape if array.ndim > 1 else best.shape[1:])


def version_of(manifest: Manifest) -> str:
    """The model's version as it stands in URLs and responses: the digest's hexadecimal digits."""
    return manifest.version.removeprefix("sha256:")


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The model metadata document: axes of free size, and a free rank, are -1."""
    return {
        "name": manifest.name,
        "versions": [version_of(manifest)],
        "platform": PLATFORM,
        "inputs": [_described(spec) for spec in manifest.inputs],
        "outputs": [_described(spec) for spec in manifest.outputs],
    }


def server_metadata() -> dict[str, Any]:
    """The server metadata document."""
    return {"name": "preheat", "version": __version__, "extensions": list(EXTENSIONS)}


def inputs_of(
    document: dict[str, Any],
    manifest: Manifest,
    tail: memoryview,
    *,
    binary_allowed: bool,
    use_up: bool = False,
) -> dict[str, Array]:
    """A request's field ``inputs``, ``tail`` being the raw data behind the JSON; raises as ``decode``.
    ``use_up``: as of ``to_array``."""
    specs = {spec.name: spec for spec in manifest.inputs}
    inputs: dict[str, Array] = {}
    for index, entry in enumerate(_entries(document, "inputs")):
        where = f"inputs[{index}]"
        spec = specs.get(_name(entry, where))
        if spec is None:
            raise InvalidRequestError(
                f"{where}: the model has no input {shown(entry['name'])}; "
                f"it takes {', '.join(map(repr, specs))}"
            )
        if spec.name in inputs:
            raise InvalidRequestError(f"{where}: input {spec.name!r} is given twice")
        shape = _shape(entry, spec, manifest, where)
        parameters = _parameters(entry, f"{where}.parameters")
        if "binary_data_size" not in parameters:
            if "data" not in entry:
                raise InvalidRequestError(f"{where}: input {spec.name!r} has no data")
            data = entry["data"]
            inputs[spec.name] = to_array(data, BY_V2[spec.dtype], shape, spec.name, use_up=use_up)
            continue
        size = parameters["binary_data_size"]
        if "data" in entry:
            raise InvalidRequestError(f"{where}: data and binary_data_size exclude each other")
        if not binary_allowed:
            raise InvalidRequestError(
                f"{where}: binary data needs the header Inference-Header-Content-Length"
            )
        if type(size) is not int or not 0 <= size <= len(tail):
            raise InvalidRequestError(
                f"{where}: binary_data_size is {shown(size)}, and {len(tail)} bytes of data are left"
            )
        array = from_bytes(tail[:size], BY_V2[spec.dtype], shape, spec.name)
        # Data may begin anywhere in the body, and a session reads whole elements.
        inputs[spec.name] = array if array.flags.aligned else array.copy()
        tail = tail[size:]
    missing = [name for name in specs if name not in inputs]
    if missing:
        raise InvalidRequestError(f"inputs: the model also takes {', '.join(map(repr, missing))}")
    if len(tail):
        raise InvalidRequestError(f"{len(tail)} bytes of data belong to no input")
    return inputs


def _outputs(document: dict[str, Any], manifest: Manifest, binary: bool) -> tuple[WantedOutput, ...]:
    specs = {spec.name: spec for spec in manifest.outputs}
    wanted: dict[str, WantedOutput] = {}
    entries = _entries(document, "outputs") if document.get("outputs") is not None else []
    for index, entry in enumerate(entries):
        where = f"outputs[{index}]"
        name = _name(entry, where)
        if name not in specs:
            raise InvalidRequestError(
                f"{where}: the model has no output {shown(name)}; it gives {', '.join(map(repr, specs))}"
            )
        if name in wanted:
            raise InvalidRequestError(f"{where}: output {name!r} is asked for twice")
        parameters = _parameters(entry, f"{where}.parameters")
        classes = parameters.get("classification", 0)
        if type(classes) is not int or not 0 <= classes < 2**31:
            raise InvalidRequestError(
                f"{where}: classification must be a number of classes, not {shown(classes)}"
            )
        if classes and (specs[name].dtype == "BYTES" or specs[name].shape == ()):
            raise InvalidRequestError(f"{where}: output {name!r} cannot be classified")
        own = _flag(parameters, "binary_data", where) if "binary_data" in parameters else binary
        wanted[name] = WantedOutput(name, own, classes)
    return tuple(wanted.values()) or tuple(WantedOutput(name, binary) for name in specs)


def _entries(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    entries = document.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequestError(f"{field} must be a list of objects")
    return entries


def _name(entry: dict[str, Any], where: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidRequestError(f"{where}.name must be a string, not {shown(name)}")
    return name


def _shape(entry: dict[str, Any], spec: TensorSpec, manifest: Manifest, where: str) -> list[int]:
    """The shape that an input claims, its data type and its shape held against the model's."""
    datatype = entry.get("datatype")
    if datatype != spec.dtype:
        known = (
            datatype
            if isinstance(datatype, str) and datatype in BY_V2
            else f"{shown(datatype)}, unknown here"
        )
        raise InvalidRequestError(
            f"{where}.datatype: input {spec.name!r} is {spec.dtype}, and the request says {known}"
        )
    shape = dimensions(entry.get("shape"), f"{where}.shape")
    check_shape(spec, shape, manifest.limits)
    return shape


def _parameters(entry: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequestError(f"{where} must be an object, not {shown(parameters)}")
    if any(key.startswith("shared_memory") for key in parameters):
        raise InvalidRequestError(f"{where}: there is no shared memory here; send and take data in the body")
    return parameters


def _flag(parameters: dict[str, Any], key: str, where: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{where}: {key} must be true or false, not {shown(value)}")
    return value


def _class(value: Any, index: int, labels: Sequence[str]) -> str:
    # Triton prints with std::to_string: six places for a float.
    number = f"{value:f}" if value.dtype.kind == "f" else str(int(value))
    return f"{number}:{index}:{labels[index]}" if index < len(labels) else f"{number}:{index}"


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1] if spec.shape is None else [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return {"name": spec.name, "datatype": spec.dtype, "shape": shape}
