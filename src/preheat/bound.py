"""A session whose tensors have one shape each: bound to the device's memory once, as CUDA graphs need it.

A CUDA graph replays kernels with the addresses that they had when it was recorded. So the inputs are copied
to where they lay, and runs come one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from .manifest import Manifest, TensorSpec, Variant
from .providers import CAPTURE
from .tensors import BY_V2, Array


def captures(variant: Variant) -> bool:
    """Whether a variant is run as a CUDA graph."""
    option = CAPTURE.get(variant.requires.provider)
    return option is not None and variant.provider_options.get(option) == "1"


def fixed(specs: Sequence[TensorSpec]) -> bool:
    """Whether every tensor has one shape, and a type that a device's memory can hold."""
    return all(
        spec.shape is not None and spec.dtype != "BYTES" and all(isinstance(dim, int) for dim in spec.shape)
        for spec in specs
    )


class BoundSession:
    """``run``, as onnxruntime's session has it. ``device``: ``cuda``; ``cpu`` where that is to be tried."""

    def __init__(self, session: Any, manifest: Manifest, device: str = "cuda") -> None:
        import onnxruntime as ort

        self._session = session
        self._lock = Lock()
        self._binding = session.io_binding()
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        for specs, values in ((manifest.inputs, self._inputs), (manifest.outputs, self._outputs)):
            for spec in specs:
                blank = np.zeros([int(dim or 0) for dim in spec.shape or ()], BY_V2[spec.dtype].numpy)
                values[spec.name] = ort.OrtValue.ortvalue_from_numpy(blank, device, 0)
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any = None) -> list[Array]:
        """One inference; arrays of the caller's own."""
        with self._lock:
            for name, array in feeds.items():
                self._inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(self._binding, options)
            return [np.array(self._outputs[name].numpy()) for name in names]
