"""Long work in Python: what it takes is counted, and it lets others go first, but not for ever."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any, cast

import pytest

from preheat import pauses
from preheat.admission import JUST_S, MANY, Admission, Place
from preheat.errors import InvalidRequestError
from preheat.pauses import Pauses, large, made, pause, room


class Held:
    """An admission that says whether to wait."""

    def __init__(self, *, until: int = 0) -> None:
        self.seconds = 0.0
        self.asked = 0
        self._until = until

    def used(self, place: Place, seconds: float) -> None:
        assert place.tenant == "giant"
        self.seconds += seconds

    def holds(self, tenant: str) -> bool:
        assert tenant == "giant"
        self.asked += 1
        return self.asked <= self._until


def busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def within(admission: Any, work: Any) -> Any:
    return Pauses(cast(Admission, admission), Place("giant")).within(work)


def test_outside_such_work_there_are_none() -> None:
    pause()
    made([1])


def test_what_it_takes_is_counted_and_waiting_is_not() -> None:
    admission = Held(until=50)
    began = time.perf_counter()
    assert within(admission, lambda: (busy(0.05), pause(), busy(0.05))[1:]) == (None, None)
    assert 0.1 <= admission.seconds < 0.15
    assert time.perf_counter() - began >= 0.15
    assert admission.asked == 51


def test_what_was_refused_is_counted_too() -> None:
    admission = Held()

    def work() -> None:
        busy(0.02)
        raise InvalidRequestError("no")

    with pytest.raises(InvalidRequestError):
        within(admission, work)
    assert admission.seconds >= 0.02
    pause()
    assert admission.asked == 0, "it is over"


def test_it_goes_on_although_others_are_about_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "ALLOWED_S", 0.02)
    admission = Held(until=10**9)
    began = time.perf_counter()
    within(admission, lambda: [(busy(0.01), pause()) for _ in range(5)])
    assert 0.05 < time.perf_counter() - began < 1.0
    assert admission.asked <= 100


def test_of_one_thread_alone() -> None:
    admission, seen = Held(until=5), []

    def work() -> None:
        thread = threading.Thread(target=lambda: (pause(), seen.append(admission.asked)))
        thread.start()
        thread.join()

    within(admission, work)
    assert seen == [0]


class Leaf:
    """Something that tells whether it is there still."""


def test_others_have_the_interpreter_while_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "KEPT", 2**30)
    others, over = [0], threading.Event()

    def other() -> None:
        while not over.wait(0.001):
            others[0] += 1

    thread = threading.Thread(target=other)
    thread.start()
    try:
        before = others[0]
        room(256 * 1024 * 1024)
        during = others[0] - before
    finally:
        over.set()
        thread.join(9)
    assert during > 2


@pytest.mark.parametrize("refused", [False, True])
def test_what_was_made_of_a_refused_request_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(pauses, "_AT_ONCE", 2)
    admission = Held()
    leaves = [Leaf() for _ in range(5)]
    there = [weakref.ref(leaf) for leaf in leaves]
    document: Any = {"a": [leaves[:2], {"b": leaves[2:], "c": {}}, 1, []], "d": "text"}
    del leaves

    def work() -> None:
        made(document)
        if refused:
            raise InvalidRequestError("no")

    if refused:
        with pytest.raises(InvalidRequestError):
            within(admission, work)
        gc.collect()
        assert document == {}
        assert all(ref() is None for ref in there)
        assert admission.asked > 1, "others may go first meanwhile"
    else:
        within(admission, work)
        assert len(document["a"]) == 4


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_millions_of_objects_are_made(collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        seen: list[bool] = []

        def inner() -> None:
            large()
            seen.append(gc.isenabled())

        def work() -> None:
            seen.append(gc.isenabled())
            large()
            large()
            thread = threading.Thread(target=within, args=(Held(), inner))
            thread.start()
            thread.join()
            seen.append(gc.isenabled())

        within(Held(), work)
        assert seen == [collects, False, False]
        assert gc.isenabled() is collects
        large()
        assert gc.isenabled() is collects, "outside such work it is nobody's"
    finally:
        (gc.enable if before else gc.disable)()


def test_a_heavy_tenants_work_waits_while_a_light_ones_request_is_here() -> None:
    admission = Admission(50)
    admission.open(1)
    for _ in range(MANY + 1):
        admission.enter("giant")
    assert not admission.holds("giant")
    light = admission.enter("light")
    assert admission.holds("giant"), "it has just come"
    assert not admission.holds("light")
    time.sleep(2 * JUST_S)
    assert not admission.holds("giant"), "it waits for something else than the engine"
    admission.turn(light, time.perf_counter() + 5)
    began = time.perf_counter()
    threading.Timer(0.05, admission.done, (light,)).start()
    within(admission, pause)
    assert time.perf_counter() - began >= 0.05
    assert not admission.holds("giant")


def test_who_keeps_the_interpreter_is_heavy() -> None:
    admission = Admission(50)
    admission.open(4)
    place = admission.enter("giant")
    admission.enter("light")
    assert not admission.holds("giant")
    admission.used(place, 0.2)  # all four turns need it
    assert not admission.holds("giant")
    admission.used(place, 0.3)
    assert place.counted == 0.5
    assert admission.holds("giant")
    assert not admission.holds("light")
