"""``python -m layers.audit``: whether anything that is locked has a known vulnerability, by pip-audit.

Exit status: 0; 1 where one is known; 2 where the service did not tell, and so nothing is known.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .contents import LayerError
from .environments import CONSTRAINTS
from .locks import ROOT
from .sbom import locks

PIP_AUDIT = ROOT / ".venv-audit" / "bin" / "pip-audit"


class Known(NamedTuple):
    """A vulnerability of a locked package."""

    package: str
    version: str
    id: str
    fixed: str
    """Versions, with commas; empty where there is none."""


def audit(lock: Path, tool: Path, service: str) -> list[Known]:
    """What is known of a lock's packages, those for the Python and platform that runs this. Raises LayerError
    where the service does not tell, for any of them."""
    asked = ["--strict", "--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(
        [str(tool), *asked, "--vulnerability-service", service, "--requirement", str(lock)],
        capture_output=True,
        text=True,
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
        return [
            Known(one["name"], one["version"], found["id"], ", ".join(found["fix_versions"]))
            for one in packages
            for found in one["vulns"]
        ]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise LayerError(
            f"{lock.name} was not audited: the service {service!r} did not tell of all its packages: {last}. "
            "See whether it can be reached from here; --service names another (pypi, osv)"
        ) from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m layers.audit", description=__doc__)
    parser.add_argument("--service", default="pypi", choices=("pypi", "osv"))
    parser.add_argument(
        "--tool", type=Path, default=PIP_AUDIT, help="pip-audit, in an environment of its own"
    )
    options = parser.parse_args(arguments)
    known: dict[Known, list[str]] = {}
    named = {**locks(), "torch": CONSTRAINTS}
    try:
        for name, lock in named.items():
            for found in audit(lock, options.tool, options.service):
                known.setdefault(found, []).append(name)
    except (LayerError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for found, where in sorted(known.items()):
        mended = f"mended in {found.fixed}" if found.fixed else "not mended yet"
        sys.stdout.write(f"{found.package} {found.version}: {found.id}, {mended}; in {', '.join(where)}\n")
    sys.stdout.write(f"{len(known)} known vulnerabilities in {len(named)} locks\n")
    return 1 if known else 0


if __name__ == "__main__":
    raise SystemExit(main())
