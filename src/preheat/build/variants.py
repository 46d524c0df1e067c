"""The ways to open a model: which there are, and how each is made, in a process of its own.

====================  ========================================================================================
``portable``          the source, verbatim; optimised by onnxruntime at every start
``mapped``            optimised graph, weights in a file that onnxruntime maps instead of reading
``unpacked``          the same files, opened without packing the weights: opens soonest, runs slower
``packed``            optimised for this CPU's layout, weights already packed in the mapped file
``ort``               optimised graph and weights as one ORT format file, mapped
``int8``              weights quantised to 8 bits (dynamic quantisation), then as ``mapped``
``cuda``              optimised for CUDA, weights in a file of their own
``fp16``              the same in half precision; inputs and outputs keep their types
``tensorrt``          TensorRT's engine, built already, in half precision (accelerated.py)
====================  ========================================================================================

Which one is best is measured, not assumed: see planner.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import BuildError
from ..fingerprint import Fingerprint
from ..manifest import LEVELS, PORTABLE, Requires, Variant
from ..providers import CPU, CUDA, NVIDIA, TENSORRT, chain
from . import by_column, isolated, ort_file
from .reasons import plain
from .timing_cache import TimingCache

MODEL, WEIGHTS = "model.onnx", "model.weights"
SMALLEST_EXTERNAL = 4096
"""Bytes from which an initializer goes to the weights file: for each of those onnxruntime resolves the file's
path and maps it, which takes longer than to copy a smaller one (MiniLM: 63 of 102, 2 ms of an opening)."""

LARGEST_ORT = 2**31 - 1
"""An ORT format file is a flatbuffer, whose offsets are 32 bits wide and signed."""


class Way(NamedTuple):
    """How one variant is made and opened."""

    level: str = "extended"
    """Optimisation done at build time."""
    form: dict[str, str] = {}
    """Session configuration by which the optimised graph is written once more, in a form of its own."""
    opening: dict[str, str] = {}
    """Session configuration when it is opened."""
    shares: str = ""
    """The variant whose files it opens; then nothing is made."""
    provider: str = CPU


_PLAIN = {"session.disable_prepacking": "1"}
_PACK_IN_PARALLEL = {"session.prepack.enable_parallel": "1"}
"""From onnxruntime 1.31; MiniLM opens in 45 ms instead of 62 on four cores."""

WAYS = {
    "mapped": Way(opening=_PACK_IN_PARALLEL),
    "unpacked": Way(opening=_PLAIN, shares="mapped"),
    "packed": Way(
        level="all",
        form={"session.save_external_prepacked_constant_initializers": "1"},
        opening=_PACK_IN_PARALLEL,  # packed once more, compared, and dropped for what is in the file
    ),
    "ort": Way(
        form={**_PLAIN, "session.save_model_format": "ORT"},
        opening={
            **_PACK_IN_PARALLEL,
            "session.use_memory_mapped_ort_model": "1",
            "session.use_ort_model_bytes_for_initializers": "1",
        },
    ),
    "int8": Way(opening=_PACK_IN_PARALLEL),
    "cuda": Way(provider=CUDA),
    "fp16": Way(provider=CUDA),
    "tensorrt": Way(provider=TENSORRT),
}


class LeftOutError(BuildError):
    """A variant cannot be made from this model, on this machine; the build goes on without it."""

    code = "left_out"


def portable(model: str, data: tuple[str, ...]) -> Variant:
    """The variant that every artifact has. Paths are relative to the artifact."""
    return Variant(
        name=PORTABLE,
        model=model,
        files=(model, *data),
        optimization="all",
        config={},
        requires=Requires(provider=CPU),
    )


def make(
    name: str,
    root: str,
    source: Variant,
    machine: Fingerprint,
    *,
    timeout: float,
    shapes: Mapping[str, Any] | None = None,
    timing_cache: TimingCache | None = None,
    notes: list[str] | None = None,
) -> Variant:
    """Make one variant's files under ``root/variants``, unless another variant's are what it opens.
    ``shapes``: what accelerated.shapes says of the model's inputs, for a variant on a GPU. ``timing_cache``:
    what TensorRT begins with. ``notes`` gets what is to be told of the making.

    Raises LeftOutError with the reason, in words, where it cannot be had; it then leaves no files.
    """
    owner = WAYS[name].shares or name
    folder = os.path.join(root, "variants", owner)
    made: dict[str, Any] = {}
    if not os.path.isdir(folder):
        size = sum(os.path.getsize(os.path.join(root, path)) for path in source.files)
        if owner == "ort" and size > LARGEST_ORT:
            raise LeftOutError(f"an ORT format file holds up to {LARGEST_ORT} bytes, the model has {size}")
        os.makedirs(folder)
        request: dict[str, Any] = {
            "source": os.path.join(root, source.model),
            "folder": folder,
            "name": owner,
        }
        module = "preheat.build.variants"
        if WAYS[name].provider in NVIDIA:
            module = "preheat.build.accelerated"
            request["shapes"] = dict(shapes or {})
            request["timing_cache"] = timing_cache
        try:
            made = isolated.call(module, request, timeout=timeout)
        except BuildError as error:
            shutil.rmtree(folder)
            raise LeftOutError(str(error)) from error
        if notes is not None:
            notes += made.get("notes", [])
    files = tuple(f"variants/{owner}/{file}" for file in sorted(os.listdir(folder)))
    return Variant(
        name=name,
        model=next(file for file in files if file.endswith((".onnx", ".ort"))),
        files=files,
        optimization=made.get("optimization", "disabled"),
        config=WAYS[name].opening,
        requires=requires(name, machine),
        provider_options=made.get("provider_options", {}),
    )


def requires(name: str, machine: Fingerprint) -> Requires:
    """What a machine must offer, for a variant made on this one.

    An optimised graph holds onnxruntime's internal operators, which a minor release may change. Packed
    weights have the layout of one release on one CPU. 8-bit kernels round differently from CPU to CPU. An
    engine is TensorRT's program for one architecture of GPUs, which only the same TensorRT reads, and whose
    kernels want a driver that is no older.
    """
    exact = name == "packed"
    if name == "tensorrt":
        return Requires(
            provider=TENSORRT,
            arch=machine.arch,
            onnxruntime=_range(machine.onnxruntime, exact=False),
            gpu=machine.gpu,
            driver=machine.driver,
            libraries={name: machine.libraries[name] for name in ("cuda", "tensorrt")},
        )
    return Requires(
        provider=WAYS[name].provider,
        arch=machine.arch,
        isa=machine.isa if name in ("packed", "int8") else None,
        onnxruntime=_range(machine.onnxruntime, exact=exact),
    )


def _range(version: str, *, exact: bool) -> tuple[str, str]:
    parts = [int(part) for part in version.split("+", 1)[0].split(".")[:3] if part.isdigit()]
    parts = parts if exact else parts[:2]
    return ".".join(map(str, parts)), ".".join(map(str, [*parts[:-1], parts[-1] + 1]))


# From here on: inside the process that makes one variant.


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Make one variant's files. Keys: ``source`` (a model file), ``folder`` (empty), ``name``."""
    source, name = str(request["source"]), str(request["name"])
    way = WAYS[name]
    os.chdir(request["folder"])  # onnxruntime writes the names that it is given: keep them relative
    if name == "int8":
        _quantize(source, "quantized.onnx")
        source = "quantized.onnx"
    optimized = "optimized.onnx" if way.form else MODEL
    optimize(source, way, optimized)
    by_column.lay_out(optimized)
    if name == "ort":
        _write(optimized, "model.ort", "disabled", CPU, way.form)
        ort_file.settle("model.ort")
    elif way.form:
        _write(optimized, MODEL, "disabled", CPU, {**way.form, **_external(MODEL)})
    for left in ("quantized.onnx", "quantized.onnx.data", "optimized.onnx", "optimized.weights"):
        if os.path.exists(left):
            os.remove(left)
    if name != "ort" and not (os.path.exists(WEIGHTS) and os.path.getsize(WEIGHTS)):
        raise LeftOutError(
            f"the model has no weights of {SMALLEST_EXTERNAL} bytes or more for a file of their own"
        )
    return {}


def optimize(source: str, way: Way, target: str = MODEL) -> None:
    """Write the optimised graph, for the provider that the way names, and its weights beside it."""
    packing = _PLAIN if way.provider == CPU else {}
    _write(source, target, way.level, way.provider, {**packing, **_external(target)})


def _external(model: str) -> dict[str, str]:
    return {
        "session.optimized_model_external_initializers_file_name": model.replace(".onnx", ".weights"),
        "session.optimized_model_external_initializers_min_size_in_bytes": str(SMALLEST_EXTERNAL),
    }


def _write(source: str, target: str, level: str, provider: str, entries: Mapping[str, str]) -> None:
    """Have onnxruntime write the graph of a session that it opens. Raises LeftOutError."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[level])
    options.optimized_model_filepath = target
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        ort.InferenceSession(source, options, providers=chain(provider), enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise LeftOutError(f"onnxruntime cannot write it: {plain(error)}") from error


def _quantize(source: str, target: str) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    size = sum(
        os.path.getsize(os.path.join(root, file))
        for root, _, files in os.walk(os.path.dirname(source))
        for file in files
    )
    try:
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=size > 2**30,
        )
    except Exception as error:  # whatever the quantiser meets in a graph it does not understand
        raise LeftOutError(f"it cannot be quantised: {type(error).__name__}: {error}") from error
    if operators(source) == operators(target):
        raise LeftOutError("nothing in it can be quantised: it has no constant weights of matrix products")


def operators(path: str) -> list[str]:
    """The operators of a model's main graph, in order."""
    import onnx

    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
