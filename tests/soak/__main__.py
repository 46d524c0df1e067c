"""``python -m tests.soak``: `preheat up` under mixed load while its processes are killed at random.

Exit status 1 where something leaked, a request was stuck, or the outcome of a request with a key was lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from .run import Soak, soak, told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--start", default="fork", choices=("fresh", "fork"), help="how instances start")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("out/soak.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="preheat-soak-") as folder:
        report = soak(Soak(options.seconds, options.start, options.seed), Path(folder))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(report, indent=1) + "\n")
    print(told(report))
    print(f"  report        {options.report}")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
