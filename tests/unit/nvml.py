"""What stands for libnvidia-ml: the functions that preheat.device calls, with figures of a test's own."""

from __future__ import annotations

from typing import Any


class Nvml:
    """``refuses``: functions that fail, each with its status. ``lacks``: functions that it does not have."""

    def __init__(
        self,
        *,
        count: int = 1,
        capability: tuple[int, int] = (9, 0),
        total_mib: int = 81920,
        free_mib: int = 80000,
        instance_free_mib: int | None = None,
        refuses: dict[str, int] | None = None,
        lacks: tuple[str, ...] = (),
    ) -> None:
        self._count, self._capability = count, capability
        self._total, self._free, self._instance_free = total_mib, free_mib, instance_free_mib
        self._refuses, self._lacks = refuses or {}, lacks
        self.nvmlErrorString: Any = lambda status: b"Status %d" % status

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name != "nvmlErrorString":
            if name in self._lacks:
                raise AttributeError(name)
            if name in self._refuses:
                return lambda *_: self._refuses[name]
        return super().__getattribute__(name)

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self._count
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 100 + index
        return 0

    def nvmlDeviceGetMigMode(self, _gpu: Any, current: Any, pending: Any) -> int:
        current._obj.value = pending._obj.value = int(self._instance_free is not None)
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _gpu: Any, index: int, handle: Any) -> int:
        handle._obj.value = 200 + index
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, gpu: Any, major: Any, minor: Any) -> int:
        assert gpu.value == 100
        major._obj.value, minor._obj.value = self._capability
        return 0

    def nvmlDeviceGetName(self, _gpu: Any, name: Any, _size: int) -> int:
        name.value = b"NVIDIA H100"
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, _size: int) -> int:
        version.value = b"580.65.06"
        return 0

    def nvmlDeviceGetMemoryInfo(self, part: Any, memory: Any) -> int:
        free = self._free if part.value == 100 else self._instance_free
        memory._obj.total, memory._obj.free = self._total << 20, (free or 0) << 20
        return 0
