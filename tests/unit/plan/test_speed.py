"""A million requests are to be simulated within a minute: here a tenth of them, within a tenth of it."""

from __future__ import annotations

import time

import pytest

from preheat.local.scaling import Policy
from preheat.plan import on_demand, scaled

from .samples import alike, poisson

COUNT, BOUND_S = 100_000, 6.0
RATE = 50.0


def settings(*, at_once: bool, most: int) -> scaled.Settings:
    return scaled.Settings(Policy(target=5.6, most=most), tick_s=1.0, at_once=at_once, concurrency=8)


@pytest.mark.alone
@pytest.mark.parametrize("most", [100, 2])  # and two instances, before which requests queue
@pytest.mark.parametrize("at_once", [False, True])
def test_autoscaled(at_once: bool, most: int) -> None:
    times = alike(COUNT, 0.05, 1.0)
    begin = time.process_time()
    found = scaled.simulate(poisson(RATE, COUNT), COUNT / RATE, times, settings(at_once=at_once, most=most))
    assert found.use.requests == COUNT
    assert time.process_time() - begin < BOUND_S


@pytest.mark.alone
def test_on_demand() -> None:
    times = alike(COUNT, 0.05, 1.0)
    begin = time.process_time()
    found = on_demand.simulate(
        poisson(RATE, COUNT), COUNT / RATE, times, on_demand.Settings(420.0, 7200.0, 1000)
    )
    assert found.use.requests == COUNT
    assert time.process_time() - begin < BOUND_S
