"""Memory at an address, as DLPack carries a tensor: so that onnxruntime takes it without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

CPU, CUDA = 1, 2
"""DLDeviceType: kDLCPU, kDLCUDA."""

TYPES = {
    **{f"INT{8 * size}": (0, size) for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": (1, size) for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": (2, size) for size in (2, 4, 8)},
}
"""The types that DLPack and onnxruntime both know: DLDataTypeCode and bytes, by name."""


class ManagedTensor(ctypes.Structure):
    """``DLManagedTensor`` of dlpack.h, its inner structures laid flat."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


def capsule(dtype: str, shape: Sequence[int], address: int, device_type: int) -> Any:
    """A contiguous tensor at an address of the first such device. The memory stays the caller's.

    What describes it is malloc's, and its deleter is free: a session that holds it may end after the
    interpreter, when nothing of Python can be called any more.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size = ctypes.sizeof(ManagedTensor)
    block = libc.malloc(ctypes.c_size_t(size + 8 * len(shape)))
    if not block:
        raise MemoryError
    (ctypes.c_int64 * len(shape)).from_address(block + size)[:] = list(shape)
    code, width = TYPES[dtype]
    tensor = ManagedTensor.from_address(block)
    tensor.data, tensor.device_type, tensor.device_id = address, device_type, 0
    tensor.ndim, tensor.shape, tensor.strides, tensor.byte_offset = len(shape), block + size, None, 0
    tensor.code, tensor.bits, tensor.lanes = code, 8 * width, 1
    tensor.manager_ctx, tensor.deleter = None, ctypes.cast(libc.free, ctypes.c_void_p).value
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(block, b"dltensor", None)
