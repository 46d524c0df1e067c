from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from preheat.build import accelerated, arguments, variants
from preheat.device_weights import read_table
from preheat.engine import open_session
from preheat.errors import BuildError, EngineError, PreheatError, UsageError
from preheat.fingerprint import Fingerprint
from preheat.manifest import Golden, Limits, Manifest, Requires, TensorSpec, Variant
from preheat.providers import CPU, CUDA, TENSORRT
from preheat.tensors import drift, pack

from ...functional.build import models
from ..test_manifest import manifest

HERE = Fingerprint(
    *("x86_64", ("avx2",), 4, "1.31.1", (TENSORRT, CUDA, CPU)),
    *("sm_90", "NVIDIA H100", 81920, "580.65.06"),
    {"cuda": "13.5", "cudnn": "9.28.0", "tensorrt": "10.16.1"},
)


def text(root: Path, **changes: object) -> Manifest:
    """Of a text model: two inputs, each [batch, length]; its golden input is one row of nine tokens."""
    row = np.zeros((1, 9), np.int64)
    (root / "golden").write_bytes(pack({"ids": row, "mask": row}))
    found = manifest(
        inputs=tuple(TensorSpec(name, "INT64", ("batch", "length")) for name in ("ids", "mask")),
        outputs=(TensorSpec("y", "FP32", ("batch", 8)),),
        golden=(Golden("golden", "golden"),),
        limits=Limits(batch=16, sequence=128),
    )
    return found._replace(**changes)


@pytest.mark.parametrize(
    ("machine", "provider", "said"),
    [
        (
            HERE._replace(providers=(CPU,)),
            "cuda",
            r"needs onnxruntime with CUDA.*this one has CPU.*pip install",
        ),
        (HERE._replace(providers=(CUDA, CPU)), "tensorrt", "needs onnxruntime with Tensorrt"),
        (HERE._replace(libraries={"cuda": "13.5"}), "cuda", "needs cudnn, which cannot be loaded here: pip"),
        (
            HERE._replace(libraries={"cuda": "1", "cudnn": "9"}),
            "tensorrt",
            r"needs tensorrt.*libnvinfer.so.10",
        ),
    ],
)
def test_what_a_provider_lacks_is_said(machine: Fingerprint, provider: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        accelerated.check(provider, machine)


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preheat.device.DRIVER", ("/dev/nothing",))
    with pytest.raises(PreheatError, match="there is no /dev/nothing"):
        accelerated.check("cuda", HERE._replace(gpu=""))
    accelerated.check("cuda", HERE)
    accelerated.check("tensorrt", HERE)


def test_the_variants_that_a_provider_asks_for() -> None:
    assert arguments.wanted_variants(["packed"], "int8", "cuda") == ("packed", "int8", "cuda", "fp16")
    assert arguments.wanted_variants([], None, "tensorrt")[-1] == "tensorrt"
    with pytest.raises(UsageError, match="the provider must be one of cuda, tensorrt, not 'rocm'"):
        arguments.check(None, None, "cold", None, 1e-3, 5, {}, "rocm")


def test_an_engine_is_tied_to_what_it_was_built_with() -> None:
    needs = variants.requires("tensorrt", HERE)
    assert HERE.refuses(needs) is None
    assert HERE._replace(driver="590.1").refuses(needs) is None
    for other, said in (
        (HERE._replace(gpu="sm_89"), "its engine is for sm_90, this GPU (NVIDIA H100) is sm_89"),
        (HERE._replace(driver="570.86"), "needs the GPU's driver 580.65.06 or newer, this is 570.86"),
        (
            HERE._replace(libraries=HERE.libraries | {"tensorrt": "10.16.2"}),
            "for tensorrt 10.16.1, which is 10.16.2",
        ),
        (HERE._replace(libraries={"cuda": "13.5"}), "for tensorrt 10.16.1, which is missing here"),
        (HERE._replace(onnxruntime="1.32.0"), "made for onnxruntime 1.31 up to 1.32"),
        (HERE._replace(gpu=""), "there is no GPU here that can be used"),
    ):
        assert said in (other.refuses(needs) or "")


@pytest.mark.parametrize("name", ["cuda", "fp16"])
def test_graphs_for_cuda_run_on_any_gpu(name: str) -> None:
    needs = variants.requires(name, HERE)
    assert (needs.provider, needs.gpu, needs.libraries) == (CUDA, None, None)
    assert HERE._replace(gpu="sm_75", driver="1").refuses(needs) is None
    assert HERE._replace(gpu="").refuses(needs)


def test_the_profile_covers_what_requests_may_ask_for(tmp_path: Path) -> None:
    options = accelerated.engine_options(accelerated.shapes(str(tmp_path), text(tmp_path)))
    assert options["trt_profile_min_shapes"] == "ids:1x1,mask:1x1"
    assert options["trt_profile_opt_shapes"] == "ids:1x9,mask:1x9"
    assert options["trt_profile_max_shapes"] == "ids:16x128,mask:16x128"
    paths = {key: value for key, value in options.items() if key.endswith("_path")}
    assert not [path for path in paths.values() if path.startswith("/")]


def test_what_has_no_bound_gets_no_engine(tmp_path: Path) -> None:
    endless = accelerated.shapes(str(tmp_path), text(tmp_path, limits=Limits(batch=16)))
    with pytest.raises(
        variants.LeftOutError, match="axis 1 of input 'mask' has no largest size: give --limit"
    ):
        accelerated.profile(endless)
    ranks = tuple(TensorSpec(name, "INT64", None) for name in ("ids", "mask"))
    with pytest.raises(variants.LeftOutError, match="'mask' is no tensor of a known rank"):
        accelerated.profile(accelerated.shapes(str(tmp_path), text(tmp_path, inputs=ranks)))


@pytest.mark.parametrize(("rows", "fixed"), [(1, True), ("batch", False)])
def test_fixed_shapes_are_found(tmp_path: Path, rows: int | str, fixed: bool) -> None:
    inputs = tuple(TensorSpec(name, "INT64", (rows, 9)) for name in ("ids", "mask"))
    outputs = (TensorSpec("y", "FP32", (rows, 8)),)
    found = accelerated.shapes(str(tmp_path), text(tmp_path, inputs=inputs, outputs=outputs))
    assert found["fixed"] is fixed


def test_half_precision_keeps_what_clients_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = models.save(models.linear(), tmp_path / "m.onnx")
    accelerated.half(str(source), "half.onnx")
    assert (tmp_path / "half.onnx.data").stat().st_size == pytest.approx(source.stat().st_size / 2, rel=0.1)
    feeds = {"x": np.random.default_rng(7).normal(size=(3, 64)).astype("f4")}
    answers = []
    for path in (source, tmp_path / "half.onnx"):
        session = open_session(str(path), Variant("v", "", (), "all", {}, Requires()), threads=1)
        assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float)"
        answers.append({"y": session.run(["y"], feeds)[0]})
    assert 0 < drift(answers[1], answers[0], ("y",)) < 1e-2


def test_a_model_without_weights_is_left_as_it_is(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    shape = [models.tensor(name, models.F, [1, 4]) for name in ("x", "y")]
    source = models.save(models.model([node], shape[:1], shape[1:]), tmp_path / "m.onnx")
    with pytest.raises(variants.LeftOutError, match="no weights that half precision would change"):
        accelerated.half(str(source), str(tmp_path / "half.onnx"))


@pytest.mark.parametrize("readable", [True, False])
def test_what_a_start_does_not_change_has_a_table_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """Made by the CPU's provider in place of CUDA's. A graph that a start optimises gets no table."""

    def tried(_name: str, level: str, *_: object) -> dict[str, object]:
        if level == "disabled" and not readable:
            raise EngineError("not readable again")
        return {"optimization": level, "provider_options": {}}

    monkeypatch.setitem(variants.WAYS, "cuda", variants.Way())
    monkeypatch.setattr(accelerated, "_tried", tried)
    monkeypatch.chdir(tmp_path)
    source = models.save(models.linear(), tmp_path / "m.onnx")
    (tmp_path / "made").mkdir()
    request = {"source": str(source), "folder": str(tmp_path / "made"), "name": "cuda", "shapes": {}}
    assert accelerated.main(request)["optimization"] == ("disabled" if readable else "all")
    made = tmp_path / "made"
    assert (made / "weights.json").exists() is readable
    if readable:
        path, stored = read_table(str(made / "weights.json"))
        assert path == str(made / variants.WEIGHTS)
        weights, (first, *_) = Path(path).read_bytes(), onnx.load(str(source)).graph.initializer
        (row,) = [tensor for tensor in stored if tensor.name == first.name]
        assert (row.dtype, row.shape) == ("FP32", (64, 64))
        assert weights[row.offset : row.offset + row.size] == first.raw_data
