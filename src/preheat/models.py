"""Further models of a function: loaded when they are first asked for, within a budget of memory; when a load
needs room, those that nobody has asked for for longest go.

The function's own model is none of them: it is there from the start on, and stays. Admission, the ledger,
principals and telemetry are the service's, one for all models; what each has of its own is its session, its
report and its first answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import Condition, Event, Thread, current_thread
from typing import TYPE_CHECKING, Any, Protocol

from .errors import (
    FailedStartError,
    ManifestError,
    NotFoundError,
    PreheatError,
    SettingsError,
    ShedError,
    TimedOutError,
    UnprocessableError,
)
from .manifest import Manifest, Variant
from .phases import PhaseClock

if TYPE_CHECKING:
    from .bootstrap import Loaded
    from .phases import ColdStartReport
    from .service import Service

RUNTIME_MIB = 60.0
"""MiB of a build's measured peak that no model adds: the interpreter, numpy and onnxruntime, which this
process has already (61 to 66 for MiniLM's variants on x86-64)."""
SHARE = 0.5
"""Of the memory that there is, where nobody sets the budget."""
ROOM_S = 1.0
"""Seconds for which a load waits for a model that can go, before those who wait for it are shed."""
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
"""Seconds after a failed load before the next try; twice as long after each."""
CLOSE_S = 5.0
"""Seconds that closing waits for loads under way, which nothing can interrupt."""


Tell = Callable[[str, Mapping[str, Any]], None]


class Open(Protocol):
    def __call__(
        self, location: str, clock: PhaseClock, *, room: Callable[[Manifest, Variant], None]
    ) -> Loaded:
        """``bootstrap`` as the function does it."""
        ...


class Load:
    """One load of a model, from the request that began it until the model goes."""

    def __init__(self) -> None:
        self.done = Event()
        self.loaded: Loaded | None = None
        self.refusal: Callable[[], PreheatError] | None = None
        """Makes the error that whoever waits for it is told; each is raised once."""
        self.again_at = 0.0
        """``time.monotonic`` from which a failed one is tried again."""
        self.waiting = 0
        self.bytes = 0
        """Of the budget."""


class Model:
    """A model by name. What a request needs of it is what it needs of the service for the function's own:
    ``loaded``, ``current`` and ``answered``."""

    def __init__(self, models: Models, name: str, location: str) -> None:
        self.name = name
        self.location = location
        self.answered = Event()
        """Set by the first answer after a load."""
        self.report: ColdStartReport | None = None
        """Of the latest load, whether the model is still there or not."""
        self.users = 0
        """Requests for it that wait or run: while there are any it does not go."""
        self.used_at = 0.0
        """``time.monotonic`` when the last of them left."""
        self.load: Load | None = None
        self.failures = 0
        """Loads that failed since the last one that did not."""
        self._models = models

    @property
    def current(self) -> Loaded | None:
        """What is loaded, without waiting for it."""
        load = self.load
        return load.loaded if load is not None else None

    @property
    def state(self) -> str:
        """READY, LOADING or UNAVAILABLE, as the model repository extension has it."""
        load = self.load
        if load is None or load.refusal is not None:
            return "UNAVAILABLE"
        return "READY" if load.loaded is not None else "LOADING"

    @property
    def reason(self) -> str:
        """Why the last load failed; empty where it did not."""
        load = self.load
        return str(load.refusal()) if load is not None and load.refusal is not None else ""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it from going, from its load on."""
        with self._models.changed:
            self.users += 1
        try:
            yield
        finally:
            with self._models.changed:
                self.users -= 1
                self.used_at = time.monotonic()
                if not self.users:
                    self._models.changed.notify_all()

    def loaded(self, arrived_ns: int, deadline_ns: int = 0) -> Loaded:
        """What is loaded, waiting as a request would: for the function's own start, then for this load, which
        begins if none has.

        Raises TimedOutError, FailedStartError with the load's reason, ShedError where no room can be made now
        or too many wait already, UnprocessableError for a model that is larger than the budget.
        """
        service = self._models.service
        service.loaded(arrived_ns, deadline_ns)
        load = self.begin()
        if not load.done.is_set():
            with self._models.changed:
                if load.waiting >= max(service.admission.queue // 2, 1):  # the rest is for the other models
                    raise ShedError(f"{load.waiting} requests wait for model {self.name!r} already")
                load.waiting += 1
            try:
                until = service.until(arrived_ns, deadline_ns)
                if not load.done.wait(max(until - time.perf_counter(), 0.0)):
                    raise TimedOutError("its deadline passed before the model was there")
            finally:
                with self._models.changed:
                    load.waiting -= 1
        if load.refusal is not None:
            raise load.refusal()
        assert load.loaded is not None  # noqa: S101 - it is done, and was not refused
        return load.loaded

    def begin(self) -> Load:
        """The load that stands; a new one, in a thread of its own, where there is none or the last has failed
        and may be tried again."""
        with self._models.changed:
            load = self.load
            if load is None or (load.refusal is not None and time.monotonic() >= load.again_at):
                load = Load()
                # No daemon: an interpreter that ends must not pull onnxruntime away under it.
                thread = Thread(target=self._models.run, args=(self, load), name=f"preheat-load-{self.name}")
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them
                    raise ShedError(f"no thread can be had to load model {self.name!r}") from None
                self._models.loads.add(thread)
                self.load = load
            return load


class Models:
    """``places``: where each lies, by name. ``budget``: bytes; 0: ``SHARE`` of what this process can have."""

    def __init__(self, service: Service, places: Mapping[str, str], budget: int = 0) -> None:
        self.service = service
        self.changed = Condition()
        """Guards all that is here and in the models; told when a model may go, and when one has gone."""
        self.taken = 0
        """Bytes of the budget."""
        self.loads: set[Thread] = set()
        self._budget = budget
        self._models = {name: Model(self, name, place) for name, place in places.items()}
        self._open: Open
        self._tell: Tell

    def opened_by(self, open_model: Open, tell: Tell) -> None:
        """How a model is opened, and who hears of loads and evictions. Before the function's own is ready."""
        self._open, self._tell = open_model, tell

    def values(self) -> list[Model]:
        return list(self._models.values())

    @property
    def budget(self) -> int:
        """Bytes that the loaded ones may take together."""
        if not self._budget:
            from .arena import usable_memory

            self._budget = int(usable_memory() * SHARE)
        return self._budget

    def find(self, name: str) -> Model | None:
        """The model of a name; None for the function's own. Raises NotFoundError for any other name, as soon
        as the function's own is known."""
        model, own = self._models.get(name), self.service.current
        if model is None and own is not None and own.engine.manifest.name != name:
            names = ", ".join(map(repr, (own.engine.manifest.name, *self._models)))
            raise NotFoundError(f"there is no model {name!r} here; this server has {names}")
        return model

    @property
    def scopes(self) -> list[str]:
        """``Loaded.scope`` of each, loaded or not; once the function's own is there."""
        own = self.service.current
        assert own is not None  # noqa: S101 - see above
        return [f"{own.engine.manifest.name}/{name}:" for name in self._models]

    def check_own(self, name: str) -> None:
        """Raise SettingsError where the function's own model has the name of one of these."""
        if name in self._models:
            raise SettingsError(
                f"PREHEAT_MODELS names {name!r} ({self._models[name].location}), which is the function's own "
                "model too: leave it out, or build one of them with another --name"
            )

    def unload(self, model: Model) -> None:
        """Let go of a model. Raises ShedError while it is in use or being loaded."""
        with self.changed:
            if model.load is None or model.load.refusal is not None:
                model.load = None
                return
            if model.users or model.load.loaded is None:
                raise ShedError(f"model {model.name!r} is in use")
            going = [(model, _take(model))]
        self._let_go(going)

    def close(self) -> None:
        """Let go of every model that is not in use, when its load has ended: a snapshot follows, or the end.
        What is asked for afterwards is loaded again."""
        until = time.monotonic() + CLOSE_S
        for thread in list(self.loads):
            thread.join(max(until - time.monotonic(), 0.0))
        with self.changed:
            going = [(model, _take(model)) for model in self._idle()]
            for model in self._models.values():
                model.report = None  # an instance that is restored tells of its own loads
        self._let_go(going)

    def run(self, model: Model, load: Load) -> None:
        """Load a model, in its own thread."""
        began_ns = time.perf_counter_ns()
        try:
            loaded = self._open(
                model.location, PhaseClock(began_ns), room=partial(self._make_room, model, load)
            )
            if loaded.engine.manifest.name != model.name:
                if loaded.artifact is not None:
                    loaded.artifact.close()
                raise ManifestError(f"{model.location} is {loaded.engine.manifest.name!r} by now")
        except PreheatError as error:
            self._failed(model, load, error, str(error))
        except Exception as error:  # of a library or a task, in a thread that nobody watches
            import traceback

            traceback.print_exc(file=sys.stderr)
            self._failed(model, load, error, f"{type(error).__name__}: {error}")
        else:
            self._ready(model, load, loaded)
        with self.changed:
            self.loads.discard(current_thread())

    def _ready(self, model: Model, load: Load, loaded: Loaded) -> None:
        own = self.service.current
        assert own is not None  # noqa: S101 - loads wait for it
        loaded = loaded._replace(beside=own.engine.manifest.name)
        size = memory_bytes(loaded.engine.manifest, loaded.engine.variant)  # it may be another than the best
        with self.changed:
            self.taken += size - load.bytes
            load.bytes, load.loaded = size, loaded
            model.report, model.failures, model.used_at = loaded.report, 0, time.monotonic()
            model.answered.clear()
            load.done.set()
            self.changed.notify_all()
        self.service.telemetry.metrics.model_loads.add((model.name, "ok"))
        self._tell("model loaded", {"model": model.name, "bytes": size, **loaded.report.to_dict()})

    def _failed(self, model: Model, load: Load, error: Exception, reason: str) -> None:
        with self.changed:
            self.taken, load.bytes = self.taken - load.bytes, 0
            if isinstance(error, ShedError):  # the next request may be luckier
                load.refusal = partial(ShedError, reason, code=error.code, retry_after=error.retry_after)
            else:
                pause = min(FIRST_RETRY_S * 2 ** min(model.failures, 8), LONGEST_RETRY_S)
                model.failures += 1
                load.again_at = time.monotonic() + pause
                if isinstance(error, UnprocessableError):
                    load.refusal = partial(UnprocessableError, reason, code=error.code)
                else:
                    told = f"model {model.name!r} could not be loaded: {reason}"
                    load.refusal = partial(FailedStartError, told, retry_after=int(pause))
            load.done.set()
            self.changed.notify_all()
        self.service.telemetry.metrics.model_loads.add((model.name, "failed"))
        self._tell("model not loaded", {"model": model.name, "error": reason})

    def _make_room(self, model: Model, load: Load, manifest: Manifest, variant: Variant) -> None:
        """Take what a variant needs of the budget; let go of others for it, when nobody uses them.

        Raises ShedError where that takes longer than ROOM_S, UnprocessableError where it is over the budget.
        """
        needed = memory_bytes(manifest, variant)
        if needed > self.budget:
            raise UnprocessableError(
                f"model {model.name!r} takes {_mib(needed)}, and all models together may take "
                f"{_mib(self.budget)}: raise PREHEAT_MODELS_BYTES, or build it with a smaller variant",
                code="model_too_large",
            )
        until = time.monotonic() + ROOM_S
        while True:
            with self.changed:
                missing = needed - (self.budget - self.taken)
                if missing <= 0:
                    load.bytes = needed
                    self.taken += needed
                    return
                going = [(other, _take(other)) for other in self._oldest(missing)]
                left = until - time.monotonic()
                if not going and left > 0:
                    self.changed.wait(left)
                elif not going:
                    raise ShedError(
                        f"model {model.name!r} takes {_mib(needed)} and {_mib(self.budget - self.taken)} of "
                        f"{_mib(self.budget)} are free: the others are in use",
                        code="no_room",
                    )
            self._let_go(going)

    def _idle(self) -> list[Model]:
        """Those that may go, the least recently used first."""
        idle = [m for m in self._models.values() if m.current is not None and not m.users]
        return sorted(idle, key=lambda model: model.used_at)

    def _oldest(self, missing: int) -> list[Model]:
        """As many of them as free that many bytes; none where all together would not."""
        found = []
        for model in self._idle():
            found.append(model)
            assert model.load is not None  # noqa: S101 - it is loaded
            missing -= model.load.bytes
            if missing <= 0:
                return found
        return []

    def _let_go(self, going: list[tuple[Model, Load]]) -> None:
        """Free the sessions of models that no request can find any more; their bytes count until then."""
        if not going:
            return
        from .takeover import free, give_back

        while going:
            model, load = going.pop()
            assert load.loaded is not None  # noqa: S101 - what is not loaded does not go
            engines, size, artifact = [load.loaded.engine], load.bytes, load.loaded.artifact
            del load
            free(engines, ROOM_S)  # frames of the last answers may hold it still
            if artifact is not None:
                artifact.close()
            give_back()
            with self.changed:
                self.taken -= size
                self.changed.notify_all()
            self.service.telemetry.metrics.model_evictions.add((model.name,))
            self._tell("model let go", {"model": model.name, "bytes": size})


def memory_bytes(manifest: Manifest, variant: Variant) -> int:
    """Bytes of memory that a variant takes: what its build measured beyond ``RUNTIME_MIB``, else the size of
    its files."""
    measured = manifest.measured(variant.name, "rss_mib")
    if measured is None:
        return manifest.weight_bytes(variant)
    return int(max(measured - RUNTIME_MIB, 1.0) * (1 << 20))


def _take(model: Model) -> Load:
    """Let the next request for a model begin another load; gives the one that stood."""
    load, model.load = model.load, None
    assert load is not None  # noqa: S101 - it is loaded
    return load


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
