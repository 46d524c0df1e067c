"""One session takes over from another: runs end where they began, and whatever fails leaves the first one."""

import gc
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preheat import compile as compiling
from preheat import warmup
from preheat.answer import Answer
from preheat.bootstrap import Loaded
from preheat.calls import Call, Request
from preheat.errors import EngineError, GoldenError, PreheatError
from preheat.phases import ColdStartReport, PhaseClock
from preheat.service import Service
from preheat.settings import Settings
from preheat.takeover import Takeover, take_over

from .test_choice import variant
from .test_manifest import manifest

SETTINGS = Settings(batch_ms=0)


class FakeEngine:
    """Answers with its variant's name, when it is let."""

    pace = None

    def __init__(self, name: str, *, held: bool = False) -> None:
        self.variant = variant(name)
        self.manifest = manifest()
        self.running, self.may_end = threading.Event(), threading.Event()
        if not held:
            self.may_end.set()

    def check(self, _inputs: Any) -> None: ...

    def rest(self) -> None: ...

    def infer(self, _inputs: Any, _outputs: Any, _until: float, _preemptible: Any) -> Any:
        self.running.set()
        assert self.may_end.wait(10)
        return self.variant.name


def started(engine: FakeEngine) -> Service:
    service = Service(queue=8, timeout=5)
    report = ColdStartReport(PhaseClock(), instance="i", facts={"variant": engine.variant.name})
    loaded = Loaded(
        cast(Any, engine),
        cast(Any, None),
        report,
        4,
        10,
        None,
        artifact=cast(Any, SimpleNamespace(manifest=manifest())),
    )
    service.ready(loaded)
    return service


def asked(service: Service) -> tuple[str, str]:
    """What an answer says of its session, and what its outcome does."""
    call = Call(cast(Any, {}), cast(Any, lambda outputs: Answer(outputs.encode())))
    outcome = service.handle(Request(lambda _: call, time.perf_counter_ns()))
    assert isinstance(outcome.answer, Answer)
    return outcome.answer.body.decode(), outcome.variant


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is opened, and with what; each opening gives a FakeEngine, proved at once."""
    calls: list[dict[str, Any]] = []

    def compile(_artifact: Any, chosen: Any, *, threads: int) -> FakeEngine:
        calls.append({"variant": chosen, "threads": threads})
        return FakeEngine(chosen.name)

    monkeypatch.setattr(compiling, "compile", compile)
    monkeypatch.setattr(warmup, "warm", lambda *_: {"runs": 1, "drift": 0.0})
    return calls


def test_a_run_ends_where_it_began_and_then_that_session_is_freed(opened: list[dict[str, Any]]) -> None:
    first = FakeEngine("unpacked", held=True)
    gone, may_end, running = weakref.ref(first), first.may_end, first.running
    service = started(first)
    del first
    answers: list[tuple[str, str]] = []
    asking = threading.Thread(target=lambda: answers.append(asked(service)))
    asking.start()
    assert running.wait(5)
    told: list[Any] = []
    packed = variant("packed")._replace(config={"session.prepack.enable_parallel": "1", "kept": "2"})
    taking = threading.Thread(
        target=take_over, args=(service, packed, 3, SETTINGS), kwargs={"tell": told.append}
    )
    taking.start()
    until = time.monotonic() + 5
    while not told and time.monotonic() < until:
        time.sleep(0.005)
    assert asked(service) == ("packed", "packed")  # while the other one still runs
    assert gone() is not None
    may_end.set()
    asking.join(5)
    taking.join(5)
    gc.collect()
    assert answers == [("unpacked", "unpacked")]
    assert gone() is None
    assert opened == [{"variant": packed._replace(config={"kept": "2"}), "threads": 3}]
    assert told[0]["state"] == "done"
    current = service.current
    assert current is not None
    assert current.report.facts["takeover"] == told[0]
    assert (current.report.facts["variant"], current.threads) == ("unpacked", 3)


@pytest.mark.parametrize("error", [EngineError("no memory"), GoldenError("drifts"), RuntimeError("a bug")])
def test_a_second_session_that_is_not_right_leaves_the_first(
    opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(warmup, "warm", refuse)
    service, told = started(FakeEngine("unpacked")), []
    with pytest.raises(PreheatError):
        take_over(service, variant("packed"), 1, SETTINGS, tell=told.append)
    assert asked(service) == ("unpacked", "unpacked")
    assert len(opened) == len(told) == 1
    assert told[0]["state"] == "failed"
    assert str(error) in told[0]["error"]


def test_an_engine_that_must_not_be_freed_is_handed_over(opened: list[dict[str, Any]]) -> None:
    service, kept = started(FakeEngine("packed")), []
    take_over(service, variant("packed"), 2, SETTINGS, keep=kept.append)
    assert [engine.variant.name for engine in kept] == ["packed"]
    assert opened[0]["threads"] == 2


def pending(service: Service) -> Takeover:
    service.takeover = Takeover(service, variant("packed"), 1, SETTINGS, lambda _: None)
    service.takeover.start()
    return service.takeover


def test_it_begins_after_the_first_answer(
    opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preheat.takeover.SETTLE_S", 1.0)
    service = started(FakeEngine("unpacked"))
    takeover = pending(service)
    asked(service)
    assert not opened  # not before it has reached its client
    takeover._thread.join(5)
    assert asked(service) == ("packed", "packed")


def test_a_snapshot_waits_for_it_and_a_drain_leaves_it(opened: list[dict[str, Any]]) -> None:
    service = started(FakeEngine("unpacked"))
    pending(service).finish()
    assert asked(service) == ("packed", "packed")
    service = started(FakeEngine("unpacked"))
    takeover = pending(service)
    service.drain()
    service.close()
    assert not takeover._thread.is_alive()
    assert len(opened) == 1


def test_a_busy_server_is_not_waited_for_for_ever(
    opened: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preheat.takeover.BUSY_S", 0.1)
    service = started(FakeEngine("unpacked"))
    service.admission = cast(Any, SimpleNamespace(running=1))
    service.answered.set()
    takeover = pending(service)
    takeover._thread.join(5)
    assert len(opened) == 1
