"""What runs in a turn. A long run of many rows is cut into pieces along the first axis, where the planner has
proved that rows do not depend on each other: between two of them others have their turn, and one of them is
soon over, or ended at little cost.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .errors import TimedOutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .admission import Admission, Place
    from .engine import Engine
    from .tensors import Tensors

PIECE_S = 0.02
"""How long a piece is to run; a row that takes longer is one."""


class Turn(NamedTuple):
    """The turn that a place has."""

    admission: Admission
    place: Place
    until: float
    """``time.perf_counter`` of the deadline; of the last one of those who wait for what runs in it."""
    ran: Callable[[int, int, int], None]
    """Told of each run of a session: ``perf_counter_ns`` before and after it, requests that ended with it."""

    def infer(
        self, engine: Engine, inputs: Tensors, outputs: Sequence[str] | None, requests: int = 1
    ) -> Tensors:
        """The outputs for inputs of so many requests. Raises what ``Engine.infer`` does but PreemptedError,
        and what ``Admission.turn`` does."""
        rows = rows_of(inputs) if engine.pace is not None else 0
        if rows < 2 or engine.pace is None:
            return self._run(engine, inputs, outputs, requests)[0]
        elements = sum(array.size for array in inputs.values()) / rows
        parts: list[Tensors] = []
        done, pace = 0, engine.pace
        while done < rows:
            if parts:
                self.admission.pause(self.place, self.until)
            count = share(rows - done, pace * elements)
            part = {name: array[done : done + count] for name, array in inputs.items()}
            whole = requests * (done + count) // rows - requests * done // rows
            found, took = self._run(engine, part, outputs, whole)
            parts.append(found)
            done += count
            pace = took / count / elements
            engine.pace = min(engine.pace, pace)
        return joined(parts)

    def _run(
        self, engine: Engine, inputs: Tensors, outputs: Sequence[str] | None, requests: int
    ) -> tuple[Tensors, float]:
        """And the seconds that it took."""
        if time.perf_counter() > self.until:
            raise TimedOutError("its deadline passed while it ran")
        began_ns = ended_ns = 0

        def run() -> Tensors:
            nonlocal began_ns, ended_ns
            began_ns = time.perf_counter_ns()
            try:
                return engine.infer(inputs, outputs, self.until, self.place.runs)
            finally:
                ended_ns = time.perf_counter_ns()
                self.ran(began_ns, ended_ns, requests)

        found = self.admission.held(self.place, self.until, run)
        return found, (ended_ns - began_ns) / 1e9


def rows_of(inputs: Tensors) -> int:
    """The size of the first axis; 0 where it is not the same for every input."""
    sizes = {array.shape[0] for array in inputs.values()}
    return int(sizes.pop()) if len(sizes) == 1 else 0


def share(rows: int, row_s: float) -> int:
    """How many rows are the next piece, so that all pieces are about as large. ``row_s``: seconds for one."""
    pieces = math.ceil(min(rows * row_s / PIECE_S, rows))
    return math.ceil(rows / max(pieces, 1))


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The outputs of pieces as one."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
