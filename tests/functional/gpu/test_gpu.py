"""What needs a GPU of NVIDIA's; `make test-gpu` runs it with onnxruntime-gpu. Elsewhere each test is skipped,
with what is missing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import device, fingerprint
from preheat.build import build
from preheat.build.accelerated import check
from preheat.build.manifest_text import dump
from preheat.engine import Engine
from preheat.errors import PreheatError
from preheat.manifest import Manifest, load
from preheat.providers import CUDA, TENSORRT

from ...conftest import Server, serving
from ..build import models
from ..test_bad_artifacts import refused

HALF = 0.02
"""Drift that half precision may have."""


def missing(provider: str) -> str:
    """Why a provider cannot be tried here; empty where it can."""
    try:
        device.find()
        check(provider, fingerprint.with_runtime(fingerprint.machine()))
    except PreheatError as error:
        return str(error)
    return ""


NO_CUDA, NO_TENSORRT = missing("cuda"), missing("tensorrt")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA)]
with_tensorrt = pytest.mark.skipif(bool(NO_TENSORRT), reason=NO_TENSORRT)


def made(
    folder: Path, rows: int | str = "batch", provider: str = "cuda", width: int = 512, **options: Any
) -> Manifest:
    """An artifact of a chain of matrices [rows, width]."""
    built = models.linear(width=width)
    if isinstance(rows, int):
        for value in (*built.graph.input, *built.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = rows
    source = models.save(built, folder / "source" / "m.onnx")
    out = str(folder / "artifact")
    return build(str(source), out, provider=provider, tolerance=HALF, rounds=1, only=("packed",), **options)


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    made(folder)
    return folder / "artifact"


def ask(server: Server, rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], dict[str, str]]:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    answer = server.request("POST", "/v2/models/m/infer", {"inputs": [tensor]})
    assert answer.status == 200, answer.body
    (output,) = answer.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"]), dict(answer.headers)


def test_the_fingerprint_has_the_gpu_and_its_libraries() -> None:
    here = fingerprint.with_runtime(fingerprint.machine())
    assert here.gpu.startswith("sm_")
    assert here.gpu_memory_mib > 1000
    assert 0 < device.free_mib() <= here.gpu_memory_mib
    assert {"cuda", "cudnn"} <= set(here.libraries)


def test_variants_for_cuda_are_made_checked_and_measured(cuda: Path) -> None:
    manifest = load((cuda / "manifest.json").read_bytes())
    by_name = {variant.name: variant for variant in manifest.variants}
    assert by_name["cuda"].requires.provider == by_name["fp16"].requires.provider == CUDA
    rows = manifest.measurements["variants"]
    assert rows["cuda"]["drift"] <= 1e-3
    assert rows["fp16"]["drift"] <= HALF
    for name in ("cuda", "fp16"):
        assert (manifest.measured(name, "device_mib") or 0) > 0


@pytest.mark.parametrize("variant", ["cuda", "fp16"])
def test_it_runs_on_the_gpu_and_answers_as_the_cpu_does(cuda: Path, cache: Path, variant: str) -> None:
    rows = np.random.default_rng(1).normal(size=(5, 512)).astype("f4")
    answers = {}
    for name in ("packed", variant):
        with serving(cuda, PREHEAT_CACHE=str(cache), PREHEAT_VARIANT=name) as server:
            answers[name], headers = ask(server, rows)
            report = server.request("GET", "/coldstart").json()
        assert "x-preheat-degraded" not in headers
    assert report["provider"] == CUDA
    assert report["host"]["gpu"].startswith("sm_")
    limit = HALF * np.abs(answers["packed"]).max()
    np.testing.assert_allclose(answers[variant], answers["packed"], atol=limit)


def test_the_gpu_is_taken_without_being_asked_for(cuda: Path, cache: Path) -> None:
    with serving(cuda, PREHEAT_CACHE=str(cache), PREHEAT_REQUIRE_PROVIDER="cuda") as server:
        server.wait_ready(120)
        assert server.request("GET", "/coldstart").json()["provider"] == CUDA


def test_fixed_shapes_are_run_as_a_graph(tmp_path: Path, cache: Path) -> None:
    manifest = made(tmp_path, rows=4)
    variant = manifest.variant("cuda")
    assert variant is not None
    assert variant.provider_options["enable_cuda_graph"] == "1"
    with serving(tmp_path / "artifact", PREHEAT_CACHE=str(cache), PREHEAT_VARIANT="cuda") as server:
        inputs = [np.random.default_rng(seed).normal(size=(4, 512)).astype("f4") for seed in range(3)]
        graphs = [ask(server, rows)[0] for rows in (*inputs, inputs[0])]
    with serving(tmp_path / "artifact", PREHEAT_CACHE=str(cache), PREHEAT_VARIANT="packed") as server:
        plain = [ask(server, rows)[0] for rows in inputs]
    np.testing.assert_array_equal(graphs[0], graphs[3])
    for ours, theirs in zip(graphs, plain, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_too_little_memory_is_told_before_the_session(cuda: Path, tmp_path: Path, cache: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(cuda, tmp_path / "artifact"))
    manifest = load((copy / "manifest.json").read_bytes())
    figures = json.loads(json.dumps(manifest.measurements))
    for name in ("cuda", "fp16"):
        figures["variants"][name]["device_mib"]["median"] = 10_000_000.0
    (copy / "manifest.json").write_text(dump(manifest._replace(measurements=figures)))
    said = "needs 10000000 MiB of the GPU's memory"
    assert said in refused(copy, cache, PREHEAT_REQUIRE_PROVIDER="cuda")
    with serving(copy, PREHEAT_CACHE=str(cache)) as server:
        _, headers = ask(server, np.zeros((1, 512), "f4"))
        assert headers["x-preheat-degraded"] == "variant=packed"
        assert said in server.request("GET", "/coldstart").json()["fallback"]


@pytest.mark.parametrize("variant", ["cuda", "fp16"])
def test_weights_that_were_sent_ahead_are_used_and_lie_there_once(
    tmp_path: Path, cache: Path, variant: str
) -> None:
    made(tmp_path, width=4096)  # 200 MB, half of that in half precision
    rows = np.random.default_rng(1).normal(size=(5, 4096)).astype("f4")
    answers, taken = [], []
    for ahead in ("off", "on"):
        free = device.free_mib()
        environ = {"PREHEAT_VARIANT": variant, "PREHEAT_DEVICE_AHEAD": ahead}
        with serving(tmp_path / "artifact", PREHEAT_CACHE=str(cache), **environ) as server:
            answers.append(ask(server, rows)[0])
            taken.append(free - device.free_mib())
            report = server.request("GET", "/coldstart").json()
    (opened,) = [phase["attributes"] for phase in report["phases"] if phase["phase"] == "compile"]
    assert "not_ahead" not in opened, opened
    assert opened["sent_bytes"] == 3 * 4096 * 4096 * (2 if variant == "fp16" else 4)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert taken[1] < taken[0] + 64


@with_tensorrt
def test_an_engine_is_built_once_and_no_start_builds_one(tmp_path: Path, cache: Path) -> None:
    began = time.monotonic()
    manifest = made(tmp_path, provider="tensorrt", limits={"batch": 16})
    building = time.monotonic() - began
    variant = manifest.variant("tensorrt")
    assert variant is not None
    assert (variant.requires.provider, variant.requires.gpu) == (TENSORRT, fingerprint.machine().gpu)
    kinds = {Path(path).suffix for path in variant.files}
    assert {".onnx", ".engine", ".timing"} <= kinds
    artifact = tmp_path / "artifact"
    before = {path: path.stat().st_mtime_ns for path in artifact.rglob("*")}
    with serving(artifact, PREHEAT_CACHE=str(cache), PREHEAT_REQUIRE_PROVIDER="tensorrt") as server:
        server.wait_ready(120)
        report = server.request("GET", "/coldstart").json()
        ask(server, np.ones((16, 512), "f4"))
        tensor = {"name": "x", "datatype": "FP32", "shape": [17, 512], "data": [0.0] * 17 * 512}
        over = server.request("POST", "/v2/models/m/infer", {"inputs": [tensor]})
    assert over.status in (413, 422)  # outside the engine's profile: refused, not built anew
    (opened,) = [phase for phase in report["phases"] if phase["phase"] == "compile"]
    assert opened["duration_ms"] < building * 1e3 / 5
    assert before == {path: path.stat().st_mtime_ns for path in artifact.rglob("*")}


@with_tensorrt
def test_a_rebuild_begins_with_the_timings_of_what_it_replaces(tmp_path: Path) -> None:
    seconds = []
    for said in ("without a timing cache", "with the timing cache of the artifact that was replaced"):
        (note,) = [
            note
            for note in made(tmp_path, provider="tensorrt", limits={"batch": 16}).measurements["notes"]
            if note.startswith("TensorRT's engine was built in ")
        ]
        assert said in note
        seconds.append(float(note.split(" s, ")[0].rsplit(" ", 1)[1]))
    assert seconds[1] < seconds[0]


def test_a_session_is_closed_and_its_memory_given_back(cuda: Path) -> None:
    from preheat.compile import opened

    manifest = load((cuda / "manifest.json").read_bytes())
    variant = manifest.variant("cuda")
    assert variant is not None
    engine: Engine | None = opened(str(cuda / variant.model), manifest, variant, threads=1)
    assert engine is not None
    engine.run({"x": np.ones((1, 512), "f4")})
    free = device.free_mib()
    engine = None
    assert device.free_mib() >= free
