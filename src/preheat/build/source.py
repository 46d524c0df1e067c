"""Check an ONNX model without loading its external data, and copy it verbatim as the portable variant.

External data is a path inside the model file, so it is a client's path: it may point anywhere. It is looked
for wherever a tensor can hang (ONNX IR specification: graphs, subgraphs, functions, attributes, sparse
tensors, training information), and held against the folder before a byte of it is read.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import SourceError, UsageError

EXTERNAL = 1
"""TensorProto.DataLocation.EXTERNAL."""


class OnnxSource(NamedTuple):
    """A model file that was checked."""

    path: str
    data: tuple[str, ...]
    """External data files, relative to the model's folder."""
    opset: dict[str, int]
    ir_version: int
    producer: str
    unranked: tuple[str, ...]
    """Graph inputs and outputs that say nothing of their shape; onnxruntime reports them as scalars."""

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


def check(path: str) -> OnnxSource:
    """Read the model's structure and hold its external data against its folder.

    Raises SourceError that names what is missing, truncated, not ONNX or points out of the folder.
    """
    path = os.path.abspath(path)
    model = _parse(path)
    if not model.HasField("graph") or model.ir_version <= 0 or not model.opset_import:
        raise SourceError(f"{path} is not an ONNX model: it has no {_first_absent(model)}")
    if not model.graph.output:
        raise SourceError(f"{path} is not an ONNX model that can be run: its graph has no output")
    sizes = _external_sizes(model, path)
    for location, needed in sizes.items():
        _check_file(path, location, needed)
    return OnnxSource(
        path=path,
        data=tuple(sorted(sizes)),
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        unranked=tuple(
            value.name
            for value in (*model.graph.input, *model.graph.output)
            if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
        ),
    )


def copy(source: OnnxSource, folder: str, *, move: bool = False) -> str:
    """Copy, or move, model and external data into ``folder``; gives the model's name there.

    The data files keep their relative places, because the model names them.
    """
    name = "model.onnx"
    while any(location == name or location.startswith(name + "/") for location in source.data):
        name = f"graph-{name}"
    for location, target in ((source.path, name), *((f"{source.folder}/{d}", d) for d in source.data)):
        destination = os.path.join(folder, target)
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        try:
            if move:
                os.replace(location, destination)
            else:
                shutil.copyfile(location, destination)
        except OSError as error:
            raise SourceError(f"{location} cannot be copied: {error.strerror}") from None
    return name


def _parse(path: str) -> Any:
    try:
        import onnx
    except ImportError:
        raise UsageError(
            "building from an ONNX file needs the onnx package; install it with `pip install 'preheat[onnx]'`"
        ) from None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would not even open
            raise SourceError(f"{path} is not a plain file")
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise SourceError(f"{path} is empty")
    if data.startswith(b"version https://git-lfs"):
        raise SourceError(f"{path} is a Git LFS pointer, not the model itself; fetch it with `git lfs pull`")
    if data[4:8] == b"ORTM":
        raise SourceError(f"{path} is in ORT format already; give the ONNX file that it was made from")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's
            raise
        raise SourceError(f"{path} is not an ONNX file, or it is truncated: it cannot be decoded") from None
    return model


def _first_absent(model: Any) -> str:
    if not model.HasField("graph"):
        return "graph"
    return "IR version" if model.ir_version <= 0 else "opset"


def _external_sizes(model: Any, path: str) -> dict[str, int]:
    """Each external data file, by its plain relative path, with the size that its tensors need."""
    sizes: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != EXTERNAL:
            continue
        what = f"{path}: tensor {tensor.name!r}"
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in entries:
                raise SourceError(f"{what} names the {entry.key} of its external data twice")
            entries[entry.key] = entry.value
        location = _inside(entries.get("location", ""), what)
        offset = _whole(entries.get("offset", "0"), "offset", what)
        stated = entries.get("length")
        length = _bytes_of(tensor) if stated is None else _whole(stated, "length", what)
        sizes[location] = max(sizes.get(location, 0), offset + length)
    return sizes


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto under a protobuf message, wherever it hangs. Tensors themselves are not entered."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if hasattr(value, "ListFields"):
            yield from _tensors(value)
        else:  # a repeated field
            for item in value:
                yield from _tensors(item)


def _inside(location: str, what: str) -> str:
    """A location as a plain relative path. Raises SourceError where it leaves the folder."""
    if not location:
        raise SourceError(f"{what} has external data without a location")
    if location.startswith(("/", "\\")) or location[1:3] in (":/", ":\\"):
        raise SourceError(
            f"{what} has its external data at the absolute path {location!r}; "
            "external data must lie in the model's own folder. Save the model again with a relative location"
        )
    if "\\" in location or "\0" in location or not location.isprintable():
        raise SourceError(f"{what} has external data at {location!r}, which is not a plain path")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise SourceError(
            f"{what} has its external data at {location!r}, outside the model's folder; "
            "put it beside the model and save the model again"
        )
    return "/".join(parts)


def _check_file(path: str, location: str, needed: int) -> None:
    """The data file is there, plain, really in the folder, and long enough."""
    folder = os.path.dirname(path)
    full = os.path.join(folder, location)
    if not os.path.exists(full):
        broken = " (a broken link)" if os.path.lexists(full) else ""
        raise SourceError(f"{path} needs its external data file {full}, which is missing{broken}")
    real = os.path.realpath(full)
    if os.path.commonpath([real, os.path.realpath(folder)]) != os.path.realpath(folder):
        raise SourceError(
            f"{full} is a link to {real}, outside the model's folder; copy the file itself there "
            "(`cp -L` follows links)"
        )
    info = os.stat(real)
    if not stat.S_ISREG(info.st_mode):
        raise SourceError(f"{full} is not a plain file")
    if not os.access(real, os.R_OK):
        raise SourceError(f"{full} cannot be read: permission denied")
    if info.st_size < needed:
        raise SourceError(
            f"{full} is truncated: it has {info.st_size} bytes, and the model's tensors need {needed}"
        )


def _whole(text: str, key: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise SourceError(f"{what} has external data with {key} {text!r}; it must be a whole number >= 0")
    return int(text)


def _bytes_of(tensor: Any) -> int:
    """Bytes that the data of a tensor takes, 0 where its type has no fixed size; 4-bit types take half."""
    import onnx

    try:
        bits = 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
    except (KeyError, ValueError, TypeError):
        return 0
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(name, bits)
    return -(-math.prod(map(int, tensor.dims)) * bits // 8)
