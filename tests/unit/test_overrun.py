"""What watches runs: ends those that are late, goes when there are none, comes again after a fork."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from preheat import overrun
from preheat.overrun import Watch


def watching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "overrun"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrun, "LOOK_S", 0.01)
    for thread in watching():
        thread.join(10)


def is_ended(run: Any) -> bool:
    until = time.perf_counter() + 10
    while not run.terminate and time.perf_counter() < until:
        time.sleep(0.01)
    return bool(run.terminate)


def test_only_what_is_late_is_ended() -> None:
    watch = Watch()
    late, early = watch.begin(time.perf_counter() + 0.05), watch.begin(time.perf_counter() + 60)
    assert not late.terminate
    assert is_ended(late)
    assert not early.terminate
    watch.end(late)
    watch.end(early)
    for thread in watching():
        thread.join(10)
    assert not watching(), "nothing runs, and it still looks"
    again = watch.begin(time.perf_counter())
    assert is_ended(again), "the first run after a pause is watched too"
    watch.end(again)


def test_it_rests_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrun, "LOOK_S", 5.0)
    watch = Watch()
    watch.rest()
    watch.end(watch.begin(time.perf_counter() + 60))
    began = time.perf_counter()
    watch.rest()
    assert not watching()
    assert time.perf_counter() - began < 2
    monkeypatch.setattr(overrun, "LOOK_S", 0.01)
    late = watch.begin(time.perf_counter())
    assert is_ended(late)
    watch.end(late)


def test_a_forks_child_has_a_watch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    watch.end(watch.begin(time.perf_counter() + 60))
    monkeypatch.setattr(overrun.os, "getpid", lambda: -1)
    late = watch.begin(time.perf_counter())
    assert is_ended(late)
    watch.end(late)
