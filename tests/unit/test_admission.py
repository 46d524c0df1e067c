"""Turns between tenants: whose request waits, and whose finds one."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from preheat.admission import YIELD_S, Admission, Place
from preheat.errors import ShedError, ThrottledError, TimedOutError


def opened(turns: int, queue: int = 20, **limits: float) -> Admission:
    admission = Admission(queue, rate=limits.get("rate", 0.0), burst=int(limits.get("burst", 0)))
    admission.open(turns)
    return admission


class Waiting:
    """A request in a thread of its own that waits for its turn."""

    def __init__(self, admission: Admission, tenant: str) -> None:
        self.place = admission.enter(tenant)
        self.had = threading.Event()
        self._admission = admission
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()
        time.sleep(0.01)

    def _turn(self) -> None:
        with contextlib.suppress(TimedOutError):  # a test may leave it waiting
            if self._admission.turn(self.place, time.perf_counter() + 5):
                self.had.set()

    def done(self) -> None:
        self._admission.done(self.place)
        self._admission.leave(self.place)


def running(admission: Admission, tenant: str) -> Place:
    place = admission.enter(tenant)
    assert admission.turn(place, time.perf_counter() + 1)
    return place


def test_one_alone_has_every_turn() -> None:
    admission = opened(4)
    for _ in range(4):
        running(admission, "flood")
    assert admission.running == 4


def test_beside_another_tenant_it_has_half() -> None:
    admission = opened(4)
    first = running(admission, "quiet")
    admission.done(first)
    admission.leave(first)
    for _ in range(2):
        running(admission, "flood")
    third = Waiting(admission, "flood")
    assert not third.had.is_set()
    again = running(admission, "quiet")  # finds a turn, although others wait
    assert admission.running == 3
    admission.done(again)
    assert not third.had.is_set()


def test_one_that_waits_lets_a_lighter_one_finish_but_not_for_long() -> None:
    admission = opened(2)
    light = running(admission, "quiet")
    heavy = running(admission, "flood")
    line = [Waiting(admission, "flood") for _ in range(3)]
    admission.done(heavy)
    assert line[0].had.wait(1)  # it has had no turn since it waits
    line[0].done()
    time.sleep(YIELD_S / 10)
    assert not line[1].had.is_set()
    admission.done(light)
    assert line[1].had.wait(1)


def test_a_light_one_may_have_every_turn_beside_heavy_ones() -> None:
    admission = opened(2)
    heavy = running(admission, "flood")
    first = running(admission, "quiet")
    line = [Waiting(admission, "flood") for _ in range(3)]
    second = Waiting(admission, "quiet")
    admission.done(heavy)
    assert line[0].had.wait(1)  # it has had no turn since it waits
    line[0].done()
    assert second.had.wait(1), "before the others of the flood, and beside its own first one"
    assert not line[1].had.is_set()
    admission.done(first)
    assert not line[1].had.is_set()
    second.done()
    assert line[1].had.wait(1)


def test_a_gathering_holds_its_own_tenant_alone() -> None:
    admission = opened(2)
    admission.gather("a")
    held = Waiting(admission, "a")
    assert not held.had.is_set()
    running(admission, "b")
    admission.gather("a", end=True)
    assert held.had.wait(1)


def test_a_refusal_is_told_without_entering() -> None:
    admission = opened(1, queue=1)
    assert admission.refusal("a") is None
    running(admission, "a")
    Waiting(admission, "a")
    assert isinstance(admission.refusal("a"), ShedError)
    assert admission.refusal("b") is None  # it would displace one of a's
    assert admission.taken == 2
    with pytest.raises(ShedError):
        admission.enter("a")


def test_a_refusal_costs_a_token_as_entering_does() -> None:
    admission = opened(1, queue=0, rate=0.001, burst=3)
    running(admission, "a")
    assert [type(admission.refusal("a")) for _ in range(3)] == [ShedError, ShedError, ThrottledError]


def test_after_closing_the_refusal_is_the_reason() -> None:
    admission = opened(1)
    reason = ShedError("the end")
    admission.close(reason, waiting=False)
    assert admission.refusal("a") is reason
