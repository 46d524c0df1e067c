"""Joined requests: each gets its own part, and nobody pays for a neighbour."""

from __future__ import annotations

import re
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from preheat.admission import Admission
from preheat.answer import Answer
from preheat.batching import Batcher, batcher
from preheat.bootstrap import Loaded
from preheat.calls import Call, Request
from preheat.errors import EngineError, PreemptedError, PreheatError, TimedOutError, UnprocessableError
from preheat.manifest import TensorSpec
from preheat.overrun import Preemptible
from preheat.phases import ColdStartReport, PhaseClock
from preheat.service import Service
from preheat.settings import Settings
from preheat.tensors import Padding, Tensors

TEXT = (TensorSpec("ids", "INT64", ("batch", "length")), TensorSpec("mask", "INT64", ("batch", "length")))
TOKENS = TensorSpec("tokens", "FP32", ("batch", "length"))
SUM = TensorSpec("sum", "FP32", ("batch",))
PAD = Padding({"ids": 7, "mask": 0}, left=False)


class Model:
    """Doubles every token, and sums those that the mask shows. Refuses a token below 0."""

    def __init__(self, took: float = 0.02) -> None:
        self.manifest: Any = SimpleNamespace(
            inputs=TEXT, outputs=(TOKENS, SUM), joined=lambda _: {1: 100.0, 8: 400.0}, measured=lambda *_: 4.0
        )
        self.variant = SimpleNamespace(name="portable")
        self.pace: float | None = None
        self.runs: list[tuple[int, ...]] = []
        self.took = took
        self.fail = self.overrun = False

    def check(self, inputs: Tensors) -> None:
        assert set(inputs) == {"ids", "mask"}

    def infer(self, inputs: Tensors, _outputs: Any, until: float, preemptible: Preemptible) -> dict[str, Any]:
        ids, mask = inputs["ids"], inputs["mask"]
        self.runs.append(ids.shape)
        options = SimpleNamespace(terminate=False)
        preemptible.begin(options)
        ends = time.perf_counter() + self.took
        while time.perf_counter() < ends and not options.terminate:
            time.sleep(0.001)
        if preemptible.end():
            raise PreemptedError("another's goes first")
        if self.overrun and len(ids) > 1:
            raise TimedOutError(f"ended {until - time.perf_counter():.1f} s before its deadline")
        if self.fail:
            raise MemoryError("no more")
        if (ids < 0).any():
            raise UnprocessableError("a token below 0")
        doubled = (2 * ids).astype(np.float32)
        return {"tokens": doubled, "sum": (doubled * mask).sum(axis=1)}


def service(model: Any, *, turns: int = 1, mixed: bool = False, window: float = 0.02) -> Service:
    made = Service(queue=64, timeout=5)
    made.ready(
        Loaded(
            model,
            cast(Any, None),
            ColdStartReport(PhaseClock(), instance="i", facts={}),
            concurrency=turns,
            max_bytes=10,
            fallback=None,
            batcher=Batcher(model, 8, window, mixed=mixed),
        )
    )
    return made


def request(
    ids: list[list[int]], *, tenant: str = "", padding: Padding | None = PAD, within: float = 5
) -> Request:
    array = np.array(ids, dtype=np.int64)
    inputs = {"ids": array, "mask": np.ones_like(array)}

    def finish(outputs: Tensors) -> Answer:
        assert outputs["tokens"].shape == array.shape
        assert (outputs["tokens"] == 2 * array).all()
        return Answer(repr(outputs["sum"].tolist()).encode())

    now = time.perf_counter_ns()
    return Request(lambda _: Call(inputs, finish, None, padding), now, now + int(within * 1e9), tenant)


def together(made: Service, requests: list[Request]) -> list[Any]:
    """Send them all while another holds the turn, in order."""
    results: list[Any] = [None] * len(requests)

    def send(index: int) -> None:
        try:
            results[index] = made.handle(requests[index])
        except PreheatError as error:
            results[index] = error

    first = threading.Thread(target=made.handle, args=(request([[1]]),))
    first.start()
    time.sleep(0.01)
    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
        time.sleep(0.001)
    for thread in [first, *threads]:
        thread.join(10)
    assert made.admission.taken == made.admission.running == made.admission.waiting == 0
    return results


def test_those_that_wait_run_as_one_and_each_gets_its_own() -> None:
    model = Model(took=0.05)
    rows = [[[i, i + 1, i + 2]] for i in range(5)]
    results = together(service(model), [request(r) for r in rows])
    assert [r.answer.body for r in results] == [f"[{6.0 * (i + 1)}]".encode() for i in range(5)]
    assert model.runs == [(1, 1), (5, 3)]
    assert all(r.ran_ns > 40e6 for r in results)


def test_different_lengths_are_padded_and_cut_apart_where_that_costs_little() -> None:
    model = Model(took=0.05)
    results = together(service(model), [request([[1, 2, 3, 4]]), request([[1, 2, 3]]), request([[5] * 40])])
    assert [r.answer.body for r in results] == [b"[20.0]", b"[12.0]", b"[400.0]"]
    assert sorted(model.runs[1:]) == [(1, 40), (2, 4)]


def test_filling_may_go_before() -> None:
    model, left = Model(took=0.05), Padding({"ids": 7, "mask": 0}, left=True)
    results = together(
        service(model), [request([[1, 2, 3, 4]], padding=left), request([[1, 2, 3]], padding=left)]
    )
    assert [r.answer.body for r in results] == [b"[20.0]", b"[12.0]"]
    assert model.runs[1] == (2, 4)


def test_without_padding_only_equal_shapes_join() -> None:
    model = Model(took=0.05)
    three = [request(rows, padding=None) for rows in ([[1, 2, 3]], [[1, 2]], [[4, 5, 6], [7, 8, 9]])]
    assert [r.answer.body for r in together(service(model), three)] == [b"[12.0]", b"[6.0]", b"[30.0, 48.0]"]
    assert sorted(model.runs[1:]) == [(1, 2), (3, 3)]


def test_no_more_rows_than_do_best() -> None:
    model = Model(took=0.05)
    together(service(model), [request([[i]] * 3) for i in range(5)])
    assert sorted(model.runs[1:]) == [(3, 1), (6, 1), (6, 1)]


@pytest.mark.parametrize(("mixed", "runs"), [(False, 3), (True, 2)])
def test_tenants_join_only_where_that_is_allowed(mixed: bool, runs: int) -> None:
    model = Model(took=0.05)
    requests = [request([[i]], tenant="ab"[i % 2]) for i in range(6)]
    results = together(service(model, mixed=mixed), requests)
    assert [r.answer.body for r in results] == [f"[{2.0 * i}]".encode() for i in range(6)]
    assert len(model.runs) == runs


def test_calls_for_two_models_are_never_one() -> None:
    model, other = Model(took=0.05), Model(took=0.05)
    made, further = service(model), service(other)
    place: Any = SimpleNamespace(
        loaded=further.loaded, current=further.current, answered=further.answered, in_use=nullcontext
    )
    rows = [request([[i, i + 1, i + 2]]) for i in range(6)]
    sent = [row._replace(model=place) if i % 2 else row for i, row in enumerate(rows)]
    assert [r.answer.body for r in together(made, sent)] == [f"[{6.0 * (i + 1)}]".encode() for i in range(6)]
    assert model.runs == [(1, 1), (3, 3)]
    assert other.runs == [(3, 3)]


def test_one_that_the_model_refuses_fails_alone() -> None:
    results = together(service(Model(took=0.05)), [request([[1]]), request([[-1]]), request([[3]])])
    assert [r.answer.body for r in (results[0], results[2])] == [b"[2.0]", b"[6.0]"]
    assert isinstance(results[1], UnprocessableError)


def test_a_run_that_breaks_is_told_to_all_and_holds_nobody() -> None:
    model = Model(took=0.05)
    made = service(model)
    results: list[Any] = []

    def send(one: Request) -> None:
        try:
            results.append(made.handle(one))
        except (EngineError, MemoryError) as error:
            results.append(error)

    threads = [threading.Thread(target=send, args=(request([[i]]),)) for i in range(4)]
    threads[0].start()
    time.sleep(0.01)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.02)
    model.fail = True
    for thread in threads:
        thread.join(10)
    assert [type(r).__name__ for r in results].count("EngineError") == 2
    assert made.admission.taken == made.admission.running == 0


def test_a_run_that_was_ended_is_told_to_all_whose_run_it_was() -> None:
    model = Model(took=0.3)
    model.overrun = True  # of more than one row
    made = service(model)
    results: list[Any] = []

    def send(value: int, within: float) -> None:
        try:
            results.append(made.handle(request([[value]], within=within)))
        except PreheatError as error:
            results.append(error)

    threads = [threading.Thread(target=send, args=(i, 2.0 + i)) for i in range(4)]
    threads[0].start()
    time.sleep(0.03)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(10)
    ended = [r for r in results if isinstance(r, TimedOutError)]
    assert len(ended) == 3
    assert made.admission.taken == made.admission.running == 0
    # Joined, they had the time of the one among them that may wait longest: 5 s from its arrival.
    assert all(re.fullmatch(r"ended 4\.\d s before its deadline", str(error)) for error in ended)


def test_a_joined_run_that_was_ended_for_anothers_is_made_again_for_all() -> None:
    model = Model(took=0.05)
    made = service(model)
    results: list[Any] = []
    light: list[float] = []

    def send(number: int) -> None:
        results.append(made.handle(request([[number]], tenant="flood")).answer.body)

    def ask() -> None:
        answer = made.handle(request([[9]], tenant="quiet")).answer
        assert answer.body == b"[18.0]"
        light.append(time.perf_counter())

    threads = [threading.Thread(target=send, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
        time.sleep(0.002)
    time.sleep(0.07)  # the first has run, and the others run as one
    last = threading.Thread(target=send, args=(4,))
    more = threading.Thread(target=send, args=(5,))
    last.start()
    more.start()
    time.sleep(0.005)
    assert model.runs == [(1, 1), (3, 1)]
    quiet = threading.Thread(target=ask)
    quiet.start()
    for thread in [quiet, *threads, last, more]:
        thread.join(10)
    assert model.runs[:4] == [(1, 1), (3, 1), (1, 1), (3, 1)]
    assert set(results) == {f"[{2.0 * number}]".encode() for number in range(6)}
    assert len(light) == 1
    assert made.admission.taken == made.admission.running == 0


def test_a_deadline_that_passes_in_anothers_run_is_held() -> None:
    results = together(service(Model(took=0.1)), [request([[1]]), request([[2]], within=0.15)])
    assert results[0].answer.body == b"[2.0]"
    assert isinstance(results[1], TimedOutError)


def test_whoever_is_alone_waits_for_nobody() -> None:
    made = service(Model(took=0.0), window=1.0)
    begin = time.perf_counter()
    for _ in range(5):
        made.handle(request([[1]]))
    assert time.perf_counter() - begin < 0.5


def test_company_is_waited_for_no_longer_than_the_window() -> None:
    model = Model(took=0.05)
    made = service(model, window=0.1)
    together(made, [request([[1]]) for _ in range(4)])
    begin = time.perf_counter()
    made.handle(request([[1]]))
    assert 0.1 <= time.perf_counter() - begin - model.took < 0.3
    begin = time.perf_counter()
    made.handle(request([[1]]))
    assert time.perf_counter() - begin < 0.1 + model.took


def test_gathering_lets_nobody_pass_and_leaves_nobody_behind() -> None:
    admission = Admission(8)
    admission.open(2)
    admission.gather(None)
    places = [admission.enter("") for _ in range(3)]
    came = [threading.Thread(target=admission.turn, args=(p, time.perf_counter() + 5)) for p in places]
    for thread in came:
        thread.start()
    time.sleep(0.05)
    assert (admission.running, admission.waiting) == (0, 3)
    admission.gather(None, end=True)
    time.sleep(0.05)
    assert (admission.running, admission.waiting) == (2, 1)
    admission.done(places[0])
    for thread in came:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("rates", "wanted", "rows"),
    [
        ({1: 100.0, 8: 300.0, 16: 290.0}, -1, 8),
        ({1: 100.0, 8: 110.0}, -1, None),
        ({1: 100.0, 8: 300.0}, 0, None),
        ({1: 100.0, 8: 110.0}, 3, 8),
        ({1: 100.0}, 3, None),
        ({}, -1, None),
    ],
)
def test_the_measurements_decide(rates: dict[int, float], wanted: float, rows: int | None) -> None:
    model = Model()
    model.manifest.joined = lambda _: rates
    made = batcher(cast(Any, model), Settings(batch_ms=wanted))
    assert (made.rows if made else None) == rows


def test_a_window_for_a_model_that_cannot_be_joined_is_refused() -> None:
    model = Model()
    model.manifest.joined = lambda _: {}
    with pytest.raises(EngineError, match="PREHEAT_BATCH_MS is 3"):
        batcher(cast(Any, model), Settings(batch_ms=3))
