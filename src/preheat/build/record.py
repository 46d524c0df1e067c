"""Record what the portable variant takes and answers: specifications, golden inferences, a sample request.

Runs in a process of its own. Single-threaded, so that the recorded answers have the same bits every time.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import manifest as manifests
from ..download import Artifact, Stamps
from ..engine import Engine, open_session
from ..errors import EngineError, PreheatError, RequestError, SourceError, UsageError
from ..manifest import Golden, Limits, Manifest, TensorSpec
from ..phases import PhaseClock
from ..stores.local import LocalStore
from ..tasks import Task, built_in
from ..tensors import BY_ONNX, Array, Tensors, datatype_of, pack, to_bytes
from . import samples
from .reasons import why_not_opened

LARGEST_SAMPLE = 256 * 1024
"""Bytes of JSON; a larger sample request is left out of the manifest."""
SEARCH_SECONDS = 60.0
"""How long inputs are made up before the model is given up on."""
MOST_NONFINITE = 20
"""So many inputs that are answered with NaN or infinity, and the first of them is taken."""


class Recorded(NamedTuple):
    """What the process gives back; all of it JSON."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Limits
    golden: tuple[Golden, ...]
    stable_outputs: tuple[str, ...]
    sample: dict[str, Any] | None
    notes: tuple[str, ...]
    """For the person who builds: what was left out, and why."""


def read(answer: dict[str, Any]) -> Recorded:
    """What ``main`` gave, as it came through JSON."""
    return Recorded(
        inputs=tuple(_spec(s) for s in answer["inputs"]),
        outputs=tuple(_spec(s) for s in answer["outputs"]),
        limits=Limits(**answer["limits"]),
        golden=tuple(Golden(*pair) for pair in answer["golden"]),
        stable_outputs=tuple(answer["stable_outputs"]),
        sample=answer["sample"],
        notes=tuple(answer["notes"]),
    )


def _spec(item: list[Any]) -> TensorSpec:
    name, dtype, shape = item
    return TensorSpec(name, dtype, None if shape is None else tuple(shape))


# From here on: inside the process that records.


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Keys: ``root`` (an artifact without golden inferences), ``unranked`` (names of inputs and outputs that
    declare no shape), ``recipe`` (samples.Recipe as a list, or None), ``limits`` (those that were asked for).

    Raises SourceError where the model cannot be served, UsageError where the recipe does not fit it.
    """
    root = str(request["root"])
    with open(f"{root}/{manifests.FILENAME}", "rb") as file:
        manifest = manifests.load(file.read())
    portable = manifest.variants[0]
    try:
        session = open_session(f"{root}/{portable.model}", portable, threads=1)
    except EngineError as error:
        raise SourceError(why_not_opened(error.__cause__, manifest.source["opset"])) from error
    inputs, outputs, notes = _specs(session, set(request["unranked"]))
    manifest = manifest._replace(
        inputs=inputs, outputs=outputs, limits=_fitting(manifest.limits, inputs, request["limits"])
    )
    artifact = Artifact(LocalStore(root), manifest, Stamps("", ""), PhaseClock())
    engine = Engine(session, manifest, portable)
    try:
        task_class = built_in(manifest.task)
        for library in task_class.libraries:
            __import__(library)
        task = task_class(artifact)
    except ModuleNotFoundError as error:
        extra = {"tokenizers": "text", "PIL": "image"}.get(error.name or "", "")
        advice = f"; install it with `pip install 'preheat[{extra}]'`" if extra else ""
        raise UsageError(f"the task {manifest.task!r} needs the package {error.name}{advice}") from None
    recipe = None if request["recipe"] is None else samples.Recipe(*request["recipe"])
    asked = list(_asked(manifest, task, engine, recipe))
    golden, stable = _record(root, engine, [feeds for _, feeds in asked], notes)
    sample = _sample(manifest, engine, task, asked[0], notes)
    answer = Recorded(inputs, outputs, manifest.limits, golden, stable, sample, tuple(notes))
    return {**answer._asdict(), "limits": manifest.limits._asdict()}


def _specs(
    session: Any, unranked: set[str]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], list[str]]:
    """What the session takes and gives. Inputs with a default value are not asked of clients."""
    notes = []
    inputs = []
    for node in session.get_inputs():
        spec = _tensor_spec(node, unranked)
        if spec is None:
            raise SourceError(
                f"the model's input {node.name!r} is a {node.type}; requests carry tensors of the "
                "Open Inference Protocol's types only. Export the model with tensor inputs"
            )
        inputs.append(spec)
    outputs = []
    for node in session.get_outputs():
        spec = _tensor_spec(node, unranked)
        if spec is None:
            notes.append(f"output {node.name!r} is a {node.type}, which no response can carry: left out")
        else:
            outputs.append(spec)
    if not outputs:
        raise SourceError("none of the model's outputs is a tensor that a response can carry")
    defaults = [node.name for node in session.get_overridable_initializers()]
    if defaults:
        notes.append(f"inputs with a default value are not asked of clients: {', '.join(defaults[:8])}")
    return tuple(inputs), tuple(outputs), notes


def _tensor_spec(node: Any, unranked: set[str]) -> TensorSpec | None:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    if not node.type.startswith("tensor(") or kind not in BY_ONNX:
        return None
    if not node.shape and node.name in unranked:
        return TensorSpec(node.name, BY_ONNX[kind].v2, None)
    shape = tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in node.shape)
    return TensorSpec(node.name, BY_ONNX[kind].v2, shape)


def _fitting(limits: Limits, inputs: Sequence[TensorSpec], asked: dict[str, Any]) -> Limits:
    """Limits that let the model's own fixed sizes through; what was asked for stays as it is."""
    fixed = [math.prod(d if isinstance(d, int) else 1 for d in spec.shape or ()) for spec in inputs]
    fits = limits._replace(
        rank=max([limits.rank, *(len(spec.shape or ()) for spec in inputs)]),
        elements=max([limits.elements, *fixed]),
        bytes=max(limits.bytes, 24 * sum(fixed)),  # a number in JSON takes up to 24 characters
    )
    return fits._replace(**asked)


def _asked(
    manifest: Manifest, task: Task, engine: Engine, recipe: samples.Recipe | None
) -> Iterable[tuple[Any, Tensors]]:
    """Natural requests with the tensors that the task makes of them; None for a request where the tensors
    came first."""
    if recipe is not None and recipe.inputs:
        for index, tensors in enumerate(recipe.inputs):
            yield None, _checked(engine, _from_json(tensors, manifest), f"the recipe's inputs[{index}]")
        return
    requests = recipe.requests if recipe is not None else ()
    source = "the recipe's request"
    if not requests:
        natural = samples.natural_request(manifest.task)
        requests, source = (natural,) if natural is not None else (), "the task's sample request"
    if not requests:
        yield None, _made_up(engine)
        return
    for request in requests:
        try:
            feeds = task.prepare(request)
        except RequestError as error:
            raise UsageError(f"{source} does not fit the task {manifest.task!r}: {error}") from error
        yield request, _checked(engine, feeds, source)


def _checked(engine: Engine, feeds: Tensors, source: str) -> Tensors:
    try:
        engine.run(feeds)
    except RequestError as error:
        raise UsageError(f"{source} cannot be answered by the model: {error}") from error
    return feeds


def _from_json(tensors: list[Any], manifest: Manifest) -> Tensors:
    from ..protocol import v2

    try:
        return v2.decode(json.dumps({"inputs": tensors}).encode(), None, manifest).inputs
    except RequestError as error:
        raise UsageError(f"the recipe's inputs do not fit the model: {error}") from error


def _made_up(engine: Engine) -> Tensors:
    """Inputs that the model accepts, finite outputs preferred. Raises UsageError that asks for a recipe."""
    accepted: Tensors | None = None
    refusal, unwanted = "", 0
    end = time.monotonic() + SEARCH_SECONDS
    for feeds in samples.made_up(engine.manifest.inputs):
        try:
            outputs = engine.run(feeds)
        except RequestError as error:
            refusal = refusal or str(error)
        else:
            if all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
                return feeds
            accepted = accepted or feeds
            unwanted += 1
        if time.monotonic() > end or unwanted == MOST_NONFINITE:
            break
    if accepted is None:
        raise UsageError(
            f"the model accepted none of the inputs that were made up for it ({refusal}); give real ones "
            'with --recipe FILE, a JSON file like {"inputs": '
            '[[{"name": "…", "datatype": "FP32", "shape": [1], "data": [0.5]}]]}'
        )
    return accepted


def _record(
    root: str, engine: Engine, asked: Sequence[Tensors], notes: list[str]
) -> tuple[tuple[Golden, ...], tuple[str, ...]]:
    """Run every input twice, write the first answers, and tell which outputs were the same both times."""
    os.makedirs(f"{root}/golden", exist_ok=True)
    golden = []
    stable = {spec.name for spec in engine.manifest.outputs}
    for index, feeds in enumerate(asked):
        first, second = engine.run(feeds), engine.run(feeds)
        stable -= {name for name in stable if not _equal(first[name], second[name])}
        pair = Golden(f"golden/{index}.inputs", f"golden/{index}.outputs")
        for path, tensors in ((pair.inputs, feeds), (pair.outputs, first)):
            with open(f"{root}/{path}", "wb") as file:
                file.write(pack(tensors))
        golden.append(pair)
    unstable = [spec.name for spec in engine.manifest.outputs if spec.name not in stable]
    if unstable:
        notes.append(
            f"not the same in two runs, so not checked against the golden outputs: {', '.join(unstable)}"
        )
    return tuple(golden), tuple(spec.name for spec in engine.manifest.outputs if spec.name in stable)


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and to_bytes(one) == to_bytes(other)


def _sample(
    manifest: Manifest, engine: Engine, task: Task, asked: tuple[Any, Tensors], notes: list[str]
) -> dict[str, Any] | None:
    """The first golden request and its answer, as a client sees them; None where JSON cannot hold them."""
    request, feeds = asked
    try:
        if manifest.task == "tensors":
            sample = _tensor_sample(manifest, engine, feeds)
        else:
            if request is None:  # the recipe's golden inputs are tensors, and clients of the task send none
                request = samples.natural_request(manifest.task)
                feeds = task.prepare(request)
            sample = {"request": request, "answer": task.finish(engine.run(feeds), feeds)}
        size = len(json.dumps(sample, allow_nan=False))
    except (PreheatError, ValueError, TypeError) as error:
        notes.append(f"no sample request in the manifest: {error}")
        return None
    if size > LARGEST_SAMPLE:
        notes.append(f"no sample request in the manifest: it takes {size} bytes of JSON")
        return None
    return sample


def _tensor_sample(manifest: Manifest, engine: Engine, feeds: Tensors) -> dict[str, Any]:
    """An inference request of the Open Inference Protocol, and the outputs that answer it."""
    from ..protocol import v2
    from ..protocol.values import to_list

    document = {
        "inputs": [
            {
                "name": name,
                "datatype": datatype_of(array).v2,
                "shape": list(array.shape),
                "data": to_list(array, name, nested=False),
            }
            for name, array in feeds.items()
        ]
    }
    decoded = v2.decode(json.dumps(document).encode(), None, manifest)
    body, _ = v2.encode(decoded, engine.run(decoded.inputs, decoded.output_names), manifest)
    return {"request": document, "answer": {"outputs": json.loads(body)["outputs"]}}
