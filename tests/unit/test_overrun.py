"""What watches runs: ends those that are late, goes when there are none, comes again after a fork."""

from __future__ import annotations

import threading
import time

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
    return


def test_only_what_is_late_is_ended() -> None:
    watch = Watch()
    late, early = watch.begin(time.perf_counter() + 0.05), watch.begin(time.perf_counter() + 60)
    assert not late.terminate
    time.sleep(0.3)
    assert (late.terminate, early.terminate) == (True, False)
    watch.end(late)
    watch.end(early)
    for thread in watching():
        thread.join(10)
    assert not watching(), "nothing runs, and it still looks"
    again = watch.begin(time.perf_counter())
    time.sleep(0.3)
    assert again.terminate, "the first run after a pause is watched too"
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
    time.sleep(0.3)
    assert late.terminate
    watch.end(late)


def test_a_forks_child_has_a_watch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    watch.end(watch.begin(time.perf_counter() + 60))
    monkeypatch.setattr(overrun.os, "getpid", lambda: -1)
    late = watch.begin(time.perf_counter())
    time.sleep(0.3)
    assert late.terminate
    watch.end(late)
