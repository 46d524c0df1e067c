"""Scenarios: what is read, and what is refused in words that name the place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from preheat.errors import UsageError
from preheat.load import generator, schedule
from preheat.load.scenario import load

REQUEST = '[[requests]]\npath = "/predict"\njson = { a = 1 }\n'
STEP = '[[steps]]\narrivals = "constant"\nrate = 10\nduration_s = 2\n'


def write(folder: Path, text: str) -> str:
    path = folder / "one.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "path", sorted((generator.folder() / "scenarios").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_scenarios_that_come_along_are_read(path: Path) -> None:
    found = load(str(path))
    assert found.name == path.stem
    assert found.about
    sent = [arrival for segment in schedule.segments(found) for arrival in segment.arrivals]
    assert len({arrival.number for arrival in sent}) == len(sent) > 10


def test_a_schedule_repeats_itself_but_for_its_keys(tmp_path: Path) -> None:
    text = f"seed = 3\n{REQUEST}{REQUEST.replace('predict', 'other')}"
    text += '[[steps]]\narrivals = "poisson"\nrate = [50, 200]\nduration_s = 20\n'
    one, two = (list(schedule.segments(load(write(tmp_path, text)))) for _ in range(2))
    assert one == two
    assert [segment.rate for segment in one] == [50, 200]
    for segment in one:
        times = [arrival.at for arrival in segment.arrivals]
        assert times == sorted(times)
        assert 0 < times[0] < times[-1] < 20
        # Poisson: the count's standard deviation is the root of its mean; five of them.
        assert abs(len(times) - segment.rate * 20) < 5 * (segment.rate * 20) ** 0.5
    assert one[0].arrivals[-1].number + 1 == one[1].arrivals[0].number
    mix = Counter(arrival.payload for segment in one for arrival in segment.arrivals)
    assert 0.45 < mix[0] / sum(mix.values()) < 0.55


def test_duplicates_share_their_key_and_nothing_else(tmp_path: Path) -> None:
    text = f"[keys]\neach = true\nduplicates = 0.5\n{REQUEST}{STEP}".replace("rate = 10", "rate = 100")
    (segment,) = schedule.segments(load(write(tmp_path, text)))
    keys = Counter(arrival.key for arrival in segment.arrivals)
    assert set(keys.values()) == {1, 2}
    assert len(keys) == 200
    assert 60 < sum(count == 2 for count in keys.values()) < 140


def test_a_digest_is_of_what_is_sent(tmp_path: Path) -> None:
    base = load(write(tmp_path, REQUEST + STEP)).digest
    assert load(write(tmp_path, 'name = "x"\nobjective_ms = 5\n' + REQUEST + STEP)).digest == base
    assert load(write(tmp_path, REQUEST + STEP.replace("10", "11"))).digest != base
    assert load(write(tmp_path, REQUEST.replace("1", "2") + STEP)).digest != base


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "requests is missing"),
        (REQUEST, "steps is missing"),
        ("requests = []\n" + STEP, r"at least one \[\[requests\]\]"),
        (REQUEST + STEP.replace("rate = 10", "rate = -1"), r"steps\[0\]: rate must be above 0, not -1"),
        (REQUEST + STEP.replace("rate = 10", "rate = 0"), "rate must be above 0, not 0"),
        (REQUEST + STEP.replace("rate = 10", "rate = nan"), "rate must be a number"),
        (REQUEST + STEP.replace("rate = 10", "rate = []"), "rate is an empty list"),
        (REQUEST + STEP.replace("duration_s = 2", "duration_s = -2"), "duration_s must be above 0"),
        (REQUEST + STEP.replace("duration_s = 2", ""), "duration_s is missing"),
        (REQUEST + STEP.replace("rate", "rte"), "rate is missing"),
        (REQUEST + STEP + "reps = 2\n", "reps is not known here"),
        (REQUEST + STEP + "repeet = 2\n", "did you mean repeat"),
        (REQUEST + STEP + "repeat = 0\n", "repeat must be a whole number from 1"),
        (REQUEST + STEP + 'cold = true\nexpect = "warm"\n', "contradict"),
        (REQUEST + STEP.replace("10", "1e9"), "a run sends at most"),
        (REQUEST + '[[steps]]\narrivals = "idle"\nduration_s = 5\n', "every step is idle"),
        (REQUEST + STEP + '[[steps]]\narrivals = "idle"\nduration_s = 5\ncold = true\n', "sends nothing"),
        (REQUEST + STEP + '[[steps]]\narrivals = "rush"\n', "must be one of poisson"),
        (
            REQUEST + '[[steps]]\narrivals = "concurrency"\nconcurrency = 1.5\nduration_s = 1\n',
            "whole numbers",
        ),
        (REQUEST + 'text = "x"\n' + STEP, "json and text contradict"),
        (REQUEST.replace("/predict", "predict") + STEP, "must begin with one /"),
        (REQUEST.replace("/predict", "//evil") + STEP, "must begin with one /"),
        (REQUEST + "weight = -1\n" + STEP, "weight must be above 0"),
        ("timeout_s = -1\n" + REQUEST + STEP, "timeout_s must be above 0"),
        (REQUEST + STEP + '[keys]\nduplicates = ""\n', "duplicates must be a number, not ''"),
        (REQUEST + STEP + "[keys]\nduplicates = -0.5\n", "duplicates must be at least 0"),
        ("[keys]\nduplicates = 0.5\n" + REQUEST + STEP, "needs keys.each"),
        ("[keys]\neach = true\nduplicates = 2\n" + REQUEST + STEP, "at most 1"),
        ("[retry]\nmost = -1\n" + REQUEST + STEP, "most must be a whole number"),
        (REQUEST + STEP + 'name = "a"\n' + STEP + 'name = "a"\n', "two steps have the same name"),
        (REQUEST + '[[steps]]\narrivals = "trace"\nfile = "gone.csv"\n', "gone.csv cannot be read"),
        ("this is no toml", "is not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(str(tmp_path / "none.toml"))


def trace(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return write(folder, REQUEST + f'[[steps]]\narrivals = "trace"\nfile = "{name}"\nspeed = 2\n')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "timestamp,request\n100.5,0\n101.5,0\n104.5,0\n"),
        ("t.jsonl", '{"timestamp": 100.5}\n\n{"timestamp": 101.5}\n{"timestamp": 104.5}\n'),
        ("t.csv", "id,timestamp\n1,2026-01-01T00:00:00Z\n2,2026-01-01T00:00:01Z\n3,2026-01-01T00:00:04Z\n"),
    ],
)
def test_traces_are_replayed_by_their_times(tmp_path: Path, name: str, text: str) -> None:
    (segment,) = schedule.segments(load(trace(tmp_path, name, text)))
    assert [arrival.at for arrival in segment.arrivals] == pytest.approx([0.0, 0.5, 2.0])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "", "empty trace"),
        ("t.csv", "timestamp\n", "empty trace"),
        ("t.jsonl", "\n", "empty trace"),
        ("t.csv", "timestamp\n2\n1\n", "line 3: the trace is out of order: 1 comes after 2"),
        ("t.csv", "timestamp\n-1\n", "line 2: a negative time"),
        ("t.csv", "timestamp\nsoon\n", "line 2: 'soon' is no time"),
        ("t.csv", "when,what\n1,2\n", "must name the column with the time: timestamp"),
        ("t.csv", "timestamp\ninf\n", "'inf' is no time"),
        ("t.jsonl", "{\n", "line 1: not JSON"),
        ("t.jsonl", "[1]\n", "no time"),
        ("t.jsonl", '{"timestamp": true}\n', "no time"),
        ("t.csv", "timestamp,request\n1,0\n2,\n", "all or none"),
        ("t.csv", "timestamp,request\n1,first\n", "request must be a number"),
        ("t.csv", "timestamp,request\n1,7\n", "asks for request 7; there are 1"),
    ],
)
def test_traces_that_are_none(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load(trace(tmp_path, name, text))
