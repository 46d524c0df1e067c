"""What sessions may allocate: one arena of onnxruntime's for all sessions of a process, with an upper bound.

A graph can ask for any amount: a shape computed from an input's values, a loop that gathers. Past the bound
onnxruntime gives up that run with an error of its own and goes on; past the machine's memory, or the control
group's, the kernel ends the process. Source of the bound: onnxruntime's OrtArenaCfg, ``max_mem``.
"""

from __future__ import annotations

import os

from . import fingerprint

SHARE = 0.75
"""Of the memory that there is; the rest is for the interpreter, requests and answers."""

_held = 0


def hold(memory: int = 0, weights: int = 0) -> int:
    """Bound what the sessions that are opened from now on allocate, all together; gives the bound, in bytes.

    ``memory``: what their runs may take, in bytes; 0: ``SHARE`` of what this process can have. ``weights``:
    what the model's files take: where they are not mapped they lie in the arena too, and onnxruntime has no
    bound where they alone are over it. Not in it are strings, what the Python side makes, and onnxruntime's
    own records, which take as much again as the tensors where these are tiny.
    """
    if memory:
        wanted = memory + weights
    else:
        usable = usable_memory()
        wanted = max(int(usable * SHARE), weights + int(usable * (1 - SHARE)))
    return _hold(wanted) if wanted != _held else _held


def held() -> int:
    """The bound, set to its default where nothing has set it."""
    return _held or hold()


def _hold(wanted: int) -> int:
    global _held
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(wanted, -1, -1, -1))
    _held = wanted
    return wanted


def usable_memory() -> int:
    """Bytes that this process can have: the machine's memory, no more than its control groups leave it."""
    return int(min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), fingerprint.memory_limit()))
