"""What an option costs, by hand and against `check lambda`'s sums; which one is taken, and why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from preheat.deploy import aws_tables, cloud_run, container_tables, cost, knative
from preheat.deploy.container_spec import Options
from preheat.deploy.cost import MONTH_S
from preheat.deploy.facts import Facts, read
from preheat.errors import UsageError
from preheat.plan import objective, options, platforms, traffic
from preheat.plan.candidates import UNFIT, Candidate, Known, candidate, started_anew
from preheat.plan.decide import decide, document
from preheat.plan.draws import draw
from preheat.plan.figures import Figures, Spread
from preheat.plan.outcome import Outcome, Use

TABLES = aws_tables.load()
PRICES = aws_tables.prices(TABLES, "us-east-1", "x86_64")


@pytest.fixture
def known(filetype_artifact: Path) -> Known:
    facts: Facts = read(str(filetype_artifact), {})
    return Known(facts, "x86_64", TABLES, container_tables.load(), PRICES, platforms.load(), None, 100.0)


def one(known: Known, name: str, met: traffic.Traffic, seed: int = 1) -> Candidate:
    (option,) = options.parse([name])
    return candidate(option, known, met, draw(len(met.arrivals), seed))


def test_lambda_costs_what_check_lambda_says_of_a_steady_rate(known: Known) -> None:
    """Its sums are closed forms of the same: requests and duration are equal, cold starts alike."""
    met = traffic.steady(5.0, 100_000, 1)
    for name, way in (("lambda", cost.plain), ("lambda:snapstart", cost.snapstart)):
        found = one(known, name, met)
        load = cost.Load(
            5.0,
            found.outcome.use.run_s / found.outcome.use.requests,
            found.figures.start.median,
            TABLES.snapstart.restore_s,
            found.figures.memory_mb,
            found.figures.ephemeral_mb,
            0,
        )
        closed = way(load, PRICES, TABLES.assumed)
        assert found.monthly["requests"] == pytest.approx(closed.parts["requests"])
        assert found.monthly["duration"] == pytest.approx(closed.parts["duration"])
        assert found.total == pytest.approx(closed.total, rel=0.02)


def test_provisioned_instances_are_kept_all_month(known: Known) -> None:
    found = one(known, "lambda:provisioned=20", traffic.steady(5.0, 20_000, 1))
    gb = found.figures.memory_mb / 1024
    assert found.monthly["kept ready"] == pytest.approx(20 * MONTH_S * gb * PRICES.provisioned)
    assert found.monthly["duration"] == pytest.approx(
        found.outcome.use.provisioned_s * MONTH_S / 4000.0 * gb * PRICES.provisioned_duration
    )
    assert not found.outcome.cold.any()


def test_containers_by_hand(known: Known) -> None:
    """One request a minute for an hour, 0.1 s each: an instance that is kept, on both."""
    arrivals = np.arange(30.0, 3600.0, 60.0)
    met = traffic.Traffic(arrivals, 3600.0, "")
    steady = known._replace(latency_ms=99.0)
    run = one(steady, "cloudrun:min=1", met)
    price, gib = known.platforms.autoscaled["cloudrun"].price, run.figures.memory_mb / 1024
    hours = MONTH_S / 3600.0
    work = run.outcome.use.active_s
    assert 60 * 0.1 - 1e-6 <= work <= 60 * 0.2 + 1e-6  # whole tenths of a second
    assert run.monthly["at work"] == pytest.approx(hours * work * (price.cpu_s + gib * price.gib_s))
    idle = 3600.0 - run.outcome.use.run_s
    assert run.monthly["kept ready"] == pytest.approx(
        hours * idle * (price.idle_cpu_s + gib * price.idle_gib_s), rel=1e-3
    )
    pod = one(steady, "knative:min=1", met)
    price, gib = known.platforms.autoscaled["knative"].price, pod.figures.memory_mb / 1024
    assert pod.total == pytest.approx(MONTH_S * (price.cpu_s + gib * price.gib_s))
    assert one(steady, "up", met).total == 0.0


def test_a_container_has_the_memory_that_render_gives_it(known: Known) -> None:
    met = traffic.steady(1.0, 10, 1)
    stored = known._replace(facts=known.facts._replace(stored=True))  # what is fetched lies in /tmp
    for one_known in (known, stored):
        for cpu in (1, 4):
            for platform, rendered in (("knative", knative), ("cloudrun", cloud_run)):
                unit = rendered.unit(one_known.facts, Options("image", cpu=cpu), known.containers)
                found = one(one_known, f"{platform}:cpu={cpu}", met)
                assert found.figures.memory_mb == unit.size.memory_mib, (platform, cpu)


def test_an_init_beyond_the_limit_is_begun_anew() -> None:
    assert started_anew(Spread(2.0, 9.0, 11.0), 10.0) == (2.0, 9.0, 21.0)


def test_what_lambda_does_not_have(known: Known) -> None:
    for name, said in (
        ("lambda:memory=64", "the model needs"),
        ("lambda:memory=20000", "Lambda's memory is"),
    ):
        with pytest.raises(UsageError, match=said) as refused:
            one(known, name, traffic.steady(1.0, 10, 1))
        assert refused.value.code == UNFIT


def test_more_pings_than_can_be_simulated(known: Known) -> None:
    with pytest.raises(UsageError, match="more than 10,000,000 pings"):
        one(known, "lambda:ping=0.01,pings=3", traffic.steady(0.001, 1000, 1))


def made(
    name: str, latencies: list[float], dollars: float, cold: int = 0, request: float = 0.05
) -> Candidate:
    """A candidate with these latencies, of which the first ``cold`` met a cold start."""
    spread = Spread(request, request, request)
    figures = Figures(spread, spread, 512, 512, 512, "packed", measured_start=True)
    met = np.arange(len(latencies)) < cold
    outcome = Outcome(np.array(latencies), met, Use(), 1)
    return Candidate(options.parse([name])[0], figures, outcome, {"requests": dollars})


WANTED = objective.parse(["p99=500ms"])
FAST, SLOW = [0.1] * 100, [2.0] * 3 + [0.1] * 97


def test_the_cheapest_that_meets_the_objective() -> None:
    found = decide(
        [made("knative:min=1", FAST, 30.0), made("lambda", SLOW, 1.0, cold=3), made("cloudrun", FAST, 20.0)],
        WANTED,
    )
    assert found.chosen is not None
    assert [one.name for one in found.judged] == ["cloudrun", "knative:min=1", "lambda"]
    first, second, third = found.why
    assert first == "cloudrun is the cheapest of 2 that meet p99 of at most 500 ms: $20.00 a month."
    assert second == "Next is knative:min=1, for $10.00 more."
    assert third.startswith(
        "lambda is cheaper ($1.00), and p99 is 2,000 ms, not 500 ms: 3.00% meet a cold start"
    )


@pytest.mark.parametrize(
    ("latencies", "cold", "request_s", "cause", "way_out"),
    [
        (SLOW, 3, 0.05, "meet a cold start, which takes 2,000 ms", "More instances kept ready"),
        (SLOW, 0, 0.05, "most of them waiting", "More instances at most"),
        ([math.inf] * 3 + FAST, 0, 0.05, "get no answer", "More instances at most"),
        ([0.7] * 100, 0, 0.7, "a warm request alone takes 700 ms", "a faster variant"),
    ],
)
def test_an_objective_that_nobody_meets(
    latencies: list[float], cold: int, request_s: float, cause: str, way_out: str
) -> None:
    found = decide([made("lambda", latencies, 1.0, cold, request_s)], WANTED)
    assert found.chosen is None
    assert found.why[0] == "No option meets p99 of at most 500 ms."
    assert cause in found.why[1]
    assert way_out in found.why[2]
    said = document(found)
    assert (said["meets"], said["chosen"]) == (False, None)
    assert said["options"][0]["latency_ms"]["p99"] == (
        None if math.inf in latencies else pytest.approx(max(latencies) * 1e3)
    )


def test_percentiles_are_nearest_ranks_of_all_requests() -> None:
    outcome = made("lambda", [float(value) for value in range(1, 201)], 0.0).outcome
    assert outcome.percentiles_s([0.1, 50, 99, 99.9]) == {0.1: 1.0, 50: 100.0, 99: 198.0, 99.9: 200.0}
