"""A loaded session: named tensors in, named tensors out. Safe to call from several threads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import arena
from .errors import (
    EngineError,
    InvalidRequestError,
    PreemptedError,
    TimedOutError,
    TooLargeError,
    UnprocessableError,
)
from .manifest import LEVELS, Manifest, Variant
from .overrun import ENDED, Preemptible, Watch
from .providers import CPU
from .tensors import Array, Tensors, check_inputs


def open_session(
    path: str, variant: Variant, *, threads: int, initializers: Mapping[str, Any] | None = None
) -> Any:
    """Open a variant's model file. ``threads``: intra-op threads, at least 1. ``initializers``: values in
    place of the file's, by name; the caller keeps them as long as the session lives.

    Threads do not spin: an idle instance must not burn the CPU that it is billed for. Raises EngineError
    with onnxruntime's own reason.
    """
    import onnxruntime as ort

    provider = variant.requires.provider
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_reuse = provider != CPU  # its search is most of an opening; the arena reuses as well
    options.log_severity_level = 4  # errors come as exceptions, and from there as answers
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[variant.optimization])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    arena.held()
    for key, value in variant.config.items():
        options.add_session_config_entry(key, value)
    try:
        for name, value in (initializers or {}).items():
            options.add_initializer(name, value)
        # Without onnxruntime's own fallback, which would go on with another provider and say so in a print.
        session = ort.InferenceSession(path, options, providers=variant.providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise EngineError(f"{path} cannot be opened: {first_line(error)}") from error
    if session.get_providers()[0] != provider:
        advice = f": are the libraries of {provider} installed, and a device?" if provider != CPU else ""
        raise EngineError(
            f"{path}: onnxruntime opened it on {session.get_providers()[0]}, not on {provider}{advice}"
        )
    return session


_watch = Watch()


class Engine:
    def __init__(self, session: Any, manifest: Manifest, variant: Variant) -> None:
        self.session = session
        self.manifest = manifest
        self.variant = variant
        self._names = [spec.name for spec in manifest.outputs]
        self._strings = {spec.name for spec in manifest.inputs if spec.dtype == "BYTES"}
        self.fixed_s = manifest.fixed_s(variant.name)
        """Seconds of a run that do not grow with its rows."""
        cuts = manifest.joined(variant.name) and self.fixed_s < math.inf
        self.pace = math.inf if cuts else None
        """The least seconds, beyond those, that a run has taken for an element of its inputs; None where rows
        may depend on each other or cost nothing, so that nobody cuts a run."""

    def run(self, inputs: Tensors, outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """One inference. ``outputs``: names of those wanted, in order; None for all.

        Raises InvalidRequestError or TooLargeError for inputs that the manifest rules out, and
        UnprocessableError for those that the model itself refuses (an index out of range, say).
        """
        self.check(inputs)
        return self.infer(inputs, outputs)

    def check(self, inputs: Tensors) -> None:
        """Hold inputs against the manifest, before anything is allocated for them. Raises RequestError."""
        check_inputs(self.manifest.inputs, inputs, self.manifest.limits)

    def infer(
        self,
        inputs: Tensors,
        outputs: Sequence[str] | None = None,
        until: float = 0.0,
        preemptible: Preemptible | None = None,
    ) -> dict[str, Array]:
        """``run``, for checked inputs. ``until``: ``time.perf_counter`` of the deadline, 0 for none.
        ``preemptible``: by whom it may be ended before.

        Raises TimedOutError for a run that was ended after its deadline, PreemptedError for one that was
        ended before, TooLargeError for one that would take more memory than there is for sessions.
        """
        names = self._names if outputs is None else list(outputs)
        feeds = {n: _text(n, a) if n in self._strings else a for n, a in inputs.items()}
        options = _watch.begin(until) if until else None
        preempted = False
        try:
            if preemptible is not None:
                preemptible.begin(options)
            try:
                values = self.session.run(names, feeds, options)
            finally:
                preempted = preemptible is not None and preemptible.end()
        except Exception as error:  # see open_session
            if preempted and ENDED in str(error):
                raise PreemptedError("another tenant's run goes first") from None
            raise _refusal(error) from error
        finally:
            if options is not None:
                _watch.end(options)
        return dict(zip(names, values, strict=True))

    def rest(self) -> None:
        """Leave no thread behind that watches runs, until the next one; for a snapshot, or the end."""
        _watch.rest()


_NO_MEMORY = ("Available memory of", "bad_alloc", "Failed to allocate", "Integer overflow")
"""What onnxruntime says where the arena, the machine, or an integer has no room for a tensor."""


def _refusal(error: Exception) -> TimedOutError | TooLargeError | UnprocessableError:
    """What a run's failure is to the client."""
    said = str(error)
    if ENDED in said:
        return TimedOutError("its deadline passed while it ran, and the run was ended")
    if any(words in said for words in _NO_MEMORY):
        return TooLargeError(
            f"the model needs more memory for these inputs than the {arena.held() >> 20} MiB that it may "
            "take here: send fewer or smaller ones at a time; PREHEAT_MEMORY_BYTES sets what it may take",
            code="too_much_memory",
        )
    return UnprocessableError(f"the model refuses these inputs: {first_line(error)}")


def _text(name: str, array: Array) -> Array:
    """Strings as onnxruntime takes them: an object array of ``str``."""
    try:
        items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"tensor {name!r}: a string is not UTF-8: {error}") from None
    text = np.empty(len(items), dtype=object)
    text[:] = items
    return text.reshape(array.shape)


def first_line(error: BaseException) -> str:
    """onnxruntime's message without its status prefix and its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    message = lines[0]
    if message.startswith("[ONNXRuntimeError]"):
        message = message.split(" : ", 3)[-1]
    return message[:500]
