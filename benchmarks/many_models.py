"""A function of three models: the first answer where each is loaded when it is asked for, and where all three
are loaded before; from spawn."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from preheat import manifest
from preheat.measure import rounds, target
from preheat.measure.rounds import Outcome
from preheat.measure.run import Progress
from preheat.measure.summary import median

from .figures import Benchmark, Claim, Line
from .models import server_environ

APP = """
import time
from preheat import Function
from preheat.model_places import named


class AllAtOnce(Function):
    def start(self, clock=None):
        if self.service.current is None:
            from preheat.bootstrap import bootstrap
            from preheat.phases import PhaseClock
            from preheat.stores import open_store
            self.others = [
                bootstrap(
                    open_store(place),
                    self.settings,
                    cache_dir=self.settings.cache_dir(self._environ),
                    instance="",
                    clock=PhaseClock(time.perf_counter_ns()),
                )
                for place in named(self.settings.models).values()
            ]
        super().start(clock)


function = AllAtOnce(__file__)
"""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    with tempfile.TemporaryDirectory(prefix="preheat-models-") as folder:
        home = Path(folder)
        others = [_copy(artifact, home / name) for name in ("second", "third")]
        (home / "app.py").write_text(APP)
        (home / "artifact").symlink_to(artifact)
        environ = {**server_environ(), "PREHEAT_CACHE": f"{folder}/cache"}
        many = {**environ, "PREHEAT_MODELS": ",".join(map(str, others))}
        alone = target.server(target.find(str(artifact), environ))
        demand = target.server(target.find(str(artifact), many))
        path = b"/v2/models/second/predict"
        second = demand._replace(request=demand.request.replace(b"/predict", path, 1), label="second")
        once = target.server(target.find(str(home / "app.py"), many))
        contenders = [alone, demand, second, once]
        outcomes = rounds.run(contenders, turns, progress=progress)
    names = (
        "one model, no others named",
        "three models: the function's own",
        "three models: another one",
        "three models, all loaded first",
    )
    lines = [Line(name, [s.total_ms for s in o.good]) for name, o in zip(names, outcomes, strict=True)]
    few, both, all_three = (_mib(outcome) for outcome in outcomes[1:])
    return Benchmark(
        "A function of three MiniLM: from spawn to the first answer",
        lines,
        [
            Claim("naming models / not", lines[1].median / lines[0].median, 1.05, at_most=True),
            Claim("on demand / all loaded first", lines[1].median / lines[3].median, 0.7, at_most=True),
            Claim(
                f"another one ({both:.0f} MiB) / all", lines[2].median / lines[3].median, 0.9, at_most=True
            ),
            Claim(f"memory, {few:.0f} MiB / {all_three:.0f}", few / all_three, 0.6, at_most=True),
        ],
        sum(len(outcome.wrong) for outcome in outcomes),
    )


def _copy(artifact: Path, folder: Path) -> Path:
    """The same model under another name, in files of its own."""
    shutil.copytree(artifact, folder)
    path = folder / manifest.FILENAME
    document = {**json.loads(path.read_text()), "name": folder.name}
    path.write_text(json.dumps({**document, "version": manifest.version_of(document)}))
    return folder


def _mib(outcome: Outcome) -> float:
    """PSS after the first answer, the median."""
    return median([start.pss_mib for start in outcome.good if start.pss_mib is not None])
