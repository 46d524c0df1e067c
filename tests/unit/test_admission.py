"""Turns between tenants: whose request waits, and whose finds one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from preheat.admission import MANY, YIELD_S, Admission, Place
from preheat.errors import PreemptedError, PreheatError, ShedError, ThrottledError, TimedOutError


def opened(turns: int, queue: int = 20, **limits: float) -> Admission:
    admission = Admission(queue, rate=limits.get("rate", 0.0), burst=int(limits.get("burst", 0)))
    admission.open(turns)
    return admission


def eventually(true: Callable[[], bool]) -> bool:
    until = time.perf_counter() + 9
    while not true() and time.perf_counter() < until:
        time.sleep(0.001)
    return true()


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
        with contextlib.suppress(TimedOutError, ShedError):  # a test may leave it waiting
            if self._admission.turn(self.place, time.perf_counter() + 9):
                self.had.set()

    def done(self) -> None:
        self._admission.done(self.place)
        self._admission.leave(self.place)


def many(admission: Admission, tenant: str) -> list[Waiting]:
    """So many that wait that the tenant is heavy, and without two of them too."""
    return [Waiting(admission, tenant) for _ in range(MANY * admission.turns + 2)]


def running(admission: Admission, tenant: str) -> Place:
    place = admission.enter(tenant)
    assert admission.turn(place, time.perf_counter() + 9)
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
    line = many(admission, "flood")
    admission.done(heavy)
    assert not line[0].had.is_set()
    assert line[0].had.wait(1)  # it has waited for YIELD_S
    line[0].done()
    time.sleep(YIELD_S / 10)
    assert not line[1].had.is_set()
    admission.done(light)
    assert line[1].had.wait(1)


def test_a_light_one_may_have_every_turn_beside_heavy_ones() -> None:
    admission = opened(2)
    heavy = running(admission, "flood")
    first = running(admission, "quiet")
    line = many(admission, "flood")
    second = Waiting(admission, "quiet")
    admission.done(heavy)
    assert second.had.wait(1), "before those of the flood, and beside its own first one"
    assert not line[0].had.is_set()
    admission.done(first)
    assert not line[0].had.is_set()
    second.done()
    assert line[0].had.wait(1)


def test_a_gathering_holds_its_own_tenant_alone() -> None:
    admission = opened(2)
    admission.gather("a")
    held = Waiting(admission, "a")
    assert not held.had.is_set()
    running(admission, "b")
    admission.gather("a", end=True)
    assert held.had.wait(1)


def refused(admission: Admission, tenant: str) -> type[PreheatError]:
    with pytest.raises(PreheatError) as error:
        admission.enter(tenant)
    return error.type


def test_a_refusal_takes_no_place() -> None:
    admission = opened(1, queue=1)
    running(admission, "a")
    Waiting(admission, "a")
    assert refused(admission, "a") is ShedError
    assert admission.taken == 2
    admission.enter("b")  # it displaces one of a's
    assert admission.taken == 2


def test_a_refusal_costs_a_token_as_entering_does() -> None:
    admission = opened(1, queue=0, rate=0.001, burst=3)
    running(admission, "a")
    assert [refused(admission, "a") for _ in range(3)] == [ShedError, ShedError, ThrottledError]


def test_after_closing_the_refusal_is_the_reason() -> None:
    admission = opened(1)
    admission.close(ShedError("the end"), waiting=False)
    with pytest.raises(ShedError, match="the end"):
        admission.enter("a")


class Held:
    """A request in a thread of its own that has a turn, and runs until it may end or is ended."""

    def __init__(self, admission: Admission, tenant: str, within: float = 5.0) -> None:
        self.place = running(admission, tenant)
        self.begun = 0
        self.terminate = False
        """As of onnxruntime's RunOptions."""
        self.may_end = threading.Event()
        self.came: object = None
        self._admission, self._until = admission, time.perf_counter() + within
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()
        eventually(lambda: bool(self.begun))

    def _hold(self) -> None:
        try:
            self.came = self._admission.held(self.place, self._until, self._run)
        except PreheatError as error:
            self.came = error
        finally:
            self._admission.done(self.place)
            self._admission.leave(self.place)

    def _run(self) -> int:
        self.place.runs.begin(self)
        self.begun += 1
        try:
            while not self.may_end.is_set():
                if self.terminate:
                    raise PreemptedError("another's goes first")
                time.sleep(0.001)
            return self.begun
        finally:
            self.place.runs.end()

    def result(self) -> object:
        self.may_end.set()
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.came


def test_what_a_heavy_one_runs_is_begun_again_after_a_light_ones() -> None:
    admission = opened(1)
    heavy = Held(admission, "flood")
    line = many(admission, "flood")
    light = running(admission, "quiet")  # its turn comes although there is one alone, and it is taken
    assert (heavy.begun, heavy.came, heavy.place.preempted) == (1, None, 1)
    assert admission.take(lambda _: True) == [one.place for one in line], "others may wait for its run"
    for one in line:
        one.place.outputs = "another's run"
        one.place.come()
    admission.done(light)
    admission.leave(light)
    assert heavy.result() == 2
    assert admission.running == admission.waiting == 0


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_heavy_one_runs_is_ended_when_a_light_ones_request_comes(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preheat.admission.JUST_S", 9.0)
    admission = opened(1)
    heavy = Held(admission, "flood")
    line = many(admission, "flood")
    admission.used(admission.enter("another flood", soon=False), 9.0)
    other = Waiting(admission, "another flood")
    light = admission.enter("quiet")
    assert eventually(lambda: not admission.running)
    time.sleep(0.05)
    assert (heavy.begun, admission.running) == (1, 0), "the turn is kept for it while it is decoded"
    assert not other.had.is_set(), "and not for another heavy one"
    if not refused:
        assert admission.turn(light, time.perf_counter() + 5)
        assert heavy.begun == 1
        admission.done(light)
    admission.leave(light)
    assert other.had.wait(1)
    other.done()
    assert eventually(lambda: heavy.begun == 2)
    assert heavy.result() == 2
    assert line[0].had.wait(1)


def test_what_was_ended_waits_for_no_requests_that_are_long_to_decode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("preheat.admission.YIELD_S", 30.0)
    admission = opened(1)
    heavy = Held(admission, "flood", within=60.0)
    many(admission, "flood")
    until = time.perf_counter() + 5
    while heavy.begun < 2 and time.perf_counter() < until:  # one after another, and always one
        admission.enter(f"quiet {admission.taken % 4}")
        time.sleep(0.01)
    assert heavy.begun == 2
    assert eventually(lambda: heavy.begun >= 2 and admission.running == 1)
    assert cast(int, heavy.result()) >= 2


def test_no_run_is_ended_for_who_asks_for_its_turn_later() -> None:
    admission = opened(1)
    heavy = Held(admission, "flood")
    many(admission, "flood")
    light = admission.enter("quiet", soon=False)
    time.sleep(0.05)
    assert (heavy.begun, heavy.place.preempted) == (1, 0)
    assert admission.turn(light, time.perf_counter() + 5)
    assert heavy.place.preempted == 1
    admission.done(light)
    assert heavy.result() == 2


def test_who_has_runs_ended_for_nothing_pays_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preheat.admission.YIELD_S", 5.0)
    admission = opened(1)
    heavy = Held(admission, "flood")
    many(admission, "flood")
    time.sleep(1.0)
    admission.leave(admission.enter("quiet"))
    assert eventually(lambda: heavy.begun == 2)
    admission.leave(admission.enter("quiet"))
    time.sleep(0.05)
    assert (heavy.begun, heavy.place.preempted) == (2, 1), "it is heavy itself"
    light = admission.enter("another")
    assert eventually(lambda: heavy.place.preempted == 2)
    time.sleep(0.1)
    assert eventually(lambda: heavy.begun == 3)
    with pytest.raises(TimedOutError):
        admission.turn(light, 0.0)
    admission.leave(light)
    assert admission._usage.turns("another", []) > 0.0, "it asked too late"
    assert cast(int, heavy.result()) >= 3


def test_runs_that_were_ended_go_on_beside_a_long_one_of_a_light_tenant() -> None:
    admission = opened(4)
    heavy = [Held(admission, "flood") for _ in range(4)]
    line = many(admission, "flood")
    light = running(admission, "quiet")
    assert eventually(lambda: any(one.begun == 2 for one in heavy)), (
        "it still runs, and one has yielded for YIELD_S"
    )
    admission.done(light)
    admission.leave(light)
    assert [one.result() for one in heavy] == [2, 2, 2, 2]
    assert [one.place.preempted for one in heavy] == [1, 1, 1, 1]
    for one in line:
        assert one.had.wait(5)
        one.done()


def test_a_run_is_ended_for_no_other_but_a_light_one_and_not_for_long() -> None:
    admission = opened(2)
    first, second = (Held(admission, "flood") for _ in range(2))
    beside = admission.enter("other")
    with pytest.raises(TimedOutError):
        admission.turn(beside, time.perf_counter() + 0.02)
    assert first.begun == second.begun == 1, "who has sent few is not heavy"
    line = many(admission, "flood")
    time.sleep(YIELD_S)
    with pytest.raises(TimedOutError):
        admission.turn(beside, time.perf_counter() + 0.02)
    assert first.begun == second.begun == 1, "it has run for long"
    assert [first.result(), second.result()] == [1, 1]
    assert line[0].had.wait(1)


def test_a_run_is_not_ended_for_one_that_has_used_its_share() -> None:
    admission = opened(1)
    much = running(admission, "busy")
    time.sleep(0.4)
    admission.done(much)
    admission.leave(much)
    heavy = Held(admission, "flood")
    behind = many(admission, "flood")
    again = Waiting(admission, "busy")
    assert not again.had.wait(0.05)
    assert heavy.result() == 1
    assert behind[0].had.wait(1)
    behind[0].done()
    assert again.had.wait(1)


def test_one_that_runs_for_long_is_heavy_with_one_request_at_a_time() -> None:
    admission = opened(2)
    giant = Held(admission, "giant")
    admission.leave(admission.enter("quiet"))
    assert not admission.holds("giant")
    time.sleep(0.9)
    light = admission.enter("quiet")
    assert admission.holds("giant"), "what runs now counts"
    assert giant.result() == 1
    giant = Held(admission, "giant")
    assert admission.turn(light, time.perf_counter() + 5)
    assert eventually(lambda: giant.place.preempted == 1), "although there was a turn beside it"
    admission.done(light)
    assert giant.result() == 2
    admission.leave(light)
    time.sleep(2.0)
    giant = Held(admission, "giant")
    admission.enter("quiet")
    assert not admission.holds("giant"), "that is long ago"
    assert giant.result() == 1


def test_a_few_of_a_light_one_at_once_go_first_all_of_them() -> None:
    admission = opened(2)
    giant = running(admission, "giant")
    admission.used(giant, 1.0)
    burst = [running(admission, "quiet"), Waiting(admission, "quiet"), Waiting(admission, "quiet")]
    again = Waiting(admission, "giant")
    admission.done(giant)
    admission.leave(giant)
    assert cast(Waiting, burst[1]).had.wait(1), "beside the first one"
    cast(Waiting, burst[1]).done()
    assert cast(Waiting, burst[2]).had.wait(1)
    assert not again.had.is_set()
    cast(Waiting, burst[2]).done()
    assert not again.had.is_set(), "the first one runs still"
    admission.done(cast(Place, burst[0]))
    assert again.had.wait(1)


def test_a_pause_goes_by_at_once_where_nobody_else_is() -> None:
    admission = opened(1)
    place = running(admission, "giant")
    behind = Waiting(admission, "giant")
    before = place.runs
    admission.pause(place, time.perf_counter() + 5, YIELD_S)
    assert admission.running == 1
    assert not behind.had.is_set(), "its own tenant's others wait for all of it"
    assert place.runs is not before, "the next piece may be ended as long as the first"
    admission.done(place)
    assert behind.had.wait(1)


@pytest.mark.parametrize("for_s", [YIELD_S, 0.0])
def test_a_pause_lasts_no_longer_than_is_left_for_it(for_s: float) -> None:
    admission = opened(2)
    place, light = running(admission, "giant"), running(admission, "quiet")
    admission.used(place, 1.0)
    began = time.perf_counter()
    admission.pause(place, began + 5, for_s)
    took = time.perf_counter() - began
    assert took >= YIELD_S if for_s else took < YIELD_S / 2
    assert admission.running == 2
    place.runs.begin(SimpleNamespace())
    place.runs.preempt()
    assert place.runs.end() is bool(for_s), "nor may the next piece be ended for longer"
    admission.done(light)


def test_who_pauses_may_be_late_or_be_stopped() -> None:
    admission = opened(1)
    place = running(admission, "giant")
    other = Waiting(admission, "quiet")
    with pytest.raises(TimedOutError):
        admission.pause(place, time.perf_counter() + 0.05, YIELD_S)
    assert other.had.is_set()
    admission.done(place)  # which has none any more
    assert admission.running == 1
    other.done()
    assert admission.running == admission.waiting == 0


@pytest.mark.parametrize("ended", ["late", "stopped", "full"])
def test_a_run_that_waits_to_begin_again_is_ended_as_others_are(ended: str) -> None:
    admission = opened(1, queue=MANY + 3)
    heavy = Held(admission, "flood", within=1.0 if ended == "late" else 9.0)
    others = many(admission, "flood")
    light = running(admission, "quiet")
    assert eventually(lambda: admission.waiting == MANY + 3)
    if ended == "stopped":
        admission.close(ShedError("stops"), waiting=True)
    if ended == "full":  # those behind it go, and never it
        for index in range(MANY + 2):
            admission.enter(f"new {index}")
        with pytest.raises(ShedError):
            admission.enter("one more")
        assert all(isinstance(other.place.error, ShedError) for other in others)
        admission.done(light)
        assert heavy.result() == 2
        return
    heavy._thread.join(9)
    assert isinstance(heavy.came, TimedOutError if ended == "late" else ShedError)
    assert admission.running == 1
