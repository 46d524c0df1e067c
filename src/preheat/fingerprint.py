"""What this machine offers to a variant: architecture, instruction sets, onnxruntime, execution providers."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from .manifest import Requires
from .providers import DRIVER, NVIDIA

ISA = (
    # The extensions by which onnxruntime's CPU kernels choose their code paths and weight layouts (MLAS,
    # platform.cpp): x86-64 first, then 64-bit Arm.
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)


class Fingerprint(NamedTuple):
    arch: str
    isa: tuple[str, ...]
    """Those of ISA that the CPU has, sorted; empty where the system does not tell."""
    cpus: int
    """CPUs that this process may use: affinity and the cgroup's quota."""
    onnxruntime: str = ""
    providers: tuple[str, ...] = ()
    gpu: str = ""
    """The GPU's architecture (``sm_90``); empty where there is none that can be used."""
    gpu_name: str = ""
    gpu_memory_mib: int = 0
    driver: str = ""
    """Of the GPU."""
    libraries: dict[str, str] = {}
    """CUDA's runtime, cuDNN and TensorRT by version, as far as they can be loaded."""

    def refuses(self, requires: Requires) -> str | None:
        """Why a variant cannot be opened here, in words; None where it can."""
        if requires.arch is not None and requires.arch != self.arch:
            return f"made for {requires.arch}, this machine is {self.arch}"
        if requires.isa is not None and requires.isa != self.isa:
            lacks = sorted(set(requires.isa) - set(self.isa))
            more = sorted(set(self.isa) - set(requires.isa))
            return "made for another CPU: " + " and ".join(
                part
                for part in (
                    f"this one lacks {', '.join(lacks)}" if lacks else "",
                    f"this one adds {', '.join(more)}" if more else "",
                )
                if part
            )
        if self.onnxruntime and requires.onnxruntime is not None:
            low, high = requires.onnxruntime
            if not _release(low) <= _release(self.onnxruntime) < _release(high):
                return f"made for onnxruntime {low} up to {high}, this is {self.onnxruntime}"
        if self.providers and requires.provider not in self.providers:
            return f"needs {requires.provider}, this onnxruntime has {', '.join(self.providers)}"
        return self._refuses_gpu(requires) if requires.provider in NVIDIA else None

    def _refuses_gpu(self, requires: Requires) -> str | None:
        if not self.gpu:
            return f"needs {requires.provider}, and there is no GPU here that can be used"
        if requires.gpu is not None and requires.gpu != self.gpu:
            return f"its engine is for {requires.gpu}, this GPU ({self.gpu_name}) is {self.gpu}"
        if requires.driver is not None and _release(self.driver) < _release(requires.driver):
            return f"needs the GPU's driver {requires.driver} or newer, this is {self.driver}"
        if self.onnxruntime and requires.libraries is not None:  # known together with onnxruntime
            for name, version in requires.libraries.items():
                here = self.libraries.get(name, "missing")
                if here != version:
                    return f"its engine is for {name} {version}, which is {here} here"
        return None


def machine() -> Fingerprint:
    """The parts that can be told before onnxruntime is imported."""
    known = Fingerprint(os.uname().machine, _isa(), usable_cpus())
    if any(map(os.path.exists, DRIVER)):
        from .device import NoGpuError, find  # most hosts have none: then nothing is loaded

        with contextlib.suppress(NoGpuError):
            gpu = find()
            return known._replace(
                gpu=gpu.arch, gpu_name=gpu.name, gpu_memory_mib=gpu.memory_mib, driver=gpu.driver
            )
    return known


def with_runtime(fingerprint: Fingerprint) -> Fingerprint:
    """The whole; imports onnxruntime, and where there is a GPU that it can use, loads CUDA."""
    import onnxruntime

    known = fingerprint._replace(
        onnxruntime=onnxruntime.__version__, providers=tuple(onnxruntime.get_available_providers())
    )
    if known.gpu and set(NVIDIA) & set(known.providers):
        from .device import libraries, preload

        preload()
        return known._replace(libraries=libraries())
    return known


def usable_cpus() -> int:
    """CPUs by affinity, no more than the cgroup's quota rounded up, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _first_line("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and int(quota[1]) > 0:
        cpus = min(cpus, -(-int(quota[0]) // int(quota[1])))
    return max(cpus, 1)


def room_mib() -> float:
    """Memory that this process may still take or make others' caches give up, MiB: what the system has
    available, no more than its control groups allow in all. Infinite where nothing tells."""
    room = float("inf")
    with contextlib.suppress(OSError, StopIteration), open("/proc/meminfo") as file:
        room = next(int(line.split()[1]) / 1024 for line in file if line.startswith("MemAvailable:"))
    return min(room, memory_limit() / (1 << 20))


def memory_limit() -> float:
    """Bytes that this process's control groups leave it; infinite where nothing tells."""
    most = float("inf")
    own = next((line[3:].strip() for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    while True:
        limits = _lines(f"/sys/fs/cgroup{own.rstrip('/')}/memory.max")
        if limits and limits[0].strip().isdigit():
            most = min(most, int(limits[0]))
        if own in ("/", ""):
            break
        own = own.rpartition("/")[0] or "/"
    older = _lines("/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 1, whose root is the container's
    return min(most, int(older[0])) if older else most


def _first_line(path: str) -> str:
    return next(iter(_lines(path)), "")


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def _isa() -> tuple[str, ...]:
    try:
        with open("/proc/cpuinfo") as file:  # one processor's entry is enough, and some hosts have hundreds
            for line in file:
                if line.startswith(("flags", "Features")):
                    has = set(line.split(":", 1)[1].split())
                    return tuple(sorted(name for name in ISA if name in has))
    except OSError:
        pass
    return ()


def _release(version: str) -> tuple[int, ...]:
    """The numeric parts of a version: "1.31.1+cu12" -> (1, 31, 1)."""
    parts = []
    for part in version.split("+", 1)[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        parts.append(int(digits))
    return tuple(parts)
