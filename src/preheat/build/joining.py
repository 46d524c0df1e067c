"""Whether requests may be run together as rows of one, and what that gains."""

from __future__ import annotations

import time
from threading import Thread
from typing import Any

import numpy as np

from ..batching import is_free
from ..engine import Engine
from ..errors import RequestError
from ..tensors import Array, Tensors, drift

ROWS = (1, 2, 4, 8, 16)
SECONDS = 0.12
"""How long each number of rows is measured."""
SLOW_MS = 4000.0
"""A run that takes longer is not joined with others: nobody wants to wait for that."""


def rates(engine: Engine, inputs: Tensors, *, callers: int) -> dict[str, float]:
    """Rows a second by rows that are run together, ``callers`` at it at once, as a server has them.

    Empty where the first axis is not free, or where a row's answer depends on its neighbours: held against
    runs of each row alone, within the manifest's tolerance.
    """
    if not is_free(engine.manifest) or any(len(array) != 1 for array in inputs.values()):
        return {}
    if not _independent(engine, inputs):
        return {}
    found: dict[str, float] = {}
    for rows in ROWS:
        if rows > engine.manifest.limits.batch:
            break
        joined = {name: np.repeat(array, rows, axis=0) for name, array in inputs.items()}
        try:
            begin = time.perf_counter()
            engine.run(joined)
            took_ms = (time.perf_counter() - begin) * 1e3
            found[str(rows)] = round(_rate(engine, joined, rows, callers), 1)
        except RequestError:  # over a limit of the artifact
            break
        if took_ms > SLOW_MS:
            break
    return found


def _independent(engine: Engine, inputs: Tensors) -> bool:
    """Three different rows, together and alone: the same answers, each in its place."""
    variants = [{name: _changed(array, by) for name, array in inputs.items()} for by in range(3)]
    try:
        together = engine.run({name: np.concatenate([v[name] for v in variants]) for name in inputs})
        if any(len(array) != len(variants) for array in together.values()):
            return False
        manifest = engine.manifest
        return all(
            drift({n: a[i : i + 1] for n, a in together.items()}, engine.run(row), manifest.stable_outputs)
            <= manifest.tolerance
            for i, row in enumerate(variants)
        )
    except RequestError:
        return False


def _changed(array: Array, by: int) -> Array:
    """Other content of the same kind: the row's own values, moved along; smaller ones where any number will
    do, so that a scale which rows share is noticed."""
    moved = np.roll(array.reshape(1, -1), by, axis=1).reshape(array.shape)
    return moved * array.dtype.type(0.5**by) if array.dtype.kind == "f" else moved


def _rate(engine: Engine, inputs: dict[str, Any], rows: int, callers: int) -> float:
    """Rows a second; every caller makes one run at least."""
    begin = time.perf_counter()
    counts = [0] * callers

    def call(index: int) -> None:
        while not counts[index] or time.perf_counter() - begin < SECONDS:
            engine.infer(inputs)
            counts[index] += 1

    threads = [Thread(target=call, args=(index,)) for index in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * rows / (time.perf_counter() - begin)
