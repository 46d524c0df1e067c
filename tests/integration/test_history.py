from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from .history import Kind, Recorder, merged
from .plan import Config, Plan, Step


def test_what_was_written_before_a_kill_stays(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        recorder = Recorder(tmp_path, "w1")
        for number in range(100):
            recorder(Kind.CLAIMING, f"k{number}")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert [event.key for event in merged(tmp_path)] == [f"k{number}" for number in range(100)]


def test_threads_and_processes_are_merged_by_time(tmp_path: Path) -> None:
    first, second = Recorder(tmp_path, "w1"), Recorder(tmp_path, "w2")

    def write(recorder: Recorder) -> None:
        for number in range(200):
            recorder(Kind.CLAIMED, f"k{number}", "fence", "1", 0.5)

    threads = [threading.Thread(target=write, args=(r,)) for r in (first, first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = merged(tmp_path)
    assert len(events) == 600
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {(event.who, event.kind, event.fence, event.began) for event in events} == {
        ("w1", Kind.CLAIMED, "fence", 0.5),
        ("w2", Kind.CLAIMED, "fence", 0.5),
    }


def test_a_plan_is_its_seed_and_has_every_step(tmp_path: Path) -> None:
    config = Config("sqlite:////nowhere", keys=2000, kills=90)
    one, two = Plan(config, tmp_path), Plan(config, tmp_path)
    assert (one.fates, one.asks) == (two.fates, two.asks)
    steps = [step for fate in one.fates.values() for step in fate.kills]
    assert {step: steps.count(step) for step in Step} == dict.fromkeys(Step, 11)
    assert {key for asks in one.asks for key in asks} == set(one.keys)


def test_each_thing_befalls_once(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    plan = Plan(Config("", keys=2000), tmp_path)
    key, step = next((key, fate.kills[0]) for key, fate in plan.fates.items() if fate.kills)
    assert [plan.befalls(key, step) for _ in range(3)] == [True, False, False]
