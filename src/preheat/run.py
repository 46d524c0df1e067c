"""One request's way through the engine: its turn, or a run while the session is being proved."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import ref

from .admission import Place
from .answer import Answer
from .calls import Call
from .errors import PreheatError, TimedOutError
from .pauses import Pauses
from .turn import Turn

if TYPE_CHECKING:
    from .bootstrap import Loaded
    from .engine import Engine
    from .models import Model
    from .overrun import Preemptible
    from .service import Service
    from .tensors import Tensors


class Run:
    """``until``: ``time.perf_counter`` of the deadline. ``model``: where what it runs on is loaded.

    ``asked_ns``, ``began_ns`` and ``ended_ns``: ``perf_counter_ns`` of its turn; 0 where it came to none.
    """

    def __init__(self, service: Service, place: Place, until: float, model: Service | Model) -> None:
        self.service = service
        self.place = place
        place.model = model
        self.until = until
        self.asked_ns = 0
        self.began_ns = 0
        self.ended_ns = 0
        self._early: tuple[ref[Engine], Tensors] | None = None
        """What an engine gave while it was being proved."""

    def early(self, engine: Engine, call: Call, preemptible: Preemptible) -> None:
        """Run without a turn, on an engine that is being proved. What comes of it counts if ``answer`` is
        given the same one; an error never does, it comes again."""
        with suppress(PreheatError):
            engine.check(call.inputs)
            self.began_ns = time.perf_counter_ns()
            outputs = engine.infer(call.inputs, call.outputs, self.until, preemptible)
            self.ended_ns = time.perf_counter_ns()
            self.service.telemetry.ran(self.began_ns, self.ended_ns)
            self._early = ref(engine), outputs

    def answer(self, loaded: Loaded, call: Call) -> Answer:
        """Wait for a turn, run, encode. Raises TimedOutError where that took longer than there was time."""
        admission = self.service.admission
        if self._early is not None and self._early[0]() is loaded.engine:
            self.asked_ns, self.place.variant = self.began_ns, loaded.engine.variant.name
            return self._finished(call, self._early[1])
        loaded.engine.check(call.inputs)
        self.place.call, self.place.until = call, self.until
        self.began_ns = self.ended_ns = 0
        self.asked_ns = time.perf_counter_ns()
        if admission.turn(self.place, self.until):
            try:
                loaded = self.place.model.current or loaded  # another session may have taken over meanwhile
                self.place.variant = loaded.engine.variant.name
                turn = Turn(admission, self.place, self.until, self.service.telemetry.ran)
                if loaded.batcher is None:
                    outputs = turn.infer(loaded.engine, call.inputs, call.outputs)
                else:
                    outputs = loaded.batcher.run(turn)
            finally:
                self.ended_ns = time.perf_counter_ns()
                self.began_ns = self.ended_ns - self.place.spent_ns
                admission.done(self.place)
                self.service.telemetry.preempted(self.place.preempted)
        else:
            self.ended_ns = time.perf_counter_ns()
            self.began_ns = self.ended_ns - self.place.ran_ns
            outputs = self.place.outputs
        return self._finished(call, outputs)

    def _finished(self, call: Call, outputs: Tensors) -> Answer:
        answer = Pauses(self.service.admission, self.place).within(lambda: call.finish(outputs))
        if time.perf_counter() > self.until:
            raise TimedOutError("its deadline passed while it ran")
        return answer
