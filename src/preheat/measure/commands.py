"""`preheat measure` and `preheat report`, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from .. import output
from ..errors import UsageError
from . import report as reports
from . import show
from .lambda_runtime import find_rie
from .run import measure as measured


def measure(
    target: str,
    *,
    rounds: int,
    as_json: bool,
    floor: bool,
    drop_caches: bool,
    variants: Sequence[str],
    report: str | None,
    platform: str = "process",
    rie: str = "",
    starts: str = "fresh",
) -> int:
    """Measure and print; gives the exit status: 0 where every start was correct, 1 where one was not."""
    if platform not in ("process", "lambda"):
        raise UsageError(f"--platform must be process or lambda, not {platform!r}")
    if report is not None:
        output.make_room(report, as_json=as_json)
    with show.progress(f"measuring {os.path.basename(os.path.normpath(target))}") as tell:
        found = measured(
            target,
            os.environ,
            rounds_wanted=rounds,
            variants=variants,
            floor=floor,
            drop_caches=drop_caches,
            rie=find_rie(rie, os.environ) if platform == "lambda" else "",
            starts=[kind.strip() for kind in starts.split(",")],
            progress=tell,
        )
    if report is not None:
        output.write(report, reports.page([found]))
    if as_json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        show.report(found, aside=report == output.STDOUT)
    if report is not None:
        output.wrote(report)
    return 0 if all(row["correct"] and not row.get("floor_wrong") for row in found["rows"]) else 1
