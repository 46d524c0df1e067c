"""The whole build: source -> portable variant -> golden inferences -> variants -> measurements -> artifact.

Everything happens in a folder beside the artifact's place, which is put there whole at the end. What fails
leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from .. import fingerprint
from ..errors import BuildError, SourceError
from ..fingerprint import Fingerprint
from ..manifest import Limits, Manifest
from . import accelerated, arguments, isolated, materials, planner, record, samples, timing_cache, variants
from .intake import Files, Model, take
from .place import Place, write_manifest
from .progress import Progress, Step, quiet

MAKING_TIMEOUT = 3600.0
"""Seconds that one variant, or the recording of golden inferences, may take."""


def build(
    model: str,
    out: str,
    *,
    name: str | None = None,
    task: str | None = None,
    objective: str = "balanced",
    quantize: str | None = None,
    tolerance: float = 1e-3,
    recipe: str | None = None,
    rounds: int = 5,
    only: Sequence[str] = (),
    limits: Mapping[str, int | bool] | None = None,
    provider: str | None = None,
    timings: str | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Build an artifact in the folder ``out`` from an ONNX file or a Hugging Face model folder.

    ``quantize``: ``"int8"`` for one more variant. ``tolerance``: largest drift (tensors.drift) of a variant.
    ``recipe``: path of a recipe file (samples.Recipe). ``rounds``: how often each variant is tried; fewer
    where the model is slow. ``only``: the variants to make beside ``portable``; none named: all that can be.
    ``limits``: fields of manifest.Limits to set. ``provider``: ``"cuda"`` or ``"tensorrt"`` for variants on
    this machine's GPU too. ``timings``: the timing cache that TensorRT begins with (timing_cache.find); by
    default that of the artifact in ``out``.

    Raises UsageError, SourceError, BuildError or DriftError, and then writes nothing.
    """
    progress = progress or quiet
    arguments.check(name, task, objective, quantize, tolerance, rounds, limits or {}, provider, timings)
    wanted = arguments.wanted_variants(only, quantize, provider)
    given = None if recipe is None else samples.read_recipe(recipe)
    model = os.path.abspath(model)
    if not os.path.lexists(model):
        raise SourceError(f"{model} does not exist")
    name = name or arguments.name_of(model)
    place = Place(out)
    machine = fingerprint.with_runtime(fingerprint.machine())
    cache, note = None, ""
    if provider:
        accelerated.check(provider, machine)
    if provider == "tensorrt":
        cache, note = timing_cache.find(timings, place.path, machine)

    with place.staging() as root, _refusals_in_words(place.path):
        files = Files(root)
        taken = take(model, root, task, files, progress)
        draft = _draft(taken, name, objective, tolerance, given, limits or {}, files)
        manifest, notes = _recorded(root, draft, taken, given, dict(limits or {}), progress)
        made: list[str] = [note] if note else []
        manifest, left_out = _with_variants(
            root, manifest, machine, wanted, provider, cache, made, files, progress
        )
        manifest = write_manifest(root, manifest._replace(files=files.all()))
        planned = planner.plan(
            root,
            manifest,
            machine,
            threads=machine.cpus,
            rounds=rounds,
            must=[name for name in (quantize, provider) if name],
            progress=lambda name, done, total: progress(Step("trying variants", name, done, total)),
        )
        manifest = _without(root, manifest, planned.left_out, files)
        measurements = planned.measurements
        measurements["variants"].update({n: {"left_out": reason} for n, reason in left_out.items()})
        measurements["notes"] = [*taken.notes, *notes, *made]
        measurements[materials.BUILDER] = materials.builder(str(manifest.source["format"]))
        manifest = write_manifest(root, manifest._replace(files=files.all(), measurements=measurements))
        place.commit(root)
    return manifest


@contextmanager
def _refusals_in_words(out: str) -> Iterator[None]:
    """What the file system refuses (a full disk, no permission) is an error of the build, in words."""
    try:
        yield
    except OSError as error:
        where = error.filename or out
        raise BuildError(f"the artifact cannot be written: {where}: {error.strerror or error}") from error


def _recorded(
    root: str,
    draft: Manifest,
    taken: Model,
    recipe: samples.Recipe | None,
    limits: dict[str, int | bool],
    progress: Progress,
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest with what the portable variant takes and answers."""
    progress(Step("recording golden outputs"))
    write_manifest(root, draft)
    request = {
        "root": root,
        "unranked": taken.unranked,
        "recipe": None if recipe is None else list(recipe),
        "limits": limits,
    }
    try:
        recorded = record.read(isolated.call("preheat.build.record", request, timeout=MAKING_TIMEOUT))
    except isolated.CrashError as error:
        raise BuildError(f"the model could not be run here: the process {error}") from error
    manifest = draft._replace(
        inputs=recorded.inputs,
        outputs=recorded.outputs,
        limits=recorded.limits,
        golden=recorded.golden,
        stable_outputs=recorded.stable_outputs,
        sample=recorded.sample,
    )
    return manifest, recorded.notes


def _with_variants(
    root: str,
    manifest: Manifest,
    machine: Fingerprint,
    wanted: Sequence[str],
    provider: str | None,
    cache: timing_cache.TimingCache | None,
    notes: list[str],
    files: Files,
    progress: Progress,
) -> tuple[Manifest, dict[str, str]]:
    """The manifest with every variant that can be made, and the reasons for those that cannot. ``notes`` gets
    what is to be told of their making."""
    left_out: dict[str, str] = {}
    shapes = accelerated.shapes(root, manifest) if provider else None
    for done, name in enumerate(wanted):
        progress(Step("making variants", name, done, len(wanted)))
        try:
            made = variants.make(
                *(name, root, manifest.variants[0], machine),
                timeout=MAKING_TIMEOUT,
                shapes=shapes,
                timing_cache=cache,
                notes=notes,
            )
        except variants.LeftOutError as error:
            if name in ("int8", provider):  # it was asked for by name
                raise BuildError(f"the variant {name} cannot be made: {error}") from error
            left_out[name] = str(error)
        else:
            manifest = manifest._replace(variants=(*manifest.variants, made))
    for variant in manifest.variants:
        for path in variant.files:
            files.add(path)
    for golden in manifest.golden:
        for path in golden:
            files.add(path)
    return manifest, left_out


def _without(root: str, manifest: Manifest, dropped: Mapping[str, str], files: Files) -> Manifest:
    """The manifest without some variants; their files are removed unless another variant opens them."""
    kept = tuple(v for v in manifest.variants if v.name not in dropped)
    needed = {path for variant in kept for path in variant.files}
    for path in {path for variant in manifest.variants for path in variant.files} - needed:
        files.remove(path)
    for folder in os.listdir(os.path.join(root, "variants")):
        if not any(path.startswith(f"variants/{folder}/") for path in needed):
            shutil.rmtree(os.path.join(root, "variants", folder))
    return manifest._replace(variants=kept)


def _draft(
    taken: Model,
    name: str,
    objective: str,
    tolerance: float,
    recipe: samples.Recipe | None,
    limits: Mapping[str, int | bool],
    files: Files,
) -> Manifest:
    for path in taken.assets.values():
        files.add(path)
    sequence = taken.options.get("max_length", 0)
    return Manifest(
        name=name,
        version="",
        task=taken.task,
        options=taken.options,
        source=taken.facts,
        inputs=(),
        outputs=(),
        limits=Limits()._replace(**{"sequence": sequence, **limits}),
        objective=objective,
        variants=(taken.variant,),
        assets=taken.assets,
        golden=(),
        tolerance=tolerance,
        stable_outputs=(),
        warmup_runs=recipe.runs if recipe else 1,
        sample=None,
        files=files.all(),
        measurements={},
    )
