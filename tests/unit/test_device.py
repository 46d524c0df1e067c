from __future__ import annotations

from typing import Any

import pytest

from preheat import compile as compiling
from preheat import device, fingerprint
from preheat.errors import EngineError
from preheat.manifest import Requires, Variant
from preheat.providers import CUDA, DRIVER

from .nvml import Nvml
from .test_manifest import manifest


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a driver onto this machine, as far as Preheat looks."""

    def put(**figures: Any) -> None:
        monkeypatch.setattr(fingerprint, "DRIVER", ("/dev/null",))
        monkeypatch.setattr(device, "DRIVER", ("/dev/null",))
        monkeypatch.setattr(device.ctypes, "CDLL", lambda _: Nvml(**figures))

    return put


def test_what_the_gpu_is(gpu: Any) -> None:
    gpu()
    assert device.find() == device.Gpu("sm_90", "NVIDIA H100", 81920, "580.65.06")
    assert device.free_mib() == 80000


def test_a_part_of_a_gpu_has_its_own_memory(gpu: Any) -> None:
    gpu(instance_free_mib=9000)
    assert device.free_mib() == 9000
    assert device.find().arch == "sm_90"


@pytest.mark.parametrize("refused", ["nvmlDeviceGetMigMode", "nvmlDeviceGetMigDeviceHandleByIndex"])
def test_a_gpu_that_cannot_be_parted_is_whole(gpu: Any, refused: str) -> None:
    gpu(instance_free_mib=9000, refuses={refused: 3})
    assert device.free_mib() == 80000


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"count": 0}, "the NVIDIA driver is here, and no GPU"),
        ({"refuses": {"nvmlInit_v2": 9}}, "nvmlInit_v2 failed: Status 9"),
        ({"lacks": ("nvmlDeviceGetCount_v2",)}, "too old: its NVML has no nvmlDeviceGetCount_v2"),
        ({"refuses": {"nvmlDeviceGetMemoryInfo": 15}}, "nvmlDeviceGetMemoryInfo failed: Status 15"),
    ],
)
def test_why_there_is_none(gpu: Any, figures: dict[str, Any], said: str) -> None:
    gpu(**figures)
    with pytest.raises(device.NoGpuError, match=said):
        device.find()
    assert fingerprint.machine().gpu == ""


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", ("/dev/null",))
    monkeypatch.setattr(device, "LIBRARY", "libnone.so.1")
    with pytest.raises(device.NoGpuError, match=r"libnone.so.1 cannot be loaded \(.*capability utility"):
        device.find()


def test_no_driver_is_told_without_any_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVER", ("/dev/nothing",))
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: pytest.fail(f"{name} was loaded"))
    with pytest.raises(device.NoGpuError, match="there is no /dev/nothing: no NVIDIA driver here"):
        device.find()
    assert DRIVER[0] == "/dev/nvidiactl"


def test_the_fingerprint_knows_the_gpu_before_onnxruntime(gpu: Any) -> None:
    gpu(capability=(8, 9))
    here = fingerprint.machine()
    assert (here.gpu, here.gpu_name, here.gpu_memory_mib) == ("sm_89", "NVIDIA H100", 81920)
    assert (here.driver, here.onnxruntime) == ("580.65.06", "")


@pytest.mark.parametrize(
    ("number", "name", "text"),
    [
        (13050, "cuda", "13.5"),
        (12080, "cuda", "12.8"),
        (92800, "cudnn", "9.28.0"),
        (101601, "tensorrt", "10.16.1"),
    ],
)
def test_versions_as_the_libraries_count_them(number: int, name: str, text: str) -> None:
    assert device.dotted(number, device._LIBRARIES[name][2]) == text


def test_versions_of_what_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        def cudaRuntimeGetVersion(self, number: Any) -> int:
            number._obj.value = 12080
            return 0

    def load(name: str) -> Any:
        if name != "libcudart.so.12":
            raise OSError(name)
        return Runtime()

    monkeypatch.setattr(device.ctypes, "CDLL", load)
    assert device.libraries() == {"cuda": "12.8"}


MEASURED = {"variants": {"cuda": {"device_mib": {"median": 700.0}}}}


@pytest.mark.parametrize(("measurements", "mib"), [(MEASURED, 700.0), ({}, 2 / (1 << 20))])
def test_what_a_variant_needs_is_measured_or_its_weights(measurements: dict[str, Any], mib: float) -> None:
    variant = Variant("cuda", "k/model.onnx", ("k/model.onnx", "k/weights"), "all", {}, Requires(CUDA))
    assert manifest(measurements=measurements).device_mib(variant) == mib


def test_memory_is_asked_for_before_the_session_is_made(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(free_mib=600)

    class Whole:
        manifest = manifest(measurements=MEASURED)

        def require(self, _: object) -> None: ...

        def path(self, path: str) -> str:
            return path

    opened: list[str] = []
    monkeypatch.setattr(compiling, "open_session", lambda path, *_, **__: opened.append(path))
    variant = Variant("cuda", "k/model.onnx", ("k/model.onnx",), "all", {}, Requires(CUDA))
    whole: Any = Whole()
    with pytest.raises(EngineError, match="'cuda' needs 700 MiB of the GPU's memory, and 600 are free"):
        compiling.compile(whole, variant, threads=1)
    assert opened == []
    gpu(free_mib=701)
    compiling.compile(whole, variant, threads=1)
    assert opened == ["k/model.onnx"]
