"""The GPU of this host, as NVML tells: what it is, what of its memory is free; the libraries that serve it.

NVML, because it makes no CUDA context, which costs a start time and memory before it is known whether
anything will run there. A host without NVIDIA's driver is told by the absence of a device file. The first
GPU counts, or its first MIG instance: a container is given the one that is its own.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple

from .errors import EngineError
from .providers import DRIVER

LIBRARY = "libnvidia-ml.so.1"
MIB = 1 << 20

_LIBRARIES = {
    # What they are called, the function that tells the version, and how that counts: NVIDIA's headers
    # (cuda_runtime_api.h; cudnn_version.h of cuDNN 9; NvInferVersion.h of TensorRT 10).
    "cuda": (("libcudart.so.13", "libcudart.so.12"), "cudaRuntimeGetVersion", (1000, 10)),
    "cudnn": (("libcudnn.so.9",), "cudnnGetVersion", (10000, 100, 1)),
    "tensorrt": (("libnvinfer.so.10",), "getInferLibVersion", (10000, 100, 1)),
}


class Gpu(NamedTuple):
    arch: str
    """``sm_90``: the compute capability, for which engines are made."""
    name: str
    memory_mib: int
    driver: str


class Memory(ctypes.Structure):
    """``nvmlMemory_t``, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NoGpuError(EngineError):
    """This host has no GPU that can be used; the message says why."""

    code = "no_gpu"


def find() -> Gpu:
    """The GPU of this host. Raises NoGpuError."""
    return _Nvml().describe()


def free_mib() -> int:
    """Free memory of the GPU, in MiB, whoever uses the rest. Raises NoGpuError."""
    return int(_Nvml().memory().free) // MIB


def require(mib: float, what: str) -> None:
    """Raises EngineError where the GPU has less than ``mib`` MiB free, NoGpuError where there is none."""
    free = free_mib()
    if free < mib:
        raise EngineError(
            f"{what} needs {mib:.0f} MiB of the GPU's memory, and {free} are free: end what else runs on it, "
            "take a larger one, or another variant"
        )


def preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where they are installed; else the loader's path has them, or
    not. onnxruntime finds them then."""
    import contextlib
    import io

    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # it prints what it does not find; the session says it
            onnxruntime.preload_dlls()


def libraries() -> dict[str, str]:
    """The versions of those of CUDA's runtime, cuDNN and TensorRT that can be loaded, by name."""
    found = {}
    for name, (files, function, units) in _LIBRARIES.items():
        for file in files:
            try:
                number = _version(ctypes.CDLL(file), function)
            except (OSError, AttributeError):
                continue
            found[name] = dotted(number, units)
            break
    return found


def _version(library: Any, function: str) -> int:
    if function == "cudaRuntimeGetVersion":
        number = ctypes.c_int()
        library.cudaRuntimeGetVersion(ctypes.byref(number))
        return number.value
    call = getattr(library, function)
    call.restype = ctypes.c_size_t if function == "cudnnGetVersion" else ctypes.c_int
    return int(call())


def dotted(number: int, units: tuple[int, ...]) -> str:
    """13050 counted in thousands and tens: "13.5"."""
    parts = []
    for unit in units:
        part, number = divmod(number, unit)
        parts.append(str(part))
    return ".".join(parts)


class _Nvml:
    """``library``: libnvidia-ml, or what stands for it. Raises NoGpuError where it or a GPU is missing."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            if not any(map(os.path.exists, DRIVER)):
                raise NoGpuError(
                    f"there is no {DRIVER[0]}: no NVIDIA driver here, or none for this container"
                )
            try:
                library = ctypes.CDLL(LIBRARY)
            except OSError as error:
                raise NoGpuError(
                    f"{LIBRARY} cannot be loaded ({error}); a container needs the driver's capability utility"
                ) from None
        self._library = library
        self._call("nvmlInit_v2")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if not count.value:
            raise NoGpuError("the NVIDIA driver is here, and no GPU")
        self._gpu = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", 0, ctypes.byref(self._gpu))
        self._part = self._instance() or self._gpu

    def describe(self) -> Gpu:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvmlDeviceGetCudaComputeCapability", self._gpu, ctypes.byref(major), ctypes.byref(minor))
        name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(80)
        self._call("nvmlDeviceGetName", self._gpu, name, len(name))
        self._call("nvmlSystemGetDriverVersion", driver, len(driver))
        return Gpu(
            f"sm_{major.value}{minor.value}",
            name.value.decode(),
            self.memory().total // MIB,
            driver.value.decode(),
        )

    def memory(self) -> Memory:
        memory = Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._part, ctypes.byref(memory))
        return memory

    def _instance(self) -> ctypes.c_void_p | None:
        """The first MIG instance, where the GPU is partitioned."""
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        part = ctypes.c_void_p()
        try:
            self._call("nvmlDeviceGetMigMode", self._gpu, ctypes.byref(current), ctypes.byref(pending))
            if not current.value:
                return None
            self._call("nvmlDeviceGetMigDeviceHandleByIndex", self._gpu, 0, ctypes.byref(part))
        except NoGpuError:  # not supported by this GPU, or no instance that this process may use
            return None
        return part

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            status = int(getattr(self._library, function)(*arguments))
        except AttributeError:
            raise NoGpuError(f"the NVIDIA driver is too old: its NVML has no {function}") from None
        if status:
            self._library.nvmlErrorString.restype = ctypes.c_char_p
            said = self._library.nvmlErrorString(status) or b"no reason"
            raise NoGpuError(f"NVML's {function} failed: {said.decode(errors='replace')}")
