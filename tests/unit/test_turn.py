"""Runs that are cut into pieces: the same answers, and others' turns between them."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from preheat.admission import MANY, Admission
from preheat.errors import PreemptedError, PreheatError, TimedOutError
from preheat.turn import PIECE_S, Turn, joined, share

ROW_S = PIECE_S / 2


class Model:
    """Takes ROW_S for each row, and doubles it."""

    def __init__(
        self, *, pace: float | None = np.inf, fails: PreheatError | None = None, fixed_s: float = 0.0
    ) -> None:
        self.pace, self.fixed_s = pace, fixed_s
        self._takes_s = fixed_s, ROW_S / 10 if fixed_s else ROW_S
        self.runs: list[int] = []
        self.between = lambda: None
        self._fails = fails

    def infer(self, inputs: Any, outputs: Any, _until: float, preemptible: Any) -> dict[str, Any]:
        assert outputs == ["twice"]
        rows = inputs["x"]
        self.runs.append(len(rows))
        options = SimpleNamespace(terminate=False)
        preemptible.begin(options)
        fixed_s, row_s = self._takes_s
        ends = time.perf_counter() + fixed_s + row_s * len(rows)
        while time.perf_counter() < ends and not options.terminate:
            time.sleep(0.001)
        if preemptible.end():
            raise PreemptedError("another's goes first")
        if self._fails is not None and len(self.runs) > 1:
            raise self._fails
        self.between()
        return {"twice": rows * 2 + inputs["y"]}


def turn(tenant: str = "", turns: int = 1, within: float = 30.0) -> Turn:
    admission = Admission(20)
    admission.open(turns)
    place, until = admission.enter(tenant), time.perf_counter() + within
    assert admission.turn(place, until)
    return Turn(admission, place, until, lambda *_: None)


def rows(count: int) -> dict[str, Any]:
    return {"x": np.arange(3.0 * count).reshape(count, 3), "y": np.ones((count, 1))}


def test_what_takes_long_runs_in_pieces_that_give_the_same() -> None:
    model, told = Model(), []
    mine = turn()._replace(ran=lambda began, ended, requests: told.append((ended > began, requests)))
    sent = rows(9)
    given = mine.infer(cast(Any, model), sent, ["twice"])
    assert np.array_equal(given["twice"], sent["x"] * 2 + 1)
    assert model.runs[0] == 1, "of an engine that has not run yet nothing is known"
    assert sum(model.runs) == 9
    assert max(model.runs) <= 2
    assert told == [(True, 0)] * (len(model.runs) - 1) + [(True, 1)]
    assert model.pace == pytest.approx(ROW_S / 4, rel=0.5)


def test_what_does_not_take_long_is_run_whole() -> None:
    model = Model(pace=PIECE_S / 1000)
    turn().infer(cast(Any, model), rows(8), ["twice"])
    assert model.runs == [8]


def test_rows_that_may_depend_on_each_other_are_never_apart() -> None:
    model = Model(pace=None)
    turn().infer(cast(Any, model), rows(8), ["twice"])
    assert (model.runs, model.pace) == ([8], None)


def test_inputs_without_rows_in_common_are_run_whole() -> None:
    model = Model()
    turn().infer(cast(Any, model), {"x": np.ones((3, 1)), "y": np.ones((1, 1))}, ["twice"])
    assert model.runs == [3]


def test_rows_that_cost_little_beside_the_run_itself_stay_together() -> None:
    model = Model(fixed_s=2 * PIECE_S)
    mine = turn()
    for _ in range(2):
        mine.infer(cast(Any, model), rows(16), ["twice"])
    assert model.runs[0] == 1
    assert model.runs[-1] == 16
    assert len(model.runs) <= 4


@pytest.mark.parametrize("fixed_s", [ROW_S, 2 * ROW_S, 10 * ROW_S])
def test_a_run_that_took_hardly_more_than_is_fixed_tells_little_of_its_rows(fixed_s: float) -> None:
    model = Model()
    model.fixed_s = fixed_s  # measured where all took longer than here
    for count in (2, 32, 32):
        turn().infer(cast(Any, model), rows(count), ["twice"])
    assert 1 < max(model.runs) <= 5


def test_rows_without_elements_are_run_whole() -> None:
    model = Model()
    turn().infer(cast(Any, model), {"x": np.ones((3, 0)), "y": np.ones((3, 0))}, ["twice"])
    assert model.runs == [3]


def test_outputs_that_do_not_fit_each_other_want_a_whole_run() -> None:
    class Ragged(Model):
        def infer(self, inputs: Any, *rest: Any) -> dict[str, Any]:
            found = super().infer(inputs, *rest)["twice"]
            return {"twice": found[:, : int(found.min()) // 6 % 2 + 1]}

    model = Ragged()
    for _ in range(2):
        assert turn().infer(cast(Any, model), rows(6), ["twice"])["twice"].shape == (6, 1)
        assert model.runs[-1] == 6
    assert model.pace is None
    assert len(model.runs) > 3


def test_requests_that_run_together_are_counted_once() -> None:
    model, told = Model(pace=ROW_S / 4), []
    mine = turn()._replace(ran=lambda _began, _ended, requests: told.append(requests))
    mine.infer(cast(Any, model), rows(8), ["twice"], requests=8)
    assert len(told) > 2
    assert sum(told) == 8
    assert min(told) > 0


def test_others_have_their_turn_between_two_pieces() -> None:
    mine = turn("giant")
    began, order = threading.Event(), []

    def other() -> None:
        place = mine.admission.enter("other")
        began.set()
        mine.admission.turn(place, mine.until)
        order.append("other")
        mine.admission.done(place)
        mine.admission.leave(place)

    model, thread = Model(), threading.Thread(target=other)

    def between() -> None:
        order.append("piece")
        if not began.is_set():
            thread.start()
            began.wait(5)
            time.sleep(0.01)

    model.between = between
    mine.infer(cast(Any, model), rows(8), ["twice"])
    thread.join(5)
    assert order[:3] == ["piece", "other", "piece"]
    assert mine.admission.running == 1, "the giant's own turn, which whoever gave it takes back"


def test_a_piece_that_is_ended_for_another_tenant_is_all_that_is_run_again() -> None:
    mine = turn("giant")
    for _ in range(MANY + 1):
        mine.admission.enter("giant")  # so it is heavy
    model = Model()
    seen: list[int] = []

    def light() -> None:
        place = mine.admission.enter("light")
        mine.admission.turn(place, mine.until)
        seen.extend(model.runs)
        mine.admission.done(place)
        mine.admission.leave(place)

    thread = threading.Timer(2.5 * ROW_S, light)
    thread.start()
    given = mine.infer(cast(Any, model), rows(6), ["twice"])
    thread.join(5)
    assert np.array_equal(given["twice"], rows(6)["x"] * 2 + 1)
    assert mine.place.preempted == 1
    assert 0 < len(seen) < len(model.runs)
    assert 6 < sum(model.runs) <= 8


def test_a_deadline_is_held_between_two_pieces() -> None:
    model, mine = Model(), turn(within=3 * ROW_S)
    with pytest.raises(TimedOutError):
        mine.infer(cast(Any, model), rows(100), ["twice"])
    assert sum(model.runs) < 10


def test_what_one_piece_is_refused_for_the_request_is() -> None:
    model = Model(fails=TimedOutError("ended"))
    with pytest.raises(TimedOutError, match="ended"):
        turn().infer(cast(Any, model), rows(8), ["twice"])
    assert len(model.runs) == 2


@pytest.mark.parametrize(
    ("count", "row_s", "first"),
    [
        (8, 0.0, 8),
        (8, PIECE_S / 8, 8),
        (9, PIECE_S / 8, 5),
        (8, PIECE_S, 1),
        (8, 10.0, 1),
        (8, np.inf, 1),
        (1, np.inf, 1),
    ],
)
def test_pieces_are_about_as_large_as_each_other(count: int, row_s: float, first: int) -> None:
    assert share(count, row_s) == first


@pytest.mark.parametrize(("fixed_s", "first"), [(PIECE_S / 2, 2), (PIECE_S, 4), (10 * PIECE_S, 32)])
def test_a_third_of_a_piece_at_most_is_not_for_its_rows(fixed_s: float, first: int) -> None:
    assert share(32, PIECE_S / 2, fixed_s) == first


def test_pieces_of_every_kind_are_put_together() -> None:
    texts = np.array(["a", "b"], dtype=object)
    found = joined([{"t": texts[:1], "n": np.ones((1, 2))}, {"t": texts[1:], "n": np.zeros((1, 2))}])
    assert found["t"].tolist() == ["a", "b"]
    assert found["n"].tolist() == [[1, 1], [0, 0]]
