"""Lambda, simulated: by hand, and against what queueing theory has in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preheat.plan.draws import Times
from preheat.plan.on_demand import Settings, simulate

from .samples import alike, at, poisson

ANY = Settings(idle_s=420.0, recycled_s=7200.0, concurrency=1000)


def test_by_hand() -> None:
    """A start of 1 s, a request of 0.5 s, idle for 10 s at most."""
    arrivals = at([0.0, 0.2, 2.0, 2.1, 12.0, 23.0])
    found = simulate(arrivals, 30.0, alike(6, 0.5, 1.0, 0.25, 0.01), ANY._replace(idle_s=10.0))
    # 0.0 and 0.2 start an instance each, free at 1.75 and 1.95; 2.0 and 2.1 find both. Used last is taken
    # first: at 12.0 the one that was free at 2.6, which at 23.0 has been idle since 12.5, longer than 10 s.
    assert found.latency_s == pytest.approx([1.76, 1.76, 0.51, 0.51, 0.51, 1.76])
    assert found.cold.tolist() == [True, True, False, False, False, True]
    assert (found.most, found.use.starts, found.use.requests) == (2, 3, 6)
    assert found.use.run_s == pytest.approx(3.0)
    assert found.use.starting_s == pytest.approx(3.0)


def test_an_instance_is_recycled_however_busy() -> None:
    arrivals = np.arange(0.0, 100.0, 1.0)
    found = simulate(arrivals, 100.0, alike(100, 0.1, 0.2), ANY._replace(recycled_s=30.5))
    # Started at 0, 31, 62, 93: each is given up by the first request that finds it older than 30.5 s.
    assert np.flatnonzero(found.cold).tolist() == [0, 31, 62, 93]


def test_past_the_concurrency_nothing_is_answered() -> None:
    found = simulate(at([0.0, 0.0, 0.0]), 1.0, alike(3, 0.5, 1.0), ANY._replace(concurrency=2))
    assert found.latency_s.tolist() == pytest.approx([1.5, 1.5, math.inf])
    assert found.unanswered_share == pytest.approx(1 / 3)
    assert found.percentiles_s([50, 99]) == {50: pytest.approx(1.5), 99: math.inf}


def test_what_is_throttled_follows_erlangs_loss_formula() -> None:
    """M/D/c/c: B(5, 3 erlang) = 0.11005, whatever the distribution of the service."""
    count = 100_000
    found = simulate(poisson(30.0, count), count / 30, alike(count, 0.1), ANY._replace(concurrency=5))
    assert found.unanswered_share == pytest.approx(0.11005, abs=0.005)


def test_what_provisioned_instances_cannot_take_follows_it_too() -> None:
    count = 100_000
    found = simulate(poisson(30.0, count), count / 30, alike(count, 0.1), ANY._replace(provisioned=5))
    beyond = found.use.run_s / (found.use.run_s + found.use.provisioned_s)
    assert beyond == pytest.approx(0.11005, abs=0.005)
    assert found.use.starts < 20  # one after another, the same instances take what is beyond


def test_cold_starts_after_idleness_are_those_of_exponential_gaps() -> None:
    """P(gap > T) = exp(-rate T), where a request takes next to nothing."""
    count = 100_000
    found = simulate(
        poisson(0.01, count), count / 0.01, alike(count, 1e-6), ANY._replace(idle_s=100.0, recycled_s=1e12)
    )
    assert found.cold_share == pytest.approx(math.exp(-1), abs=0.005)


def test_pings_keep_as_many_as_there_are_at_once() -> None:
    """Every 300 s, in pairs: nothing idles for 420 s, and two at once find two."""
    arrivals = at([1000.0, 1000.1, 5000.0])
    settings = ANY._replace(ping_every_s=300.0, ping_count=2, ping_s=0.005, recycled_s=1e9)
    found = simulate(arrivals, 6000.0, alike(3, 0.5, 1.0), settings)
    assert not found.cold.any()
    assert found.use.starts == 2
    assert found.use.requests == 3 + 2 * 20
    without = simulate(arrivals, 6000.0, alike(3, 0.5, 1.0), ANY)
    assert without.cold.all()


def test_runs_are_billed_in_whole_milliseconds() -> None:
    times = Times(*(at(values) for values in ([0.0101, 0.010, 0.00001], [0.0] * 3, [0.0] * 3, [0.0] * 3)))
    found = simulate(at([0.0, 1.0, 2.0]), 3.0, times, ANY)
    assert found.use.run_s == pytest.approx(0.011 + 0.010 + 0.001)
