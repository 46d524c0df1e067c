"""What runs in a turn. A long run of many rows is cut into pieces along the first axis, where the planner has
proved that rows do not depend on each other: between two of them others have their turn, and one of them is
soon over, or ended at little cost.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .admission import YIELD_S
from .errors import TimedOutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .admission import Admission, Place
    from .engine import Engine
    from .tensors import Tensors

PIECE_S = 0.02
"""How long a piece is to run; a row that takes longer is a piece."""


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
        pace = engine.pace
        rows = rows_of(inputs) if pace is not None else 0
        elements = sum(array.size for array in inputs.values()) / rows if rows > 1 else 0
        if pace is None or not elements:
            return self._run(engine, inputs, outputs, requests)[0]
        parts: list[Tensors] = []
        done, began, worked = 0, time.perf_counter(), 0.0
        while done < rows:
            if parts:  # all its pauses, and what is run again, last as long as it works, and YIELD_S
                over = time.perf_counter() - began - 2 * worked
                self.admission.pause(self.place, self.until, min(max(YIELD_S - over, 0.0), YIELD_S))
            count = share(rows - done, pace * elements, engine.fixed_s)
            part = {name: array[done : done + count] for name, array in inputs.items()}
            whole = requests * (done + count) // rows - requests * done // rows
            found, took = self._run(engine, part, outputs, whole)
            parts.append(found)
            done += count
            worked += took
            # What is fixed is known but roughly, and not of this moment: no more than the shortest run, and
            # half of any other.
            engine.fixed_s = min(engine.fixed_s, took)
            pace = max(took - engine.fixed_s, took / 2) / count / elements
            if engine.pace is not None:
                engine.pace = min(engine.pace, pace)
        try:
            return joined(parts)
        except ValueError:  # an output's other axes depend on what is in it: only a whole run can tell
            engine.pace = None
            return self._run(engine, inputs, outputs, 0)[0]

    def _run(
        self, engine: Engine, inputs: Tensors, outputs: Sequence[str] | None, requests: int
    ) -> tuple[Tensors, float]:
        """And the seconds that it took."""
        if time.perf_counter() > self.until:
            raise TimedOutError("its deadline passed while it ran")
        began_ns = ended_ns = 0

        def run() -> Tensors:
            nonlocal began_ns, ended_ns
            began, began_ns = time.thread_time(), time.perf_counter_ns()
            try:
                return engine.infer(inputs, outputs, self.until, self.place.runs)
            finally:
                ended_ns = time.perf_counter_ns()
                self.place.spent_ns += ended_ns - began_ns
                self.place.counted += time.thread_time() - began  # as the turn's own time
                self.ran(began_ns, ended_ns, requests)

        found = self.admission.held(self.place, self.until, run)
        return found, (ended_ns - began_ns) / 1e9


def rows_of(inputs: Tensors) -> int:
    """The size of the first axis; 0 where it is not the same for every input."""
    sizes = {array.shape[0] for array in inputs.values()}
    return int(sizes.pop()) if len(sizes) == 1 else 0


def share(rows: int, row_s: float, fixed_s: float = 0.0) -> int:
    """How many rows are the next piece: all are about as large and take PIECE_S, or longer where more than a
    third of that would not be for the rows. ``row_s``: seconds for one more; ``fixed_s``: for none."""
    pieces = math.ceil(min(rows * row_s / max(PIECE_S - fixed_s, 2 * fixed_s), rows))
    return math.ceil(rows / max(pieces, 1))


def joined(parts: Sequence[Tensors]) -> Tensors:
    """The outputs of pieces as one. Raises ValueError where they do not fit each other."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
