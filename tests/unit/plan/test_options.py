"""Options, objectives and the platforms' table, as they are written."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from preheat.errors import UsageError
from preheat.plan import objective, options, platforms
from preheat.plan.candidates import settings_of


def test_an_option_has_the_name_that_it_is_asked_for_by() -> None:
    names = [
        "lambda",
        "lambda:snapstart",
        "lambda:memory=2048,ping=300,pings=2",
        "knative:min=1,cpu=0.5",
        "up:queue=0",
    ]
    assert [one.name for one in options.parse(names)] == names
    assert [one.name for one in options.usual(3)][3] == "lambda:provisioned=3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("azure", "the platform must be one of lambda, knative, cloudrun, up"),
        ("lambda:min=1", "lambda takes memory, snapstart"),
        ("lambda:provisioned", "must be a whole number from 0"),
        ("lambda:provisioned=1.5", "must be a whole number"),
        ("lambda:snapstart=2", "from 0 to 1,"),
        ("lambda:memory=nan", "memory must be"),
        ("lambda:ping=0", "ping must be a number"),
        ("lambda:ping=60,ping=30", "ping is said twice"),
        ("lambda:pings=2", "pings needs ping"),
        ("lambda:snapstart,provisioned=1", "no SnapStart with provisioned"),
        ("knative:min=5,max=2", "min must not be above max"),
        ("knative:concurrency=0", "concurrency must be"),
        ("knative:window=5", "window must be 6 to 3600"),
        ("knative:panic=0.5", "panic must be 1 to 100"),
        ("knative:threshold=100", "threshold 110 to 1000"),
        ("knative:queue=3", "knative takes min"),
        ("knative:max=inf", "max must be"),
    ],
)
def test_what_is_no_option(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--options") as refused:
        options.parse([text])
    assert said in str(refused.value)


def test_an_option_is_named_once() -> None:
    with pytest.raises(UsageError, match="named twice"):
        options.parse(["lambda", "knative", "lambda"])


def test_what_an_option_does_not_say_is_the_platforms() -> None:
    known = platforms.load().autoscaled
    knative = settings_of(options.parse(["knative"])[0], known["knative"])
    assert (knative.policy.target, knative.policy.stable_s, knative.tick_s) == (pytest.approx(5.6), 60.0, 2.0)
    assert not knative.at_once
    own = settings_of(options.parse(["up:window=1,grace=0.5,concurrency=2,min=1,max=4"])[0], known["up"])
    assert (own.policy.least, own.policy.most, own.policy.grace_s, own.concurrency) == (1, 4, 0.5, 2)
    assert own.policy.target == pytest.approx(1.4)
    assert own.at_once


def test_objectives() -> None:
    found = objective.parse(["p99=500ms,p50=0.1s", "p99.9=2s"])
    assert [(one.name, one.seconds) for one in found] == [("p50", 0.1), ("p99", 0.5), ("p99.9", 2.0)]
    assert str(found[1]) == "p99 of at most 500 ms"


@pytest.mark.parametrize(
    "text", ["", "99=500ms", "p99", "p99=500", "p100=1s", "p0=1s", "p99=0ms", "p99=-1s", "p9=nans"]
)
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(UsageError, match="--objective"):
        objective.parse([text])
    with pytest.raises(UsageError, match="twice"):
        objective.parse(["p99=1s", "p99=2s"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[lambda]", "[lambada]", "no table 'lambda'"),
        ("tick_s = 2.0", "tick_s = 0", "'tick_s' must be above 0"),
        ("tick_s = 2.0", "tick_s = '2'", "'tick_s' is missing or cannot be '2'"),
        ("cold_s = [0.26, 0.37]", "cold_s = [0.37, 0.26]", "'cold_s' is missing or cannot be"),
        ("at_once = false", "at_once = 0", "'at_once'"),
        ("ping_s = 0.005", "pong_s = 0.005", "unknown field 'pong_s'"),
        ("idle_cpu_s = 0.0000123611", "", "[knative.price]: 'idle_cpu_s' is missing"),
        ("[lambda]", "[lambda", "not TOML"),
    ],
)
def test_a_table_of_ones_own(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = (files("preheat.plan") / "platforms.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(text)
    assert platforms.load(str(path)) == platforms.load()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError) as refused:
        platforms.load(str(path))
    assert said in str(refused.value)
    with pytest.raises(UsageError, match="cannot be read"):
        platforms.load(str(tmp_path / "none"))
