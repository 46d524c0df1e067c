"""A server's clock by its Date headers, held against one that is known."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest

from preheat.ledger import server_clock
from preheat.ledger.server_clock import ServerClock


class World:
    """A server's true clock, and a worker's two, which are what the clock under test sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.true = 1_800_000_000.37
        self.monotonic_less = 1_799_999_000.0
        self.skew = 0.0
        monkeypatch.setattr(server_clock, "time", self)

    def monotonic(self) -> float:
        return self.true - self.monotonic_less

    def time(self) -> float:
        return self.true + self.skew

    def ask(self, clock: ServerClock, there: float = 0.005, back: float = 0.005) -> None:
        asked = self.monotonic()
        self.true += there
        date = formatdate(int(self.true), usegmt=True)
        self.true += back
        clock.learn(date, asked)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nothing_is_known_before_the_first_answer(world: World) -> None:
    clock = ServerClock()
    assert clock.now() is None
    clock.learn("not a date", world.monotonic())
    assert clock.now() is None


@pytest.mark.parametrize("skew", [-60, 0, 60])
@pytest.mark.parametrize("seed", range(20))
def test_the_truth_lies_within_the_bounds_and_they_narrow(world: World, seed: int, skew: float) -> None:
    world.skew = skew
    clock, chance = ServerClock(), random.Random(seed)
    for _ in range(200):
        world.true += chance.uniform(0, 0.3)
        world.ask(clock, chance.uniform(0.001, 0.05), chance.uniform(0.001, 0.05))
        now = clock.now()
        assert now is not None
        assert now.low <= world.true <= now.high
        assert now.width <= 1.25
    assert now.width < 0.15
    assert clock.contradictions == 0


def test_bounds_widen_with_age(world: World) -> None:
    clock = ServerClock()
    world.ask(clock)
    first = clock.now()
    world.true += 3600
    later = clock.now()
    assert first is not None
    assert later is not None
    assert later.width == pytest.approx(first.width + 2 * 3600 * server_clock.DRIFT)


@pytest.mark.parametrize("jump", [-300, 300])
def test_a_jump_of_the_wall_clock_makes_it_forget(world: World, jump: float) -> None:
    """As after a thaw, when the platform has put the wall clock right and the monotonic one stood still."""
    clock = ServerClock()
    world.ask(clock)
    world.skew += jump
    assert clock.now() is None
    world.ask(clock)
    assert clock.now() is not None
    assert clock.contradictions == 0


def test_an_answer_that_contradicts_what_was_believed_counts_and_wins(world: World) -> None:
    """A thaw that no clock of the worker's tells."""
    clock = ServerClock()
    world.ask(clock)
    world.true += 300
    world.monotonic_less += 300
    world.skew -= 300
    now = clock.now()
    assert now is not None
    assert now.high < world.true, "nothing tells so far"
    world.ask(clock)
    assert clock.contradictions == 1
    now = clock.now()
    assert now is not None
    assert now.low <= world.true <= now.high


def test_hosts_of_a_service_that_are_a_little_apart_are_no_contradiction(world: World) -> None:
    clock = ServerClock()
    for _ in range(50):
        world.true += 0.09
        world.ask(clock)
    narrow = clock.now()
    assert narrow is not None
    world.true = float(int(world.true)) + 0.995
    # This host's clock is ahead, and says the next second already.
    clock.learn(formatdate(int(world.true) + 1, usegmt=True), world.monotonic() - 0.001)
    assert clock.contradictions == 0
    now = clock.now()
    assert now is not None
    assert now.low <= world.true <= now.high
