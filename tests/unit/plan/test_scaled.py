"""Autoscaled platforms, simulated: by hand, and against what queueing theory has in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preheat.local.scaling import Policy
from preheat.plan import scaled
from preheat.plan.draws import Times
from preheat.plan.scaled import Settings, simulate

from .samples import Numbers, alike, at, poisson

KNATIVE = Settings(Policy(target=1.4, most=10, grace_s=0.0), tick_s=2.0, at_once=False, concurrency=2)


def fixed(instances: int, *, concurrency: int, turns: int = 1) -> Settings:
    policy = Policy(target=concurrency, least=instances, most=instances)
    return Settings(policy, tick_s=2.0, at_once=False, concurrency=concurrency, turns=turns)


def exponential(count: int, mean: float) -> Times:
    service: Numbers = np.random.default_rng(2).exponential(mean, count)
    return alike(count, 0.0)._replace(request=service)


def erlang_c(servers: int, load: float) -> float:
    """The probability that a request of M/M/c waits."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def test_by_hand_from_zero_and_back() -> None:
    """A start of 1 s, a request of 0.5 s, two at an instance, which answers them one by one."""
    arrivals = at([0.5, 0.6, 0.7, 100.0])
    found = simulate(arrivals, 200.0, alike(4, 0.5, 1.0, 0.25, 0.01), KNATIVE)
    # 0.5 brings a decision, and an instance at 1.75. It takes two: until 2.25 and 2.75. The third waits for a
    # place, until 2.25, and then for its turn. A tick at 2.0 sees three in flight: 3 / 1.4 instances, two
    # more, ready at 3.25, when nobody waits. At 100.0 nothing is left: the window of 60 s is over.
    assert found.latency_s == pytest.approx([1.76, 2.16, 2.56, 1.76])
    assert found.cold.tolist() == [True, False, False, True]
    assert (found.most, found.use.starts) == (3, 4)
    assert found.use.run_s == pytest.approx(2.0)
    # Starting 4 x 1 s; at work 1.75 to 3.25, and 0.5 s.
    assert found.use.active_s == pytest.approx(4.0 + 1.5 + 0.5)


def test_by_hand_the_least_and_what_they_idle() -> None:
    settings = KNATIVE._replace(policy=Policy(target=1.4, least=2, most=4))
    found = simulate(at([10.0, 10.2]), 100.0, alike(2, 0.5, 1.0), settings)
    assert found.latency_s == pytest.approx([0.5, 0.5])
    assert not found.cold.any()
    assert found.use.starts == 0
    assert found.use.alive_s == pytest.approx(200.0)
    assert found.use.least_idle_s == pytest.approx(200.0 - 1.0)


def test_a_platform_that_decides_at_once_starts_for_each_that_waits() -> None:
    """Three at the same time, one at an instance: three instances, each meeting its own start."""
    policy = Policy(target=1.0, most=10)
    settings = Settings(policy, tick_s=0.25, at_once=True, concurrency=1, ahead=1)
    found = simulate(at([1.0, 1.0, 1.0]), 10.0, alike(3, 0.5, 1.0), settings)
    assert found.latency_s == pytest.approx([1.5, 1.5, 1.5])
    assert found.cold.all()
    one_by_one = simulate(at([1.0, 1.0, 1.0]), 10.0, alike(3, 0.5, 1.0), settings._replace(starting=1))
    # The second start begins when the first is over; what waits is taken by whoever is free first.
    assert one_by_one.latency_s == pytest.approx([1.5, 2.5, 2.0])


def test_queues_end_and_requests_give_up() -> None:
    settings = fixed(1, concurrency=1)._replace(queue=1)
    found = simulate(at([0.0, 0.1, 0.2]), 10.0, alike(3, 1.0), settings)
    assert found.latency_s.tolist() == pytest.approx([1.0, 1.9, math.inf])
    waiting = simulate(
        at([0.0, 0.1, 0.2]), 10.0, alike(3, 1.0), fixed(1, concurrency=1)._replace(timeout_s=1.5)
    )
    assert waiting.latency_s.tolist() == pytest.approx([1.0, 1.9, math.inf])


def test_time_at_work_is_rounded_up_and_never_paid_twice() -> None:
    settings = fixed(1, concurrency=4)._replace(paid_step_s=0.1)
    found = simulate(at([0.0, 0.05, 1.0]), 10.0, alike(3, 0.02), settings)
    # 0 to 0.02 is paid until 0.1, which covers what begins at 0.05.
    assert found.use.active_s == pytest.approx(0.2)
    once = simulate(at([0.0, 0.09]), 10.0, alike(2, 0.02), settings)
    assert once.use.active_s == pytest.approx(0.2)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_instance_waits_as_m_d_1(load: float) -> None:
    """Pollaczek and Khinchine: the mean wait is load * service / (2 (1 - load))."""
    count, service = 150_000, 0.1
    found = simulate(
        poisson(load / service, count), count, alike(count, service), fixed(1, concurrency=10**6)
    )
    wait = float(np.mean(found.latency_s)) - service
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


@pytest.mark.parametrize("several", ["turns", "instances"])
def test_several_servers_wait_as_m_m_c(several: str) -> None:
    """Erlang's C formula, of turns in one instance and of instances with one request each."""
    count, servers, service, load = 150_000, 4, 0.1, 3.0
    settings = (
        fixed(1, concurrency=10**6, turns=servers) if several == "turns" else fixed(servers, concurrency=1)
    )
    times = exponential(count, service)
    found = simulate(poisson(load / service, count), count, times, settings)
    waits = found.latency_s - times.request
    waiting = erlang_c(servers, load)
    assert float(np.mean(waits > 1e-9)) == pytest.approx(waiting, abs=0.02)
    assert float(np.mean(waits)) == pytest.approx(waiting * service / (servers - load), rel=0.06)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("least", [0, 2])
def test_ticks_that_are_left_out_would_change_nothing(
    at_once: bool, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 4_000
    rng = np.random.default_rng(3)
    gaps = np.where(rng.random(count) < 0.02, rng.uniform(30, 200, count), rng.exponential(0.05, count))
    arrivals, times = np.cumsum(gaps), alike(count, 0.2, 1.0)
    policy = Policy(target=1.4, least=least, most=10, grace_s=3.0)
    settings = KNATIVE._replace(policy=policy, at_once=at_once, tick_s=0.5)
    skipping = simulate(arrivals, float(arrivals[-1]), times, settings)
    monkeypatch.setattr(scaled._Simulation, "_tick_after", lambda self, now: now + settings.tick_s)
    every = simulate(arrivals, float(arrivals[-1]), times, settings)
    assert np.array_equal(skipping.latency_s, every.latency_s)
    assert skipping.use.starts == every.use.starts > 20
    assert skipping.use.alive_s == pytest.approx(every.use.alive_s, rel=1e-6)


def test_every_request_ends_in_one_way_and_instances_stay_within_bounds() -> None:
    count = 20_000
    settings = KNATIVE._replace(policy=Policy(target=1.4, most=3), queue=50, timeout_s=4.0)
    found = simulate(poisson(20.0, count), count / 20, alike(count, 0.3, 1.0), settings)
    assert len(found.latency_s) == count
    assert found.use.requests == int(np.sum(np.isfinite(found.latency_s)))
    assert 0.3 < found.unanswered_share < 0.7  # ten a second is what three can do
    assert found.most == 3
    assert float(np.min(found.latency_s)) >= 0.3


def test_the_same_again_gives_the_same() -> None:
    count = 5_000
    runs = [
        simulate(
            poisson(5.0, count, seed=7), count / 5, exponential(count, 0.3), KNATIVE._replace(at_once=True)
        )
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].latency_s, runs[1].latency_s)
    assert runs[0].use == runs[1].use
