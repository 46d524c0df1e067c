"""The autoscaler's arithmetic, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preheat.local.scaling import Policy, Scaler

POLICY = Policy(target=4, most=8)


def busy(scaler: Scaler, concurrency: int, begin: float, seconds: float) -> float:
    """So many requests in flight for a while, then none; gives when."""
    scaler.record(begin, concurrency)
    scaler.record(begin + seconds, 0)
    return begin + seconds


def test_nothing_was_asked() -> None:
    assert Scaler(POLICY).desired(1000.0, 0) == 0
    assert Scaler(replace(POLICY, least=2)).desired(1000.0, 0) == 2


@pytest.mark.parametrize(("concurrency", "wanted"), [(1, 1), (4, 1), (5, 2), (31, 8), (50, 8)])
def test_from_zero_by_what_is_in_flight_at_once(concurrency: int, wanted: int) -> None:
    scaler = Scaler(POLICY)
    scaler.record(1000.0, concurrency)
    assert scaler.desired(1000.0, 0) == wanted
    assert scaler.desired(1000.001, 0) == wanted


def test_the_average_is_of_the_window_or_of_the_time_since_the_first_request() -> None:
    scaler = Scaler(POLICY)
    scaler.record(1000.0, 8)
    assert scaler.average(1030.0, 60.0) == 0.0, "nothing is known of the time since"
    scaler.desired(1030.0, 2)
    assert scaler.average(1030.0, 60.0) == pytest.approx(8.0)
    scaler.record(1030.0, 0)
    scaler.desired(1060.0, 2)
    assert scaler.average(1060.0, 60.0) == pytest.approx(4.0)
    assert scaler.average(1060.0, 6.0) == pytest.approx(0.0)
    scaler.desired(1075.0, 2)
    assert scaler.average(1075.0, 60.0) == pytest.approx(2.0, rel=0.1)


def test_panic_begins_at_twice_what_is_ready_and_never_scales_down() -> None:
    scaler = Scaler(POLICY)
    scaler.record(1000.0, 4)
    assert scaler.desired(1050.0, 1) == 1
    assert not scaler.panicking
    scaler.record(1050.0, 28)
    assert scaler.desired(1056.0, 1) == 7, "by the panic window's six seconds"
    assert scaler.panicking
    scaler.record(1056.0, 2)
    assert scaler.desired(1070.0, 7) == 7
    assert scaler.desired(1110.0, 7) == 7, "a stable window after the last reason for it"
    assert scaler.desired(1117.0, 7) < 7
    assert not scaler.panicking


def test_down_by_half_in_one_decision() -> None:
    scaler = Scaler(replace(POLICY, most=100, panic_threshold=1000))
    scaler.record(1000.0, 4)
    assert scaler.desired(1060.0, 9) == 4
    assert scaler.desired(1060.0, 4) == 2
    assert scaler.desired(1060.0, 2) == 1


def test_up_by_the_rate_in_one_decision() -> None:
    scaler = Scaler(replace(POLICY, most=100, up_rate=2))
    scaler.record(1000.0, 400)
    assert scaler.desired(1001.0, 0) == 2
    assert scaler.desired(1001.0, 3) == 6


def test_to_zero_after_the_window_and_the_grace() -> None:
    scaler = Scaler(POLICY)
    end = busy(scaler, 1, 1000.0, 0.5)
    assert scaler.desired(end + 59.0, 1) == 1
    assert scaler.desired(end + 61.0, 1) == 1, "the last one stays for the grace"
    assert scaler.desired(end + 61.0, 3) == 1
    assert scaler.desired(end + 89.0, 1) == 1
    assert scaler.desired(end + 90.5, 1) == 0
    assert scaler.average(end + 90.5, 60.0) == 0.0
    scaler.record(end + 200.0, 5)
    assert scaler.desired(end + 200.0, 0) == 2, "silence is not averaged in"


def test_one_long_request_keeps_its_instance() -> None:
    scaler = Scaler(POLICY)
    scaler.record(1000.0, 1)
    for now in range(1000, 1600, 7):
        assert scaler.desired(float(now), 1) == 1


def test_what_somebody_said_is_where_it_begins_anew() -> None:
    scaler = Scaler(POLICY)
    end = busy(scaler, 40, 1000.0, 5.0)
    assert scaler.desired(end, 8) == 8
    scaler.forget()
    assert scaler.desired(end, 0) == 0
    assert not scaler.panicking
