"""An artifact with variants for a GPU, where there is none: degraded and said so, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from preheat import device
from preheat.build.manifest_text import dump
from preheat.manifest import Requires, load
from preheat.providers import CUDA, TENSORRT

from ..conftest import serving
from .build import models
from .build.conftest import preheat
from .test_bad_artifacts import REQUEST, refused


@pytest.fixture
def artifact(tmp_path: Path, filetype_artifact: Path) -> Path:
    """One that was built on a GPU, as far as its manifest goes."""
    copy = tmp_path / "artifact"
    shutil.copytree(filetype_artifact, copy)
    manifest = load((copy / "manifest.json").read_bytes())
    portable = manifest.variants[0]
    engine = Requires(TENSORRT, gpu="sm_90", driver="580.1", libraries={"tensorrt": "10.1.2"})
    made = (
        portable._replace(name="cuda", requires=Requires(CUDA), provider_options={"use_tf32": "0"}),
        portable._replace(name="tensorrt", requires=engine),
    )
    (copy / "manifest.json").write_text(dump(manifest._replace(variants=(*manifest.variants, *made))))
    return copy


@pytest.fixture(autouse=True)
def without_a_gpu() -> None:
    try:
        found = device.find()
    except device.NoGpuError:
        return
    pytest.skip(f"this is about machines without a GPU, and here is one: {found.name}")


def test_the_cpu_answers_and_says_that_it_is_not_what_was_built(artifact: Path, cache: Path) -> None:
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        answer = server.request("POST", "/predict", REQUEST)
        report = server.request("GET", "/coldstart").json()
    assert answer.status == 200
    assert report["provider"] == "CPUExecutionProvider"
    assert answer.headers["x-preheat-degraded"] == f"variant={report['variant']}"
    assert "cuda: needs CUDAExecutionProvider" in report["fallback"]
    assert "tensorrt: needs TensorrtExecutionProvider" in report["fallback"]
    assert report["host"]["gpu"] == ""


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", CUDA])
def test_a_provider_that_is_required_refuses_the_start(artifact: Path, cache: Path, provider: str) -> None:
    line = refused(artifact, cache, PREHEAT_REQUIRE_PROVIDER=provider)
    assert "no variant can be opened on this machine" in line
    assert "portable: runs on CPUExecutionProvider, and " in line


def test_the_cpu_that_is_required_is_not_less(artifact: Path, cache: Path) -> None:
    with serving(artifact, PREHEAT_CACHE=str(cache), PREHEAT_REQUIRE_PROVIDER="cpu") as server:
        answer = server.request("POST", "/predict", REQUEST)
    assert answer.status == 200
    assert "x-preheat-degraded" not in answer.headers


def test_a_provider_that_nobody_knows(artifact: Path, cache: Path) -> None:
    with serving(artifact, PREHEAT_CACHE=str(cache), PREHEAT_REQUIRE_PROVIDER="gpu") as server:
        status, _, err = server.finish()
    assert (status, "tensorrt, cuda, cpu, not 'gpu'" in err) == (2, True)


def test_inspect_says_why_they_do_not_run_here(artifact: Path) -> None:
    ran = preheat("inspect", artifact)
    assert ran.status == 0
    assert "cuda does not run here: needs CUDAExecutionProvider" in " ".join(ran.out.split())


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_build_for_a_gpu_is_refused_before_anything_is_done(tmp_path: Path, provider: str) -> None:
    source = models.save(models.linear(), tmp_path / "m.onnx")
    ran = preheat("build", source, "-o", tmp_path / "out", "--provider", provider)
    assert ran.status == 1
    assert f"--provider {provider} needs onnxruntime with" in ran.error or "no NVIDIA driver" in ran.error
    assert not (tmp_path / "out").exists()


def test_a_build_for_another_provider_is_wrong_use(tmp_path: Path) -> None:
    source = models.save(models.linear(), tmp_path / "m.onnx")
    ran = preheat("build", source, "-o", tmp_path / "out", "--provider", "rocm")
    assert (ran.status, ran.error) == (2, "the provider must be one of cuda, tensorrt, not 'rocm'")
