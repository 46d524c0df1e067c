"""Leases that lapsed while somebody watched."""

import time

from preheat.ledger import watch
from preheat.ledger.watch import Watch


def test_a_lease_that_stays_unchanged_for_as_long_as_it_holds_has_lapsed() -> None:
    seen = Watch()
    assert 0.1 < seen.left("k", "f", 7.0, 0.15, time.monotonic()) < 0.2
    time.sleep(0.16)
    assert seen.left("k", "f", 7.0, 0.15, time.monotonic()) == 0


def test_a_renewed_lease_and_another_owners_begin_anew() -> None:
    seen = Watch()
    seen.left("k", "f", 7.0, 0.1, time.monotonic())
    time.sleep(0.11)
    assert seen.left("k", "f", 8.0, 0.1, time.monotonic()) > 0
    time.sleep(0.11)
    assert seen.left("k", "g", 8.0, 0.1, time.monotonic()) > 0


def test_it_counts_to_when_the_request_was_sent() -> None:
    seen = Watch()
    asked = time.monotonic()
    seen.left("k", "f", 7.0, 0.1, asked)
    time.sleep(0.11)
    assert seen.left("k", "f", 7.0, 0.1, asked) > 0, "the answer was late, and may be of the time before"


def test_what_is_watched_is_bounded_and_can_be_forgotten() -> None:
    seen = Watch()
    for number in range(watch.MOST + 10):
        seen.left(str(number), "f", 7.0, 0.0, time.monotonic() + 1)
    assert len(seen._seen) == watch.MOST
    seen.forget(str(watch.MOST))
    assert len(seen._seen) == watch.MOST - 1
