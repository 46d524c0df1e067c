"""TensorRT's timing cache from one build to the next, with what stands for onnxruntime's provider: it reads
the cache from the folder that it builds in, and writes there what the real one writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from preheat.build import accelerated, arguments, isolated, pipeline, planner, timing_cache, variants
from preheat.build.manifest_text import dump
from preheat.download import sha256_of
from preheat.errors import BuildError, UsageError
from preheat.fingerprint import Fingerprint
from preheat.manifest import File, Manifest, Requires, Variant, load
from preheat.providers import TENSORRT

from ...functional.build import models
from ..test_manifest import manifest
from .test_accelerated import HERE

NAME = "TensorrtExecutionProvider_cache_sm90.timing"
OTHER_RUNTIME = HERE._replace(onnxruntime="1.40.0", arch="aarch64")


def artifact(folder: Path, cache: bytes = b"timings", machine: Fingerprint = HERE) -> Path:
    """One with an engine and its timing cache, as far as its manifest and those files go."""
    path = f"variants/tensorrt/{NAME}"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(cache)
    model = "variants/tensorrt/model.onnx"
    (folder / model).write_bytes(b"")
    files = tuple(
        File(name, (folder / name).stat().st_size, sha256_of(str(folder / name))) for name in (path, model)
    )
    whole = manifest()
    engine = Variant("tensorrt", model, (path, model), "disabled", {}, variants.requires("tensorrt", machine))
    found = whole._replace(variants=(*whole.variants, engine), files=(*whole.files, *files))
    (folder / "manifest.json").write_text(dump(found))
    return folder


@pytest.mark.parametrize("machine", [HERE, HERE._replace(driver="590.1"), OTHER_RUNTIME])
def test_the_artifact_that_is_replaced_gives_its_cache(tmp_path: Path, machine: Fingerprint) -> None:
    old = artifact(tmp_path / "old")
    found, note = timing_cache.find(None, str(old), machine)
    assert found is not None
    assert (found.name, note) == (NAME, "")
    assert Path(found.path).read_bytes() == b"timings"
    assert found.origin == "the artifact that was replaced"
    assert timing_cache.find("none", str(old), machine) == (None, "")


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (HERE._replace(gpu="sm_89"), "for sm_90, this GPU .* is sm_89"),
        (HERE._replace(driver="570.86"), "driver 580.65.06 or newer, this is 570.86"),
        (HERE._replace(libraries=HERE.libraries | {"tensorrt": "10.17.0"}), "for tensorrt 10.16.1"),
        (HERE._replace(libraries=HERE.libraries | {"cuda": "12.8"}), "for cuda 13.5"),
    ],
)
def test_one_that_does_not_fit_is_noted_or_refused(tmp_path: Path, machine: Fingerprint, said: str) -> None:
    old = artifact(tmp_path / "old")
    found, note = timing_cache.find(None, str(old), machine)
    assert found is None
    assert re.search(f"replaced was not used: .*{said}", note)
    with pytest.raises(BuildError, match=f"timing cache of {old} cannot be used: .*{said}"):
        timing_cache.find(str(old), "", machine)


def test_one_that_was_changed_is_not_used(tmp_path: Path) -> None:
    old = artifact(tmp_path / "old")
    (old / "variants" / "tensorrt" / NAME).write_bytes(b"TIMINGS")
    assert "was changed since it was built" in timing_cache.find(None, str(old), HERE)[1]
    with pytest.raises(BuildError, match="was changed since it was built"):
        timing_cache.find(str(old), "", HERE)


def test_where_there_is_nothing_to_take(tmp_path: Path) -> None:
    assert timing_cache.find(None, str(tmp_path / "nothing"), HERE) == (None, "")
    bare = tmp_path / "bare"
    bare.mkdir()
    assert timing_cache.find(None, str(bare), HERE) == (None, "")
    (bare / "manifest.json").write_text(dump(manifest()))
    assert timing_cache.find(None, str(bare), HERE) == (None, "")
    with pytest.raises(BuildError, match="has no timing cache: it was built without --provider tensorrt"):
        timing_cache.find(str(bare), "", HERE)
    (bare / "manifest.json").write_text("{}")
    assert "replaced was not used: " in timing_cache.find(None, str(bare), HERE)[1]
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UsageError, match="a timing cache's file, an artifact or none"):
            timing_cache.find(str(wrong), "", HERE)


def test_a_file_gets_the_name_that_onnxruntime_looks_for(tmp_path: Path) -> None:
    (tmp_path / "kept.timing").write_bytes(b"timings")
    found, _ = timing_cache.find(str(tmp_path / "kept.timing"), "", HERE)
    assert found == (str(tmp_path / "kept.timing"), NAME, "kept.timing")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError):
        timing_cache.find(str(tmp_path / "empty"), "", HERE)


def test_it_is_tensorrts_alone() -> None:
    with pytest.raises(UsageError, match="--timing-cache is TensorRT's"):
        arguments.check(None, None, "cold", None, 1e-3, 5, {}, "cuda", "none")
    arguments.check(None, None, "cold", None, 1e-3, 5, {}, "tensorrt", "none")


class TensorRT:
    """What onnxruntime.InferenceSession does for TensorRT's provider. ``rejects``: caches it cannot read."""

    def __init__(self, rejects: bytes = b"-") -> None:
        self.rejects = rejects
        self.began_with: list[bytes | None] = []

    def __call__(self, source: str, settings: Any, *, providers: Any, enable_fallback: int) -> Any:
        (_, options), *_ = providers
        cache = Path(options["trt_timing_cache_path"], NAME)
        self.began_with.append(cache.read_bytes() if cache.exists() else None)
        Path("half-written").touch()
        if self.began_with[-1] == self.rejects:
            raise RuntimeError("TensorRT EP could not create timing cache")
        Path("half-written").unlink()
        node = onnx.helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")
        shape = [models.tensor(name, models.F, [1, 4]) for name in ("x", "y")]
        built = models.model([node], shape[:1], shape[1:], domains={"com.microsoft": 1})
        onnx.save(built, options["trt_ep_context_file_path"])
        Path("TensorrtExecutionProvider_1.engine").write_bytes(b"engine")
        cache.write_bytes((self.began_with[-1] or b"") + b"+")
        return self

    def get_providers(self) -> list[str]:
        return [TENSORRT]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRT:
    """TensorRT's variant is made in this process, by the stand-in; graphs for CUDA are left out, and what
    runs on the CPU runs as ever."""
    stand_in, real = TensorRT(), isolated.call

    def call(module: str, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        if module != "preheat.build.accelerated":
            return real(module, request, timeout=timeout)
        if request["name"] != "tensorrt":
            raise variants.LeftOutError("not here")
        return accelerated.main(request)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(isolated, "call", call)
    monkeypatch.setattr("onnxruntime.InferenceSession", stand_in)
    monkeypatch.setattr(accelerated, "_tried", lambda *_: {"optimization": "disabled"})
    return stand_in


def make(root: Path, cache: timing_cache.TimingCache | None) -> tuple[Variant, list[str]]:
    models.save(models.linear(width=4), root / "source.onnx")
    source = Variant("portable", "source.onnx", ("source.onnx",), "all", {}, Requires())
    inputs = {"x": {"dtype": "FP32", "least": [1, 4], "usual": [1, 4], "most": [2, 4]}}
    notes: list[str] = []
    made = variants.make(
        *("tensorrt", str(root), source, HERE),
        timeout=60,
        shapes={"fixed": False, "unbounded": "", "inputs": inputs},
        timing_cache=cache,
        notes=notes,
    )
    return made, notes


def test_an_engine_begins_with_the_cache_and_keeps_what_came_of_it(
    tensorrt: TensorRT, tmp_path: Path
) -> None:
    cache, _ = timing_cache.find(str(artifact(tmp_path / "old")), "", HERE)
    variant, (note,) = make(tmp_path / "new", cache)
    assert tensorrt.began_with == [b"timings"]
    (kept,) = [path for path in variant.files if path.endswith(".timing")]
    assert (tmp_path / "new" / kept).read_bytes() == b"timings+"
    assert variant.model == "variants/tensorrt/model.onnx"
    assert re.fullmatch(r"TensorRT's engine was built in \d+\.\d s, with the timing cache of old", note)


def test_without_one_it_is_built_all_the_same(tensorrt: TensorRT, tmp_path: Path) -> None:
    _, (note,) = make(tmp_path / "new", None)
    assert tensorrt.began_with == [None]
    assert note.endswith("without a timing cache")


def test_a_cache_that_tensorrt_does_not_read_costs_no_engine(tensorrt: TensorRT, tmp_path: Path) -> None:
    tensorrt.rejects = b"timings"
    cache, _ = timing_cache.find(str(artifact(tmp_path / "old")), "", HERE)
    variant, (note,) = make(tmp_path / "new", cache)
    assert tensorrt.began_with == [b"timings", None]
    assert {Path(path).name for path in variant.files} == {
        "model.onnx",
        "TensorrtExecutionProvider_1.engine",
        NAME,
    }
    assert "without the timing cache of" in note
    assert "could not create timing cache" in note


def test_a_build_takes_it_from_what_it_replaces(
    tensorrt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.fingerprint, "with_runtime", lambda _: HERE)
    monkeypatch.setattr(planner, "plan", lambda *_, **__: planner.Plan({"variants": {}}, {}))
    source = models.save(models.linear(width=64), tmp_path / "m.onnx")
    out = tmp_path / "out"

    def build(**options: Any) -> Manifest:
        return pipeline.build(
            str(source), str(out), provider="tensorrt", only=("packed",), limits={"batch": 8}, **options
        )

    first, second, third = build(), build(), build(timings="none")
    assert tensorrt.began_with == [None, b"+", None]
    for made, said in (
        (first, "without a timing"),
        (second, "artifact that was replaced"),
        (third, "without"),
    ):
        assert said in made.measurements["notes"][-1]
    assert load((out / "manifest.json").read_bytes()).variant("tensorrt") == third.variant("tensorrt")
