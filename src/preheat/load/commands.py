"""`preheat load`, `preheat compare` and `preheat report`, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

from .. import output
from ..errors import UsageError
from ..measure import report as starts
from . import compare as gate
from . import cost, figures, runs, show
from .cold import plug_in
from .generator import Generator, folder
from .run import CUT, run
from .scenario import load as read_scenario
from .target import reach
from .target import target as named_target

POINTS = 0.01
"""By how much the share of failed requests may rise before a comparison fails, as a part."""


def load(
    scenario: str,
    *,
    target: str,
    out: str,
    cold: str,
    headers: Sequence[str],
    sign: str,
    workers: int,
    bind: str,
    label: str,
    prices: str | None,
    on_lambda: cost.Lambda,
    as_json: bool,
) -> int:
    """Run and print; gives the exit status: 0; 1 where nothing was answered well, or the run could not be
    finished; 130 after Ctrl-C."""
    found = read_scenario(find_scenario(scenario))
    place = named_target(target, headers)
    table = cost.table(prices)
    cost.check(on_lambda)
    plug = plug_in(cold, target) if cold else None
    if found.cold and plug is None:
        raise UsageError(f"{scenario} asks for a cold target: say how with --cold (up, lambda:…, knative:…)")
    if bind and not workers:
        raise UsageError("--bind is where workers find this machine: say how many with --workers")
    if sign and sign.count(":") != 1:
        raise UsageError("--sign must be SERVICE:REGION, such as lambda:us-east-1")
    output.make_room(out, as_json=as_json)
    reach(place)
    if bind:
        script = folder() / "locustfile.py"
        sys.stderr.write(f"waiting for {workers} workers: locust -f {script} --worker --master-host …\n")
    with show.progress(found.name) as tell, Generator(workers, bind) as generator:
        done = run(found, place, generator, out, cold=plug, label=label, signed=sign, tell=tell)
    document = figures.summary(done)
    costs = cost.costs(done, table, on_lambda)
    if as_json:
        sys.stdout.write(json.dumps({**document, "costs": costs}, indent=1) + "\n")
    else:
        from rich.console import Console

        show.summary(Console(stderr=out == output.STDOUT), document, costs)
    output.wrote(out)
    if done.tail.get("cut") == CUT:
        return 130
    if done.samples and not document["good"]:
        said = Counter(f"{one.outcome} ({one.status or 'no answer'}): {one.error}" for one in done.samples)
        told, count = said.most_common(1)[0]
        sys.stderr.write(f"no answer was good; {count} of {len(done.samples)} were {told}\n")
    return 0 if document["good"] and not done.tail.get("cut") else 1


def find_scenario(named: str) -> str:
    """A file, or the name of one that comes along. Raises UsageError that lists those."""
    if os.path.exists(named):
        return named
    known = {path.stem: str(path) for path in sorted((folder() / "scenarios").glob("*.toml"))}
    if named in known:
        return known[named]
    raise UsageError(f"there is no scenario {named!r}: name a file, or one of {', '.join(known)}")


def compare(base: str, new: str, *, above: str, strict: bool, as_json: bool) -> int:
    """Print the comparison; gives the exit status: 1 where something is a regression, and with ``strict``
    where something is undecided."""
    limit = gate.limit(above)
    found = gate.compare(*runs.read_all([base, new]), above=limit, points=POINTS)
    fails = bool(found["regressions"] or (strict and found["undecided"]))
    found["verdict"] = f"{'fails' if fails else 'passes'}: {show.reason(found, strict=strict)}"
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        from rich.console import Console

        show.comparison(Console(), found)
    return 1 if fails else 0


def report(paths: Sequence[str], out: str, prices: str | None, on_lambda: cost.Lambda) -> None:
    """One page from the files of several runs: load tests first, then cold starts that were measured."""
    table = cost.table(prices)
    named = runs.read_all([path for path in paths if runs.is_run(path)])
    wanted = f"{starts.WANTED}; or a load test's run, {runs.WRITTEN_BY}"
    measured = [starts.load(path, wanted) for path in paths if not runs.is_run(path)]
    loads = [(one, figures.summary(one), cost.costs(one, table, on_lambda)) for one in named]
    output.make_room(out)  # before the drawing
    if not loads:
        output.write(out, starts.page(measured))
    else:
        from . import page

        output.write(out, page.page(loads, starts.body(measured) if measured else ""))
    output.wrote(out)
