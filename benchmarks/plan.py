"""`preheat plan`: a million simulated requests on each platform, and what is simulated against what
`preheat up` does."""

from __future__ import annotations

import time
from pathlib import Path

from preheat.deploy import aws_tables, container_tables
from preheat.deploy.facts import read
from preheat.measure.run import Progress
from preheat.plan import options, platforms, traffic
from preheat.plan.candidates import Known, candidate
from preheat.plan.draws import draw

from . import agreement
from .figures import Benchmark, Claim, Line
from .models import server_environ

MILLION = 1_000_000
RATE = 50.0
NAMES = ("lambda", "cloudrun", "knative", "up")


def run(artifact: Path, rounds: int, progress: Progress) -> Benchmark:
    facts, tables = read(str(artifact), server_environ()), aws_tables.load()
    prices = aws_tables.prices(tables, "us-east-1", facts.architecture)
    known = Known(
        facts, facts.architecture, tables, container_tables.load(), prices, platforms.load(), None, None
    )
    met = traffic.steady(RATE, MILLION, 1)
    draws = draw(MILLION, 1)
    lines, claims = [], []
    for index, option in enumerate(options.parse(NAMES)):
        progress(f"a million requests on {option.name}", index, len(NAMES) + 3)
        begin = time.perf_counter()
        candidate(option, known, met, draws)
        took = time.perf_counter() - begin
        lines.append(Line(f"a million requests on {option.name}", [took * 1e3]))
        claims.append(Claim(f"a million requests on {option.name}", took, 60.0, True, "s"))
    for index, scenario in enumerate(agreement.scenarios(rounds)):
        progress(scenario.name, len(NAMES) + index, len(NAMES) + 3)
        found = agreement.agree(artifact, scenario)
        lines.append(Line(f"up: {scenario.name}", found.measured_ms))
        lines.append(Line("  simulated", found.simulated_ms))
        claims += [
            Claim(
                f"{scenario.name}: cold share off", found.cold_points, agreement.COLD_POINTS, True, "points"
            ),
            Claim(f"{scenario.name}: p99 off", found.p99_off * 100, agreement.P99_RATIO * 100, True, "%"),
        ]
    return Benchmark(
        f"plan: {RATE:g} requests a second simulated; {rounds * 15} s and more on preheat up, and simulated",
        lines,
        claims,
    )
