"""What stands for libcuda: C functions, made by ctypes, with the signatures of cuda.h. The device's memory is
this process's own, and a copy happens when its stream is waited for, never before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

Handle, Size, Int, Uint, Address = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
)
INVALID_VALUE, OUT_OF_MEMORY = 1, 2
CONTEXT, OTHER_CONTEXT = 0xC0, 0xC1


def pointer(kind: Any) -> Any:
    return ctypes.POINTER(kind)


SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (Uint,),
    "cuDeviceGet": (pointer(Int), Int),
    "cuDevicePrimaryCtxRetain": (pointer(Handle), Int),
    "cuDevicePrimaryCtxRelease_v2": (Int,),
    "cuCtxSetCurrent": (Handle,),
    "cuCtxPushCurrent_v2": (Handle,),
    "cuCtxPopCurrent_v2": (pointer(Handle),),
    "cuMemAlloc_v2": (pointer(Address), Size),
    "cuMemFree_v2": (Address,),
    "cuMemHostAlloc": (pointer(Handle), Size, Uint),
    "cuMemFreeHost": (Handle,),
    "cuStreamCreate": (pointer(Handle), Uint),
    "cuStreamDestroy_v2": (Handle,),
    "cuStreamSynchronize": (Handle,),
    "cuMemcpyHtoDAsync_v2": (Address, Handle, Size, Handle),
    "cuGetErrorName": (Int, pointer(ctypes.c_char_p)),
}


class Cuda:
    """``fails``: functions that fail, each with its status. ``lacks``: functions that it does not have."""

    def __init__(self, *, fails: dict[str, int] | None = None, lacks: tuple[str, ...] = ()) -> None:
        self.calls: list[str] = []
        self.retained = 0
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams: dict[int, list[tuple[int, int, int]]] = {}
        """What is on its way, by stream: to where, from where, bytes."""
        self.current: list[int] = []
        self._fails = fails or {}
        self._functions = {
            name: ctypes.CFUNCTYPE(Int, *signature)(self._wrapped(name))
            for name, signature in SIGNATURES.items()
            if name not in lacks
        }

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_functions"][name]
        except KeyError:
            raise AttributeError(name) from None

    def _wrapped(self, name: str) -> Callable[..., int]:
        run: Callable[..., int | None] = getattr(self, f"_{name.removesuffix('_v2')}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self._fails.get(name, 0) or run(*arguments) or 0

        return call

    def nothing_is_left(self) -> bool:
        return not (self.device or self.pinned or self.streams or self.retained)

    def read(self, address: int, size: int) -> bytes:
        assert any(a <= address and address + size <= a + len(m) for a, m in self.device.items())
        return ctypes.string_at(address, size)

    def _cuInit(self, flags: int) -> int:
        return INVALID_VALUE if flags else 0

    def _cuDeviceGet(self, device: Any, ordinal: int) -> None:
        device[0] = ordinal

    def _cuDevicePrimaryCtxRetain(self, context: Any, _device: int) -> None:
        self.retained += 1
        context[0] = CONTEXT

    def _cuDevicePrimaryCtxRelease(self, _device: int) -> None:
        self.retained -= 1

    def _cuCtxSetCurrent(self, context: int) -> None:
        self.current[:] = [context]

    def _cuCtxPushCurrent(self, context: int) -> None:
        self.current.append(context)

    def _cuCtxPopCurrent(self, context: Any) -> None:
        context[0] = self.current.pop()

    def _cuMemAlloc(self, address: Any, size: int) -> int:
        if self.current[-1:] != [CONTEXT] or not size:
            return INVALID_VALUE
        memory = (ctypes.c_ubyte * (size + 256))()
        aligned = -(-ctypes.addressof(memory) // 256) * 256
        self.device[aligned] = memory
        address[0] = aligned
        return 0

    def _cuMemFree(self, address: int) -> int:
        return 0 if self.current[-1:] == [CONTEXT] and self.device.pop(address, None) else INVALID_VALUE

    def _cuMemHostAlloc(self, host: Any, size: int, _flags: int) -> None:
        memory = (ctypes.c_ubyte * size)()
        self.pinned[ctypes.addressof(memory)] = memory
        host[0] = ctypes.addressof(memory)

    def _cuMemFreeHost(self, host: int) -> int:
        busy = any(host == source for copies in self.streams.values() for _, source, _ in copies)
        return INVALID_VALUE if busy or not self.pinned.pop(host, None) else 0

    def _cuStreamCreate(self, stream: Any, _flags: int) -> None:
        stream[0] = 0x500 + len(self.calls)
        self.streams[stream[0]] = []

    def _cuStreamDestroy(self, stream: int) -> int:
        return INVALID_VALUE if self.streams.pop(stream) else 0

    def _cuStreamSynchronize(self, stream: int) -> None:
        for target, source, size in self.streams[stream]:
            ctypes.memmove(target, source, size)
        self.streams[stream].clear()

    def _cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> int:
        if source not in self.pinned or size > len(self.pinned[source]):
            return INVALID_VALUE
        self.read(target, size)
        self.streams[stream].append((target, source, size))
        return 0

    def _cuGetErrorName(self, status: int, name: Any) -> None:
        name[0] = {
            INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY: b"CUDA_ERROR_OUT_OF_MEMORY",
        }.get(status)
