"""Variants for a GPU: graphs for CUDA, in single and half precision, and TensorRT's engines.

They are made on a GPU of the architecture on which they will run. An engine is written as an EP context (a
model whose one node names the engine's file beside it), so that a start reads it in place of building it,
which takes minutes. The timing cache, by which kernels were chosen, is kept beside it, and the next build
begins with it (timing_cache.py).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..bound import captures, fixed
from ..device import find
from ..errors import BuildError, EngineError
from ..fingerprint import Fingerprint
from ..manifest import Manifest, Requires, Variant
from ..providers import CAPTURE, CPU, CUDA, TENSORRT, full_name
from . import weights_table
from .reasons import plain
from .variants import MODEL, WAYS, LeftOutError, operators, optimize

PRECISE = {"use_tf32": "0"}
"""CUDA's matrix products in full single precision; who wants less has ``fp16``."""


def check(provider: str, machine: Fingerprint) -> None:
    """Raises BuildError that says what is missing for a provider on this machine, and what to do."""
    name = full_name(provider)
    if name not in machine.providers:
        raise BuildError(
            f"--provider {provider} needs onnxruntime with {name}, and this one has "
            f"{', '.join(machine.providers)}: pip uninstall onnxruntime, then "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if not machine.gpu:
        find()  # says why
    for library in ("cuda", "cudnn", *(["tensorrt"] if name == TENSORRT else [])):
        if library not in machine.libraries:
            advice = {"tensorrt": "put TensorRT 10's libraries (libnvinfer.so.10) on the loader's path"}.get(
                library, "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
            raise BuildError(f"--provider {provider} needs {library}, which cannot be loaded here: {advice}")


def shapes(root: str, manifest: Manifest) -> dict[str, Any]:
    """What the making of a variant has to know of the model's tensors, as JSON.

    ``fixed``: whether all have one shape; ``inputs``: for each its type and the least, the usual and the
    largest shape; ``unbounded``: why there is none, in words.
    """
    from ..tensors import unpack

    with open(os.path.join(root, manifest.golden[0].inputs), "rb") as file:
        usual = unpack(file.read())
    found: dict[str, Any] = {"fixed": fixed(manifest.inputs) and fixed(manifest.outputs), "unbounded": ""}
    inputs = {}
    for spec in manifest.inputs:
        least, most = [], []
        for axis, dim in enumerate(spec.shape or ()):
            bound = manifest.limits.batch if axis == 0 else manifest.limits.sequence
            if not isinstance(dim, int) and not bound:
                found["unbounded"] = (
                    f"axis {axis} of input {spec.name!r} has no largest size: give --limit sequence=N"
                )
            least.append(dim if isinstance(dim, int) else 1)
            most.append(dim if isinstance(dim, int) else max(bound, usual[spec.name].shape[axis]))
        if spec.shape is None or spec.dtype == "BYTES":
            found["unbounded"] = f"input {spec.name!r} is no tensor of a known rank"
        inputs[spec.name] = {
            "dtype": spec.dtype,
            "least": least,
            "usual": list(usual[spec.name].shape),
            "most": most,
        }
    return {**found, "inputs": inputs}


def profile(shapes: Mapping[str, Any]) -> dict[str, str]:
    """TensorRT's optimisation profile: the shapes for which its engine is built, and no others run on it.

    Raises LeftOutError where an axis has no bound.
    """
    if shapes["unbounded"]:
        raise LeftOutError(shapes["unbounded"])
    return {
        f"trt_profile_{option}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, spec[which]))}" for name, spec in shapes["inputs"].items()
        )
        for option, which in (("min", "least"), ("opt", "usual"), ("max", "most"))
    }


def engine_options(shapes: Mapping[str, Any]) -> dict[str, str]:
    """The provider's options when an engine is built. Paths are relative to where the files go.

    Raises LeftOutError.
    """
    return {
        **profile(shapes),
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": ".",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": ".",
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": MODEL,
        "trt_ep_context_embed_mode": "0",
    }


# From here on: inside the process that makes one variant.


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Make one variant's files; gives its ``optimization`` and ``provider_options``, and ``notes``.

    Keys: ``source`` (a model file), ``folder`` (empty), ``name``, ``shapes``, ``timing_cache`` (a TimingCache
    for TensorRT, or null). Raises LeftOutError.
    """
    from ..device import preload

    source, name, found = str(request["source"]), str(request["name"]), request["shapes"]
    preload()
    os.chdir(request["folder"])
    if name == "tensorrt":
        note = _engine_from(source, engine_options(found), request.get("timing_cache"))
        return {**_tried(name, "disabled", {}, found), "notes": [note]}
    options = PRECISE
    if name == "fp16":
        half(source, "half.onnx")
        source, options = "half.onnx", {}
    try:
        optimize(source, WAYS[name])
        made = _tried(name, "disabled", options, found)
    except (LeftOutError, EngineError):
        # Written for CUDA, and not readable again: what any provider takes, and the rest at the start.
        optimize(source, WAYS[name]._replace(level="basic", provider=CPU))
        made = _tried(name, "all", options, found)
    for left in ("half.onnx", "half.onnx.data"):
        if os.path.exists(left):
            os.remove(left)
    if made["optimization"] == "disabled":  # else a start makes tensors of its own from the file's
        weights_table.write(MODEL)
    return made


def half(source: str, target: str) -> None:
    """The model in half precision, its inputs and outputs as they were. Raises LeftOutError."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
        onnx.save(
            converted, target, save_as_external_data=True, location="half.onnx.data", convert_attribute=False
        )
    except Exception as error:  # whatever the converter meets in a graph that it does not understand
        raise LeftOutError(f"it cannot be converted: {type(error).__name__}: {error}") from error
    float16 = onnx.TensorProto.FLOAT16
    if not any(tensor.data_type == float16 for tensor in converted.graph.initializer):
        raise LeftOutError("it has no weights that half precision would change")


def _engine_from(source: str, options: Mapping[str, str], cache: Sequence[str] | None) -> str:
    """Build the engine, with the timing cache of an earlier one if there is one that TensorRT takes; gives a
    note of how long that took. Raises LeftOutError."""
    began, how = time.perf_counter(), "without a timing cache"
    if cache is not None:
        path, name, origin = cache
        shutil.copyfile(path, name)
        how = f"with the timing cache of {origin}"
        try:
            _engine(source, options)
        except LeftOutError as error:
            # A cache that TensorRT does not read must not cost the engine.
            for left in os.listdir():
                os.remove(left)
            began, how = time.perf_counter(), f"without the timing cache of {origin}, with which: {error}"
            _engine(source, options)
    else:
        _engine(source, options)
    return f"TensorRT's engine was built in {time.perf_counter() - began:.1f} s, {how}"


def _engine(source: str, options: Mapping[str, str]) -> None:
    """Let TensorRT build its engine, which takes minutes, and write it as an EP context."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    providers = [(TENSORRT, dict(options)), CUDA, CPU]
    try:
        session = ort.InferenceSession(source, settings, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise LeftOutError(f"TensorRT cannot build its engine: {plain(error)}") from error
    if session.get_providers()[0] != TENSORRT:
        raise LeftOutError(f"onnxruntime opened it on {session.get_providers()[0]}, not on {TENSORRT}")
    if not os.path.exists(MODEL) or "EPContext" not in operators(MODEL):
        raise LeftOutError("TensorRT took no part of the model")


def _tried(name: str, level: str, options: dict[str, str], shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Open what was written and run it; as a CUDA graph where the shapes are fixed and the model can be one.

    Raises EngineError where it does not open.
    """
    provider = WAYS[name].provider
    choices = [{**options, CAPTURE[provider]: "1"}] if shapes["fixed"] else []
    for chosen in (*choices, options):
        variant = Variant(name, MODEL, (), level, {}, Requires(provider), chosen)
        try:
            _run(variant, shapes)
        except Exception as error:  # a graph may be refused at its opening, or when it is recorded
            if chosen is options:
                raise EngineError(f"it was made and cannot be run: {plain(error)}") from error
        else:
            return {"optimization": level, "provider_options": chosen}
    raise AssertionError("the last choice returns or raises")


def _run(variant: Variant, shapes: Mapping[str, Any]) -> None:
    import numpy as np
    import onnxruntime as ort

    from ..engine import open_session
    from ..tensors import BY_V2

    session = open_session(MODEL, variant, threads=1)
    feeds = {
        name: np.ones(spec["usual"], BY_V2[spec["dtype"]].numpy) for name, spec in shapes["inputs"].items()
    }
    if not captures(variant):
        session.run(None, feeds)
        return
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for node in session.get_outputs():
        binding.bind_output(node.name, "cuda")
    for _ in range(2):  # recorded, and replayed
        session.run_with_iobinding(binding)
