"""The core, without a model: what waits, what runs, what is shed."""

import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preheat.answer import Answer
from preheat.bootstrap import Loaded
from preheat.calls import Call, Outcome, Request
from preheat.errors import (
    EngineError,
    FailedStartError,
    PreemptedError,
    ShedError,
    ThrottledError,
    TimedOutError,
    UnprocessableError,
)
from preheat.phases import ColdStartReport, PhaseClock
from preheat.service import Service, State


class Fake(SimpleNamespace):
    """An engine: something that can be referred to weakly."""


def loaded(concurrency: int = 1) -> Loaded:
    report = ColdStartReport(PhaseClock(), instance="i", facts={})
    variant = SimpleNamespace(name="packed")
    infer = lambda inputs, _outputs, _until, _preemptible: inputs()  # noqa: E731
    engine = Fake(variant=variant, check=lambda _: None, infer=infer, pace=None)
    return Loaded(
        cast(Any, engine),
        cast(Any, None),
        report,
        concurrency=concurrency,
        max_bytes=10,
        fallback=None,
    )


def request(work: Any = None, tenant: str = "", deadline_ns: int = 0) -> Request:
    """A request whose run is ``work()``."""
    call = Call(work or (lambda: Answer(b"done")), cast(Any, lambda outputs: outputs))
    return Request(lambda _: call, time.perf_counter_ns(), deadline_ns, tenant)


def in_threads(service: Service, requests: list[Request]) -> list[Any]:
    results: list[Any] = [None] * len(requests)

    def run(i: int) -> None:
        try:
            results[i] = service.handle(requests[i])
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def test_requests_that_arrive_before_readiness_wait_and_are_cold() -> None:
    service = Service(queue=4, timeout=5)
    threading.Timer(0.05, lambda: service.ready(loaded())).start()
    outcomes = in_threads(service, [request(), request()])
    assert all(isinstance(o, Outcome) and o.cold and o.answer.body == b"done" for o in outcomes)
    assert all(o.waited_ns > 40e6 for o in outcomes)
    assert service.handle(request()).cold is False


def waiting(service: Service, *requests: Request) -> tuple[list[Any], threading.Thread]:
    """Clients whose requests wait for the start, and what will come of these."""
    outcomes: list[Any] = []
    client = threading.Thread(target=lambda: outcomes.extend(in_threads(service, [*requests])))
    client.start()
    return outcomes, client


def test_what_ran_on_a_session_that_was_being_proved_is_told_when_it_is() -> None:
    service = Service(queue=4, timeout=5)
    ran = threading.Event()
    runs: list[int] = []
    outcomes, client = waiting(service, request(lambda: runs.append(1) or ran.set() or Answer(b"early")))
    start = loaded()
    service.early(start)
    assert ran.wait(5)
    client.join(0.05)
    assert client.is_alive()
    assert (service.state, service.current) == (State.STARTING, None)

    service.ready(start)
    client.join(5)
    assert (outcomes[0].answer.body, outcomes[0].cold, outcomes[0].variant) == (b"early", True, "packed")
    assert len(runs) == 1
    assert service.admission.running == 0


def test_one_request_runs_early_and_the_others_wait_for_their_turn() -> None:
    service = Service(queue=8, timeout=5)
    runs: list[int] = []
    outcomes, client = waiting(service, *(request(lambda: runs.append(1) or Answer(b"")) for _ in range(4)))
    start = loaded()
    service.early(start)
    client.join(0.1)
    assert len(runs) == 1

    service.ready(start)
    client.join(5)
    assert (len(outcomes), len(runs)) == (4, 4)


@pytest.mark.parametrize("came", [b"wrong", None], ids=["answer", "error"])
@pytest.mark.parametrize("refusals", [1, 2])
def test_nothing_that_came_of_a_refused_session_is_told(came: Any, refusals: int) -> None:
    service = Service(queue=4, timeout=5, rate=0.001, burst=1)
    runs: list[int] = []
    first = threading.Event()

    def work() -> Answer:
        runs.append(1)
        first.set()
        if len(runs) > 1:
            return Answer(b"right")
        if came is None:
            raise UnprocessableError("it is broken")
        return Answer(came)

    outcomes, client = waiting(service, request(work))
    refused = loaded()
    engine = weakref.ref(refused.engine)
    service.early(refused)
    assert first.wait(5)
    for _ in range(refusals):
        service.early(None)
    del refused
    until = time.monotonic() + 5
    while engine() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert engine() is None, "it would take its memory beside the next one"

    service.ready(loaded())
    client.join(5)
    assert (outcomes[0].answer.body, len(runs)) == (b"right", 2)
    assert service.admission.running == 0


def test_what_is_wrong_with_a_request_is_told_when_the_start_is_over() -> None:
    def prepare(_loaded: Loaded) -> Call:
        raise UnprocessableError("it is malformed")

    for end, error in (
        (lambda service: service.ready(loaded()), UnprocessableError),
        (lambda service: service.fail(EngineError("no")), FailedStartError),
    ):
        service = Service(queue=4, timeout=5)
        outcomes, client = waiting(service, request()._replace(prepare=prepare))
        service.early(loaded())
        client.join(0.05)
        assert client.is_alive()
        end(service)
        client.join(5)
        assert isinstance(outcomes[0], error)


@pytest.mark.parametrize("end", ["refused", "stopped"])
def test_an_early_run_that_cannot_count_any_more_is_ended(end: str) -> None:
    service = Service(queue=4, timeout=5)
    began, ended = threading.Event(), threading.Event()

    def infer(inputs: Any, _outputs: Any, _until: float, preemptible: Any) -> Any:
        options = SimpleNamespace(terminate=False)
        preemptible.begin(options)
        began.set()
        until = time.monotonic() + 5
        while not options.terminate and time.monotonic() < until:
            time.sleep(0.005)
        if preemptible.end():
            ended.set()
            raise PreemptedError("ended")
        return inputs()

    slow = loaded()
    cast(Any, slow.engine).infer = infer
    outcomes, client = waiting(service, request())
    service.early(slow)
    assert began.wait(5)
    if end == "refused":
        service.early(None)
        assert ended.wait(1)
        service.ready(loaded())
    else:
        service.stop_starting()
        assert ended.wait(1)
    client.join(5)
    assert isinstance(outcomes[0], Outcome if end == "refused" else ShedError)


def test_a_keyed_request_waits_for_the_start() -> None:
    service = Service(queue=4, timeout=0.2)
    runs: list[int] = []
    keyed = request(lambda: runs.append(1) or Answer(b""))._replace(key=cast(Any, object()))
    service.early(loaded())
    with pytest.raises(TimedOutError):
        service.handle(keyed)
    assert runs == []


def test_what_ran_early_is_not_told_where_the_start_fails_or_ends() -> None:
    for end, error in (
        (lambda service: service.fail(EngineError("no")), FailedStartError),
        (lambda service: service.stop_starting(), ShedError),
    ):
        service = Service(queue=4, timeout=5)
        threading.Timer(0.05, end, [service]).start()
        service.early(loaded())
        (outcome,) = in_threads(service, [request()])
        assert isinstance(outcome, error)


def test_the_first_request_after_readiness_is_cold_and_closes_the_report() -> None:
    service = Service(queue=4, timeout=5)
    start = loaded()
    service.ready(start)
    assert [service.handle(request()).cold for _ in range(3)] == [True, False, False]
    assert "first_request" in start.report.server_timing()


def test_no_more_run_at_once_than_may() -> None:
    service = Service(queue=20, timeout=5)
    service.ready(loaded(concurrency=2))
    running: list[int] = []
    most: list[int] = []

    def work() -> Answer:
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return Answer(b"")

    outcomes = in_threads(service, [request(work) for _ in range(12)])
    assert all(isinstance(o, Outcome) for o in outcomes)
    assert max(most) == 2


def test_a_full_queue_sheds_before_any_work() -> None:
    service = Service(queue=2, timeout=5)
    service.ready(loaded())
    hold = threading.Event()
    ran: list[int] = []

    def work() -> Answer:
        ran.append(1)
        hold.wait(5)
        return Answer(b"")

    threading.Timer(0.2, hold.set).start()
    outcomes = in_threads(service, [request(work) for _ in range(8)])
    shed = [o for o in outcomes if isinstance(o, ShedError)]
    assert len(shed) == 5
    assert len(ran) == 3
    assert shed[0].retry_after >= 1


def test_turns_come_in_the_order_of_arrival_and_newcomers_do_not_pass() -> None:
    service = Service(queue=50, timeout=5)
    service.ready(loaded())
    hold, order = threading.Event(), []

    def work(i: int) -> Any:
        return lambda: (hold.wait(5), order.append(i), Answer(b""))[2]

    threads = [threading.Thread(target=service.handle, args=(request(work(i)),)) for i in range(20)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    hold.set()
    service.handle(request(work(99)))
    for thread in threads:
        thread.join(10)
    assert order == [*range(20), 99]


def test_those_whose_deadline_passes_leave_the_line_and_lose_no_turn() -> None:
    service = Service(queue=50, timeout=0.1)
    service.ready(loaded(concurrency=2))
    slow = [request(lambda: (time.sleep(0.03), Answer(b""))[1]) for _ in range(40)]
    outcomes = in_threads(service, slow)
    answered = [o for o in outcomes if isinstance(o, Outcome)]
    assert len(answered) + sum(isinstance(o, TimedOutError) for o in outcomes) == 40
    assert 1 <= len(answered) <= 12
    assert isinstance(service.handle(request()), Outcome)
    assert in_threads(service, [request(), request()])[0].answer.body == b"done"


def test_the_deadline_counts_from_arrival() -> None:
    service = Service(queue=2, timeout=0.05)
    with pytest.raises(TimedOutError, match="before the model was there"):
        service.handle(request())


def test_a_failed_start_is_told_to_those_who_wait() -> None:
    service = Service(queue=2, timeout=5)
    threading.Timer(0.05, lambda: service.fail(EngineError("no such file"))).start()
    with pytest.raises(FailedStartError, match="no such file"):
        service.handle(request())
    assert service.state is State.FAILED


def test_work_that_fails_gives_its_turn_back() -> None:
    service = Service(queue=2, timeout=5)
    service.ready(loaded())

    def fail() -> Answer:
        raise ValueError("no")

    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            service.handle(request(fail))
    assert service.handle(request()).answer.body == b"done"


def test_draining_takes_nothing_new_and_finishes_what_runs() -> None:
    service = Service(queue=2, timeout=5)
    service.ready(loaded())
    threading.Timer(0.05, service.drain).start()
    running = request(lambda: (time.sleep(0.2), Answer(b"kept"))[1])
    assert service.handle(running).answer.body == b"kept"
    with pytest.raises(ShedError, match="shutting down"):
        service.handle(request())


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (["a"] * 4 + ["b"] * 3, ["a", "a", "b", "a", "b", "a", "b"]),
        (["flood"] * 20 + ["quiet"] * 2, ["flood", "quiet", "quiet", "flood"]),
    ],
)
def test_tenants_take_turns_and_a_flood_delays_nobody_else(sent: list[str], answered: list[str]) -> None:
    service = Service(queue=50, timeout=5)
    service.ready(loaded())
    hold, order = threading.Event(), []

    def work(name: str) -> Any:
        return lambda: (hold.wait(5), order.append(name), Answer(b""))[2]

    threads = []
    for name in sent:
        threads.append(threading.Thread(target=service.handle, args=(request(work(name), name),)))
        threads[-1].start()
        time.sleep(0.005)
    hold.set()
    for thread in threads:
        thread.join(10)
    assert order[: len(answered)] == answered


def test_where_every_place_is_taken_the_tenant_with_the_most_loses_its_newest() -> None:
    service = Service(queue=6, timeout=5)
    service.ready(loaded())
    hold = threading.Event()
    loud = [request(lambda: (hold.wait(5), Answer(b"loud"))[1], "loud") for _ in range(7)]
    flood, results = [], []

    def run(one: Request) -> None:
        try:
            results.append(service.handle(one).answer)
        except ShedError as error:
            results.append(error)

    for one in loud:
        flood.append(threading.Thread(target=run, args=(one,)))
        flood[-1].start()
        time.sleep(0.005)
    with pytest.raises(ShedError):
        service.handle(request(tenant="loud"))
    quiet = threading.Thread(target=run, args=(request(tenant="quiet"),))
    quiet.start()
    time.sleep(0.05)
    assert [type(result) for result in results] == [ShedError]
    assert "the most of them" in str(results[0])
    hold.set()
    for thread in [*flood, quiet]:
        thread.join(10)
    assert sorted(a.body for a in results if isinstance(a, Answer)) == [b"done"] + [b"loud"] * 6


def test_a_tenant_over_its_rate_is_throttled_and_others_are_not() -> None:
    service = Service(queue=50, timeout=5, rate=20, burst=3)
    service.ready(loaded())
    for _ in range(3):
        service.handle(request(tenant="a"))
    with pytest.raises(ThrottledError, match="more than 20 requests a second") as caught:
        service.handle(request(tenant="a"))
    assert caught.value.retry_after == 1
    service.handle(request(tenant="b"))
    time.sleep(0.06)
    service.handle(request(tenant="a"))


def test_a_deadline_of_its_own_is_held_before_queueing_before_running_and_after() -> None:
    service = Service(queue=5, timeout=5)
    service.ready(loaded())

    def soon(seconds: float) -> int:
        return time.perf_counter_ns() + int(seconds * 1e9)

    def never() -> Answer:
        raise AssertionError("this must not run")

    with pytest.raises(TimedOutError, match="had passed when it came"):
        service.handle(request(never, deadline_ns=soon(-0.01)))
    with pytest.raises(TimedOutError, match="while it ran"):
        service.handle(request(lambda: (time.sleep(0.1), Answer(b""))[1], deadline_ns=soon(0.03)))
    holder = threading.Thread(
        target=service.handle, args=(request(lambda: (time.sleep(0.2), Answer(b""))[1]),)
    )
    holder.start()
    time.sleep(0.02)
    with pytest.raises(TimedOutError, match="before its turn came"):
        service.handle(request(never, deadline_ns=soon(0.05)))
    holder.join()
    assert service.admission.taken == 0
    assert service.admission.running == 0
