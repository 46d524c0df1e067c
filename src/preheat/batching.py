"""Requests that wait at the same time, run as one: joined along the first axis, their answers cut apart.

Whether that pays, and how many rows do best, the planner has measured for each variant (build.joining), with
the proof that a row's answer does not depend on its neighbours. Whoever is alone never waits for company.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EngineError, PreheatError, RequestError, ShedError, TimedOutError
from .turn import rows_of

if TYPE_CHECKING:
    from .admission import Place
    from .calls import Call
    from .engine import Engine
    from .manifest import Manifest
    from .settings import Settings
    from .tensors import Array, Padding, Tensors
    from .turn import Turn

PAYS = 1.15
"""Rows run together must be this much faster than alone to be worth it: less is the planner's noise."""
FEW = 1.5
"""How many times as long as one row's a run may take beside another tenant."""
WASTE = 1.25
"""Padding may make the work this much larger."""
SHORTEST_MS, LONGEST_MS = 0.5, 10.0
"""How long one that is not alone waits for the others, where nobody says otherwise: half as long as it runs,
within these bounds."""
_LOOK_S = 0.0002


class Batcher:
    """``rows``: the most that are run together. ``window_s``: how long one waits for others, where the
    last run had any. ``mixed``: whether several tenants' requests may be run together; where not, ``few`` are
    the most while another tenant is about, which must not wait long for its turn."""

    def __init__(
        self, engine: Engine, rows: int, window_s: float, *, mixed: bool, few: int | None = None
    ) -> None:
        self.rows = rows
        self._few = rows if few is None else few
        self._engine = engine
        self._window_s = window_s
        self._mixed = mixed
        self._expected: tuple[str | None, int] = None, 1
        """Whose requests the last run joined (None: anybody's), and how many: whether there is company to
        wait for."""
        self._lengths = _length_outputs(engine.manifest)

    def run(self, turn: Turn) -> Tensors:
        """Run the call of the place whose turn it is, and those along with it that wait and fit; give its own
        outputs.

        Those others get theirs, or their error, and are woken. Raises RequestError.
        """
        admission, place = turn.admission, turn.place
        group = _Group(place.call, self.rows if self._mixed or admission.alone(place.tenant) else self._few)

        def fits(other: Place) -> bool:
            alike = other.model is place.model and (self._mixed or other.tenant == place.tenant)
            return alike and group.add(other.call)

        mates = admission.take(fits)
        whose = None if self._mixed else place.tenant
        expected = self._expected[1] if self._expected[0] == whose else 1
        if len(group.calls) < expected and not group.full:
            admission.gather(whose)
            try:
                until = time.perf_counter() + self._window_s
                while len(group.calls) < expected and not group.full and time.perf_counter() < until:
                    time.sleep(_LOOK_S)
                    mates += admission.take(fits)
            finally:
                admission.gather(whose, end=True)
        self._expected = whose, len(group.calls)
        if not mates:
            return self._alone(place.call, turn)
        return self._joined(group, mates, turn._replace(until=max(one.until for one in (place, *mates))))

    def _alone(self, call: Call, turn: Turn) -> Tensors:
        return turn.infer(self._engine, call.inputs, call.outputs)

    def _joined(self, group: _Group, mates: list[Place], turn: Turn) -> Tensors:
        results: Sequence[Tensors | PreheatError]
        try:
            results = self._results(group, turn)
        except (TimedOutError, ShedError) as error:  # the last one's time has passed, or the server stops
            results = [type(error)(str(error)) for _ in group.calls]
        except BaseException as error:
            results = [EngineError(f"the run that it was part of failed: {error}")] * len(group.calls)
            raise
        finally:
            for mate, result in zip(mates, results[1:], strict=True):
                mate.variant = self._engine.variant.name
                mate.ran_ns = turn.place.spent_ns
                if isinstance(result, PreheatError):
                    mate.error = result
                else:
                    mate.outputs = result
                mate.come()
        if isinstance(results[0], PreheatError):
            raise results[0]
        return results[0]

    def _results(self, group: _Group, turn: Turn) -> Sequence[Tensors | PreheatError]:
        try:
            outputs = turn.infer(self._engine, group.inputs(), group.calls[0].outputs, len(group.calls))
        except RequestError:  # the model refuses one of them: each is told its own
            return [self._told(call, turn) for call in group.calls]
        return group.cut(outputs, self._lengths)

    def _told(self, call: Call, turn: Turn) -> Tensors | PreheatError:
        try:
            return self._alone(call, turn)
        except RequestError as error:
            return error


class _Group:
    """Calls that are run together: the same outputs wanted, inputs alike but for the first axis."""

    def __init__(self, first: Call, most: int) -> None:
        self.calls = [first]
        self.rows = rows_of(first.inputs)
        self._most = most
        self._shape = _shape(first)
        self._widths = [_width(first)]

    @property
    def full(self) -> bool:
        return self.rows >= self._most

    def add(self, call: Call) -> bool:
        """Whether the call fits, and is now one of them."""
        first, rows, width = self.calls[0], rows_of(call.inputs), _width(call)
        if (
            not (self.rows and rows)
            or self.rows + rows > self._most
            or call.outputs != first.outputs
            or _shape(call) != self._shape
        ):
            return False
        if width != self._widths[0] and (call.padding is None or call.padding != first.padding):
            return False
        widest = max(width, *self._widths)
        work = (
            sum(rows_of(c.inputs) * w for c, w in zip(self.calls, self._widths, strict=True)) + rows * width
        )
        if width and widest * (self.rows + rows) > WASTE * work:
            return False
        self.calls.append(call)
        self._widths.append(width)
        self.rows += rows
        return True

    def inputs(self) -> dict[str, Array]:
        """The joined inputs, first axis: the rows of all calls in order."""
        widest = max(self._widths)
        padding = self.calls[0].padding
        return {
            name: np.concatenate([_padded(call.inputs[name], name, widest, padding) for call in self.calls])
            for name in self.calls[0].inputs
        }

    def cut(self, outputs: Tensors, lengths: frozenset[str]) -> list[Tensors]:
        """Each call's part. ``lengths``: outputs whose axis 1 is as long as the inputs'."""
        found: list[Tensors] = []
        start, widest, padding = 0, max(self._widths), self.calls[0].padding
        for call, width in zip(self.calls, self._widths, strict=True):
            end = start + rows_of(call.inputs)
            part = {name: array[start:end] for name, array in outputs.items()}
            if padding is not None and width != widest:
                own = slice(widest - width, None) if padding.left else slice(width)
                part.update({name: part[name][:, own] for name in lengths if name in part})
            found.append(part)
            start = end
        return found


def batcher(engine: Engine, settings: Settings) -> Batcher | None:
    """How this variant's requests are joined; None where it does not pay or must not be.

    Raises EngineError where PREHEAT_BATCH_MS wants it of a model that it cannot be done with.
    """
    rates = engine.manifest.joined(engine.variant.name)
    best = max(rates, key=rates.__getitem__, default=1)
    wanted = settings.batch_ms
    if wanted > 0 and best == 1:
        best = max(rates, default=1)  # it does not pay, and somebody wants it
    if wanted > 0 and not rates:
        raise EngineError(
            f"PREHEAT_BATCH_MS is {wanted:g}, and nothing says that rows of {engine.variant.name!r} may be "
            "run together: its first axis is not free, its rows depend on each other, or it was not "
            "measured. Unset it, or build the artifact again"
        )
    if wanted == 0 or best == 1 or (wanted < 0 and rates[best] < PAYS * rates.get(1, rates[best])):
        return None
    if wanted < 0:
        steady = engine.manifest.measured(engine.variant.name, "steady_ms") or 0.0
        wanted = min(max(steady / 2, SHORTEST_MS), LONGEST_MS)
    single = rates.get(1, rates[best])
    few = max((rows for rows, rate in rates.items() if rows / rate <= FEW / single), default=1)
    return Batcher(
        engine, best, wanted / 1e3, mixed=settings.batch_tenants == "any", few=max(min(few, best), 1)
    )


def is_free(manifest: Manifest) -> bool:
    """Whether the first axis of every input and output is of free size."""
    shapes = [spec.shape for spec in (*manifest.inputs, *manifest.outputs)]
    return all(shape and not isinstance(shape[0], int) for shape in shapes)


def _length_outputs(manifest: Manifest) -> frozenset[str]:
    """Outputs whose axis 1 has the symbol of an input's axis 1."""

    def axis(shape: tuple[int | str | None, ...] | None) -> Any:
        return shape[1] if shape and len(shape) > 1 and isinstance(shape[1], str) else None

    symbols = {axis(spec.shape) for spec in manifest.inputs} - {None}
    return frozenset(spec.name for spec in manifest.outputs if axis(spec.shape) in symbols)


def _width(call: Call) -> int:
    """The size of axis 1 where the call may be padded along it; 0 otherwise."""
    return int(next(iter(call.inputs.values())).shape[1]) if call.padding is not None else 0


def _shape(call: Call) -> dict[str, tuple[Any, ...]]:
    """What must be the same of calls that are joined: type and shape, without the axes that need not be."""
    kept = 1 if call.padding is None else 2
    return {name: (array.dtype, *array.shape[kept:]) for name, array in call.inputs.items()}


def _padded(array: Array, name: str, width: int, padding: Padding | None) -> Array:
    missing = width - array.shape[1] if padding is not None else 0
    if not missing or padding is None:
        return array
    around = (missing, 0) if padding.left else (0, missing)
    return np.pad(array, ((0, 0), around), constant_values=padding.fill[name])
