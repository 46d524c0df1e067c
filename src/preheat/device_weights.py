"""CUDA's context and a variant's weights on the device, made ready by a thread while the imports run.

The driver is called through ctypes, which lets go of the interpreter while it works. The context is the
device's primary one, which onnxruntime's CUDA provider uses too. Weights are read from the variant's file
into pinned memory and copied from there, two pieces in turn, each tensor to an aligned address. onnxruntime
takes a tensor that it does not own, and that lies where its plan has it, in place of an initializer
(SessionOptions::AddInitializer; session_state_utils.cc, SaveInitializedTensors).

Whatever fails here is told, what was taken is given back, and the session opens as it does without.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

from . import device, dlpack
from .download import Artifact
from .errors import EngineError
from .manifest import Variant

LIBRARY = "libcuda.so.1"
TABLE = "weights.json"
"""A file of the variant: which tensors lie where in its weights file; build/weights_table.py writes it."""
STAGE = 8 << 20
"""Bytes of pinned memory in one piece; there are two. Pinning costs time by the page."""
ALIGNMENT = 256
"""Bytes, as cudaMalloc aligns: kernels load several elements at once."""


class AheadError(EngineError):
    """The device could not be made ready ahead; the message says why."""

    code = "ahead"


class Stored(NamedTuple):
    """One tensor of the weights file."""

    name: str
    dtype: str
    """By the name that it has in dlpack.TYPES."""
    shape: tuple[int, ...]
    offset: int
    """In the file, as its size in bytes."""
    size: int


class Driver:
    """CUDA's driver API. ``library``: libcuda, or what stands for it. Raises AheadError."""

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY) if library is None else library
        except OSError as error:
            raise AheadError(f"{LIBRARY} cannot be loaded: {error}") from None

    def __call__(self, function: str, *arguments: Any) -> None:
        """Raises AheadError with the driver's name of the error."""
        try:
            status = int(getattr(self._library, function)(*arguments))
        except AttributeError:
            raise AheadError(f"the NVIDIA driver is too old: it has no {function}") from None
        if status:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name))
            raise AheadError(f"{function} failed: {(name.value or b'%d' % status).decode()}")


class Ready:
    """A context, and tensors on the device: none where the variant has no table of them."""

    def __init__(self, driver: Driver, context: ctypes.c_void_p, tensors: dict[Stored, int]) -> None:
        self._driver, self._context = driver, context
        self._tensors = tensors
        """Each with its address."""
        self._memory: list[ctypes.c_uint64] = []
        self._lock = threading.Lock()
        self._freed = False

    def hold(self, memory: ctypes.c_uint64) -> None:
        self._memory.append(memory)

    def initializers(self, kind: int = dlpack.CUDA) -> dict[str, Any]:
        """onnxruntime's values over the tensors, by name, which must live as long as the session that gets
        them. ``kind``: DLPack's device type."""
        import onnxruntime as ort

        return {
            tensor.name: ort.OrtValue.from_dlpack(dlpack.capsule(tensor.dtype, tensor.shape, address, kind))
            for tensor, address in self._tensors.items()
        }

    def free(self) -> None:
        """Give the memory back, once, and let go of the context; no session may run on them any more."""
        with self._lock:
            if self._freed:
                return
            self._freed = True
        with ExitStack() as undo:
            undo.callback(self._driver, "cuDevicePrimaryCtxRelease_v2", ctypes.c_int(0))
            self._driver("cuCtxPushCurrent_v2", self._context)
            undo.callback(self._driver, "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
            for memory in self._memory:
                undo.callback(self._driver, "cuMemFree_v2", memory)


class Ahead:
    """A thread that makes the device ready for one variant. ``needed_mib``: what the variant takes of the
    device's memory, asked for before anything is taken."""

    def __init__(self, artifact: Artifact, variant: Variant, needed_mib: float, library: Any = None) -> None:
        self.variant = variant
        self.told: dict[str, Any] = {}
        """For the report: milliseconds and bytes; ``not_ahead`` with the reason where it failed."""
        self._artifact, self._needed_mib, self._library = artifact, needed_mib, library
        self._ready: Ready | None = None
        self._thread = threading.Thread(target=self._run, name="preheat-device", daemon=True)
        self._thread.start()

    def take(self, variant: Variant) -> Ready | None:
        """Wait for the thread; what it made ready, if that is for this variant. It is the caller's then."""
        ready = self._made()
        if ready is None or variant.name == self.variant.name:
            return ready
        self.drop(ready, f"it was for variant {self.variant.name!r}, and {variant.name!r} is opened")
        return None

    def close(self) -> None:
        """Give back what nobody took, where a start fails before it was asked for; waits for the thread."""
        ready = self._made()
        if ready is not None:
            self.drop(ready, "the start failed before it was used")

    def _made(self) -> Ready | None:
        self._thread.join()
        ready, self._ready = self._ready, None
        return ready

    def drop(self, ready: Ready, reason: str) -> None:
        """Free what is not used, and tell why."""
        self.told = {"not_ahead": reason}
        try:
            ready.free()
        except AheadError as error:
            self.told["not_ahead"] += f"; {error}"

    def _run(self) -> None:
        try:
            self._ready = self._make()
        except Exception as error:  # nothing that goes wrong here may cost a start: it goes on without
            self.told = {"not_ahead": f"{type(error).__name__}: {error}"}

    def _make(self) -> Ready:
        device.require(self._needed_mib, f"variant {self.variant.name!r}")
        began = time.perf_counter()
        driver = Driver(self._library)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        driver("cuInit", ctypes.c_uint(0))
        driver("cuDeviceGet", ctypes.byref(number), ctypes.c_int(0))
        driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
        tensors: dict[Stored, int] = {}
        ready = Ready(driver, context, tensors)
        with ExitStack() as undo:
            undo.callback(ready.free)
            driver("cuCtxSetCurrent", context)
            self.told["context_ms"] = round((time.perf_counter() - began) * 1e3, 3)
            table = next((path for path in self.variant.files if path.endswith(f"/{TABLE}")), None)
            if table is not None:
                self._artifact.require(self.variant.files)  # not a byte of it is used before it is verified
                began = time.perf_counter()
                path, stored = read_table(self._artifact.path(table))
                memory, total = ctypes.c_uint64(), 0
                for tensor in stored:
                    tensors[tensor] = total
                    total += -(-tensor.size // ALIGNMENT) * ALIGNMENT
                driver("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(total))
                ready.hold(memory)
                for tensor in stored:
                    tensors[tensor] += memory.value
                _copy(driver, path, tensors)
                self.told["sent_bytes"] = sum(tensor.size for tensor in stored)
                self.told["sent_ms"] = round((time.perf_counter() - began) * 1e3, 3)
            undo.pop_all()
        return ready


def read_table(path: str) -> tuple[str, list[Stored]]:
    """The weights file beside a table, and its tensors. Raises AheadError where they do not fit."""
    with open(path, "rb") as file:
        document = json.load(file)
    weights = os.path.join(os.path.dirname(path), os.path.basename(document["file"]))
    end = os.path.getsize(weights)
    stored = [Stored(row[0], row[1], tuple(row[2]), row[3], row[4]) for row in document["tensors"]]
    for tensor in stored:
        elements = 1
        for dim in tensor.shape:
            elements *= dim
        wanted = elements * dlpack.TYPES[tensor.dtype][1]
        if tensor.size != wanted or tensor.size <= 0 or not 0 <= tensor.offset <= end - tensor.size:
            raise AheadError(f"{path}: tensor {tensor.name!r} does not lie in {weights}")
    if not stored or len({tensor.name for tensor in stored}) < len(stored):
        raise AheadError(f"{path} has no tensors, or one twice")
    return weights, stored


def _copy(driver: Driver, path: str, tensors: dict[Stored, int]) -> None:
    """Read tensors into pinned memory and copy them to their addresses: one piece is read while the other one
    is on its way."""
    with ExitStack() as undo, open(path, "rb", buffering=0) as file:
        lanes = [_lane(driver, undo) for _ in range(2)]
        turn = 0
        for tensor, address in tensors.items():
            done = 0
            while done < tensor.size:
                host, stream = lanes[turn % 2]
                driver("cuStreamSynchronize", stream)
                piece = memoryview(host).cast("B")[: min(STAGE, tensor.size - done)]
                read = os.preadv(file.fileno(), [piece], tensor.offset + done)
                if not read:
                    raise AheadError(f"{path} ends in the middle of tensor {tensor.name!r}")
                there, here = ctypes.c_uint64(address + done), ctypes.c_void_p(ctypes.addressof(host))
                driver("cuMemcpyHtoDAsync_v2", there, here, ctypes.c_size_t(read), stream)
                done, turn = done + read, turn + 1


def _lane(driver: Driver, undo: ExitStack) -> tuple[Any, ctypes.c_void_p]:
    """Pinned memory and a stream; ``undo`` waits for the stream's copies before it takes them away."""
    host, stream = ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuMemHostAlloc", ctypes.byref(host), ctypes.c_size_t(STAGE), ctypes.c_uint(0))
    undo.callback(driver, "cuMemFreeHost", host)
    driver("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(1))  # CU_STREAM_NON_BLOCKING
    undo.callback(driver, "cuStreamDestroy_v2", stream)
    undo.callback(driver, "cuStreamSynchronize", stream)
    return (ctypes.c_ubyte * STAGE).from_address(host.value or 0), stream
