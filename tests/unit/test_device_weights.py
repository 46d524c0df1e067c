"""The device made ready ahead, over what stands for libcuda. Sessions are the CPU's, to which the same memory
is given as its own: so onnxruntime itself takes the tensors, and its answers say from where."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import bootstrap as starting
from preheat import compile as compiling
from preheat import device, device_weights, dlpack
from preheat.bootstrap import bootstrap
from preheat.build import build, variants, weights_table
from preheat.build.manifest_text import dump
from preheat.device_weights import Ahead
from preheat.download import sha256_of
from preheat.errors import EngineError, IntegrityError
from preheat.manifest import File, Manifest, Requires, Variant
from preheat.phases import PhaseClock
from preheat.providers import CPU
from preheat.settings import Settings
from preheat.stores.local import LocalStore

from ..functional.build import models
from .cuda import OUT_OF_MEMORY, Cuda
from .nvml import Nvml
from .test_manifest import manifest

FILES = ("v/model.onnx", "v/model.weights", "v/weights.json")
VARIANT = Variant("cuda", FILES[0], FILES, "disabled", {"session.disable_prepacking": "1"}, Requires())
X = np.random.default_rng(3).normal(size=(2, 64)).astype("f4")


class Files:
    """An artifact as far as a variant's files go. ``broken``: what verifying them raises."""

    def __init__(self, root: Path, broken: Exception | None = None) -> None:
        self.root, self.broken = root, broken
        self.required: list[str] = []
        self.manifest: Manifest = manifest()

    def require(self, paths: Any) -> None:
        self.required += paths
        if self.broken:
            raise self.broken

    def path(self, relative: str) -> str:
        return str(self.root / relative)


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free memory, as NVML tells it; and the CPU in the place of the GPU, for onnxruntime."""
    monkeypatch.setattr(device, "_Nvml", lambda: Nvml(free_mib=1000))
    monkeypatch.setattr(Nvml, "memory", lambda self: device.Memory(free=self._free << 20), raising=False)
    kinds = device_weights.Ready.initializers
    monkeypatch.setattr(device_weights.Ready, "initializers", lambda self: kinds(self, dlpack.CPU))


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """A model with its weights in a file of their own, and the table that a build for a GPU writes."""
    source = models.save(models.linear(), tmp_path / "m.onnx")
    (tmp_path / "v").mkdir()
    here = os.getcwd()
    os.chdir(tmp_path / "v")
    try:
        variants.optimize(str(source), variants.WAYS["mapped"])
        assert weights_table.write("model.onnx")
    finally:
        os.chdir(here)
    return Files(tmp_path)


def ahead(files: Any, cuda: Any, needed_mib: float = 10) -> Ahead:
    return Ahead(files, VARIANT, needed_mib, cuda)


def plain(files: Any) -> np.ndarray[Any, Any]:
    session = compiling.open_session(files.path(FILES[0]), VARIANT, threads=1)
    answer: np.ndarray[Any, Any] = session.run(None, {"x": X})[0]
    return answer


@pytest.mark.parametrize("stage", [1000, 4096, 1 << 20])
def test_the_bytes_of_every_tensor_lie_on_the_device(
    files: Any, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    monkeypatch.setattr(device_weights, "STAGE", stage)
    cuda = Cuda()
    begun = ahead(files, cuda)
    ready = begun.take(VARIANT)
    assert ready is not None
    assert len(ready._tensors) == 3
    weights = (files.root / "v" / "model.weights").read_bytes()
    for tensor, address in ready._tensors.items():
        assert address % 256 == 0
        assert cuda.read(address, tensor.size) == weights[tensor.offset : tensor.offset + tensor.size]
    assert cuda.calls[:5] == [
        *("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemAlloc_v2")
    ]
    copies = cuda.calls.count("cuMemcpyHtoDAsync_v2")
    assert copies == 3 * -(-64 * 64 * 4 // stage)
    assert (cuda.pinned, cuda.streams, cuda.retained, len(cuda.device)) == ({}, {}, 1, 1)
    assert begun.told.pop("sent_bytes") == 3 * 64 * 64 * 4
    assert set(begun.told) == {"context_ms", "sent_ms"}
    assert set(files.required) == set(FILES)
    ready.free()
    ready.free()
    assert cuda.nothing_is_left()
    assert cuda.calls.count("cuMemFree_v2") == 1


def test_onnxruntime_takes_them_where_they_lie(files: Any) -> None:
    wanted = plain(files)
    cuda = Cuda()
    begun = ahead(files, cuda)
    engine: Any = compiling.compile(files, VARIANT, threads=1, ahead=begun)
    np.testing.assert_array_equal(engine.session.run(None, {"x": X})[0], wanted)
    ((address, memory),) = cuda.device.items()
    ctypes.memset(address, 0, len(memory) - 256)
    assert not engine.session.run(None, {"x": X})[0].any()  # a copy would still know the weights
    assert "not_ahead" not in begun.told
    engine = None
    gc.collect()
    assert cuda.nothing_is_left()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        *(
            (name, f"AheadError: {name} failed: CUDA_ERROR_OUT_OF_MEMORY")
            for name in ("cuInit", "cuDeviceGet")
        ),
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRetain failed"),
        ("cuCtxSetCurrent", "cuCtxSetCurrent failed"),
        ("cuMemAlloc_v2", "cuMemAlloc_v2 failed"),
        ("cuMemHostAlloc", "cuMemHostAlloc failed"),
        ("cuStreamCreate", "cuStreamCreate failed"),
        ("cuMemcpyHtoDAsync_v2", "cuMemcpyHtoDAsync_v2 failed"),
    ],
)
def test_what_fails_is_told_and_given_back(files: Any, function: str, reason: str) -> None:
    wanted = plain(files)
    cuda = Cuda(fails={function: OUT_OF_MEMORY})
    begun = ahead(files, cuda)
    engine = compiling.compile(files, VARIANT, threads=1, ahead=begun)
    np.testing.assert_array_equal(engine.session.run(None, {"x": X})[0], wanted)
    assert list(begun.told) == ["not_ahead"]
    assert reason in begun.told["not_ahead"]
    assert cuda.nothing_is_left()


@pytest.mark.parametrize("name", ["cuDevicePrimaryCtxRetain", "cuMemHostAlloc"])
def test_a_driver_without_a_function_is_told(files: Any, name: str) -> None:
    cuda = Cuda(lacks=(name,))
    begun = ahead(files, cuda)
    assert begun.take(VARIANT) is None
    assert begun.told["not_ahead"] == f"AheadError: the NVIDIA driver is too old: it has no {name}"
    assert cuda.nothing_is_left()


def test_a_host_without_the_driver_is_told(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_weights, "LIBRARY", "libnone.so.1")
    begun = ahead(files, None)
    assert begun.take(VARIANT) is None
    assert "libnone.so.1 cannot be loaded" in begun.told["not_ahead"]


def test_memory_is_asked_for_before_anything_is_taken(files: Any) -> None:
    cuda = Cuda()
    begun = ahead(files, cuda, needed_mib=1001)
    assert begun.take(VARIANT) is None
    assert "'cuda' needs 1001 MiB of the GPU's memory, and 1000 are free" in begun.told["not_ahead"]
    assert cuda.calls == []


def test_what_is_not_verified_is_not_sent(files: Any) -> None:
    files.broken = IntegrityError("v/model.weights was changed")
    cuda = Cuda()
    begun = ahead(files, cuda)
    assert begun.take(VARIANT) is None
    assert begun.told["not_ahead"] == "IntegrityError: v/model.weights was changed"
    assert "cuMemAlloc_v2" not in cuda.calls
    assert cuda.nothing_is_left()
    with pytest.raises(IntegrityError):
        compiling.compile(files, VARIANT, threads=1, ahead=begun)


def test_a_table_is_not_needed_for_the_context(files: Any) -> None:
    wanted = plain(files)
    engine_alone = VARIANT._replace(files=FILES[:2])
    cuda = Cuda()
    begun = Ahead(files, engine_alone, 10, cuda)
    engine: Any = compiling.compile(files, engine_alone, threads=1, ahead=begun)
    np.testing.assert_array_equal(engine.session.run(None, {"x": X})[0], wanted)
    assert list(begun.told) == ["context_ms"]
    assert (cuda.retained, cuda.device) == (1, {})
    engine = None
    gc.collect()
    assert cuda.nothing_is_left()


def test_another_variant_gets_nothing_of_it(files: Any) -> None:
    cuda = Cuda()
    begun = ahead(files, cuda)
    assert begun.take(VARIANT._replace(name="packed")) is None
    assert begun.told == {"not_ahead": "it was for variant 'cuda', and 'packed' is opened"}
    assert cuda.nothing_is_left()
    assert begun.take(VARIANT) is None


def test_a_session_that_refuses_them_opens_without(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = plain(files)
    table = json.loads((files.root / FILES[2]).read_text())
    table["tensors"][0][2] = [64 * 64]  # a shape that is not the graph's
    (files.root / FILES[2]).write_text(json.dumps(table))
    real = compiling.open_session

    def refusing(*arguments: Any, initializers: Any = None, **options: Any) -> Any:
        if initializers:
            raise EngineError("of another shape")
        return real(*arguments, **options)

    monkeypatch.setattr(compiling, "open_session", refusing)
    cuda = Cuda()
    begun = ahead(files, cuda)
    engine = compiling.compile(files, VARIANT, threads=1, ahead=begun)
    np.testing.assert_array_equal(engine.session.run(None, {"x": X})[0], wanted)
    assert begun.told == {"not_ahead": "the session does not open with it: of another shape"}
    assert cuda.nothing_is_left()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({3: 64 * 64 * 4 * 3}, "does not lie in"),
        ({3: -1}, "does not lie in"),
        ({2: [64, 65]}, "does not lie in"),
        ({2: [-64, -64], 4: 1}, "does not lie in"),
        ({1: "BOOL"}, "KeyError: 'BOOL'"),
        ({0: "w1"}, "has no tensors, or one twice"),
    ],
)
def test_a_table_that_does_not_fit_is_not_followed(files: Any, change: dict[int, Any], said: str) -> None:
    table = json.loads((files.root / FILES[2]).read_text())
    row = next(row for row in table["tensors"] if row[0] != change.get(0))
    for index, value in change.items():
        row[index] = value
    (files.root / FILES[2]).write_text(json.dumps(table))
    cuda = Cuda()
    begun = ahead(files, cuda)
    assert begun.take(VARIANT) is None
    assert said in begun.told["not_ahead"]
    assert cuda.nothing_is_left()


def test_which_tensors_a_table_has(tmp_path: Path) -> None:
    inside = models.save(models.linear(), tmp_path / "inside" / "m.onnx")
    assert not weights_table.write(str(inside))  # its weights lie in the model
    assert not (tmp_path / "inside" / "weights.json").exists()
    import onnx

    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["z"])], "b", [], [models.tensor("z", models.F, None)]
    )
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    inputs = [models.tensor("c", models.BOOL, []), models.tensor("x", models.F, [4])]
    built = models.model([branch], inputs, [models.tensor("y", models.F, [4])], [models.weights("w", 64, 64)])
    (tmp_path / "if").mkdir()
    onnx.save(built, tmp_path / "if" / "m.onnx", save_as_external_data=True, location="w")
    assert not weights_table.write(str(tmp_path / "if" / "m.onnx"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole one, whose variant for the CPU has the table that one for a GPU would have."""
    tmp_path = tmp_path_factory.mktemp("built")
    source = models.save(models.linear(), tmp_path / "m.onnx")
    out = tmp_path / "artifact"
    made = build(str(source), str(out), only=("mapped",), rounds=1)
    mapped = made.variant("mapped")
    assert mapped is not None
    assert weights_table.write(str(out / mapped.model))
    table = str(Path(mapped.model).with_name("weights.json"))
    entry = File(table, (out / table).stat().st_size, sha256_of(str(out / table)))
    variant = mapped._replace(files=(*mapped.files, table))
    (out / "manifest.json").write_text(
        dump(made._replace(variants=(made.variants[0], variant), files=(*made.files, entry)))
    )
    return out


@pytest.mark.parametrize("fails", [{}, {"cuMemAlloc_v2": OUT_OF_MEMORY}])
def test_a_start_tells_what_was_ready_or_why_not(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: dict[str, int]
) -> None:
    cuda, real = Cuda(fails=fails), ctypes.CDLL
    monkeypatch.setattr(starting, "NVIDIA", (CPU,))
    monkeypatch.setattr(
        device_weights.ctypes, "CDLL", lambda name: cuda if name == "libcuda.so.1" else real(name)
    )
    loaded = bootstrap(
        LocalStore(str(artifact)),
        Settings(device_ahead="on", variant="mapped"),
        cache_dir=str(tmp_path / "cache"),
        instance="i",
        clock=PhaseClock(),
    )
    (told,) = [p["attributes"] for p in loaded.report.to_dict()["phases"] if p["phase"] == "compile"]
    if fails:
        assert "cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY" in told["not_ahead"]
        assert cuda.nothing_is_left()
    else:
        assert "not_ahead" not in told, told
        assert told["sent_bytes"] == 3 * 64 * 64 * 4
        assert told["context_ms"] > 0 < told["sent_ms"]
        assert cuda.device


def test_a_start_that_fails_before_it_opens_anything_gives_the_memory_back(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, cuda, real = tmp_path / "broken", Cuda(), ctypes.CDLL
    shutil.copytree(artifact, broken)
    golden = broken / "golden" / "0.inputs"
    golden.write_bytes(b"x" * golden.stat().st_size)  # the weights are whole, what the warm-up reads is not
    monkeypatch.setattr(starting, "NVIDIA", (CPU,))
    monkeypatch.setattr(
        device_weights.ctypes, "CDLL", lambda name: cuda if name == "libcuda.so.1" else real(name)
    )
    with pytest.raises(IntegrityError):
        bootstrap(
            LocalStore(str(broken)),
            Settings(device_ahead="on", variant="mapped"),
            cache_dir=str(tmp_path / "cache"),
            instance="i",
            clock=PhaseClock(),
        )
    assert "cuMemAlloc_v2" in cuda.calls
    assert cuda.nothing_is_left()


def test_a_start_without_the_setting_or_a_gpu_leaves_the_driver_alone(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_weights, "Ahead", lambda *_: pytest.fail("it was begun"))
    for provider, setting in ((CPU, "off"), ("CUDAExecutionProvider", "on")):
        monkeypatch.setattr(starting, "NVIDIA", (provider,))
        bootstrap(
            LocalStore(str(artifact)),
            Settings(device_ahead=setting, variant="mapped"),
            cache_dir=str(tmp_path / "cache"),
            instance="i",
            clock=PhaseClock(),
        )


def test_onnxruntime_names_the_device_as_its_cuda_provider_does() -> None:
    """It takes the tensor only where its plan has the same device: OrtDevice(GPU, DEFAULT, NVIDIA, 0) of
    CUDAAllocator, alignment 0; what it says of a plan for the CPU shows how it read ours."""
    script = (
        "import onnxruntime as o, onnx, sys\n"
        "from preheat import dlpack\n"
        "from tests.functional.build import models\n"
        "options = o.SessionOptions()\n"
        "options.log_severity_level = 2\n"
        "options.graph_optimization_level = o.GraphOptimizationLevel.ORT_DISABLE_ALL\n"
        "value = o.OrtValue.from_dlpack(dlpack.capsule('FP32', (64, 64), 4096, dlpack.CUDA))\n"
        "options.add_initializer('w0', value)\n"
        "o.InferenceSession(models.linear().SerializeToString(), options, providers=[sys.argv[1]])\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, CPU], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "Device:[DeviceType:1 MemoryType:0 VendorId:4318 DeviceId:0 Alignment:0]" in ran.stderr


def test_what_describes_a_tensor_outlives_the_interpreter(tmp_path: Path) -> None:
    """A session that ends with the process frees it, when Python is gone."""
    script = (
        "import ctypes, onnxruntime as o\n"
        "from preheat import dlpack\n"
        "memory = ctypes.create_string_buffer(64)\n"
        "address = ctypes.addressof(memory)\n"
        "value = o.OrtValue.from_dlpack(dlpack.capsule('INT64', (8,), address, dlpack.CPU))\n"
        "assert value.shape() == [8] and value.data_ptr() == address and not value.numpy().any()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
