"""`preheat check` and `preheat render` for Knative, Cloud Run and KServe, as the command line calls them."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, Literal

from .. import output
from ..errors import UsageError
from . import container_tables, fit
from .facts import Facts, read
from .showing import show_findings
from .written import write

if TYPE_CHECKING:
    from rich.console import Console

    from .container_spec import Options

Platform = Literal["knative", "cloudrun", "kserve"]
SAID = {"knative": "a Knative service", "cloudrun": "a Cloud Run service"}


def render(platform: Platform, target: str, options: Options, *, out: str, force: bool) -> int:
    """Write a manifest, or print it; gives the exit status. Raises UsageError."""
    try:
        from . import cloud_run, knative, kserve
    except ImportError as missing:
        raise _needs_yaml(missing) from missing
    text = {"knative": knative, "cloudrun": cloud_run, "kserve": kserve}[platform].render(
        _facts(target), options, container_tables.load()
    )
    if out == output.STDOUT:
        output.write(out, text)
        return 0
    for path in write({out: text}, force=force):
        output.wrote(path)
    return 0


def check(platform: Platform, target: str, options: Options, *, as_json: bool) -> int:
    """Check a target and print; gives the exit status: 0 it fits, 1 it does not. Raises UsageError."""
    try:
        from . import cloud_run, container_fit, knative
    except ImportError as missing:
        raise _needs_yaml(missing) from missing
    tables, facts = container_tables.load(), _facts(target)
    if platform == "knative":
        unit = knative.unit(facts, options, tables)
        found = container_fit.on_knative(unit, tables)
    else:
        unit = cloud_run.unit(facts, options, tables)
        found = container_fit.on_cloudrun(unit, tables)
    document = {
        "target": target,
        "artifact": {"name": facts.manifest.name, "version": facts.manifest.version},
        "platform": platform,
        "sizing": unit.size._asdict(),
        "fits": fit.worst(found) == 0,
        "findings": [finding._asdict() for finding in found],
        "assumed": tables.assumed._asdict(),
    }
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        from rich.console import Console

        _show(Console(), document)
    return fit.worst(found)


def _facts(target: str) -> Facts:
    return read(target, os.environ)


def _needs_yaml(missing: ImportError) -> UsageError:
    return UsageError(
        f"manifests need the package {missing.name}: pip install 'preheat[deploy]'", code="unsupported"
    )


def _show(console: Console, document: dict[str, Any]) -> None:
    artifact, size = document["artifact"], document["sizing"]
    console.print(
        f"{artifact['name']} {artifact['version'][:19]}… as {SAID[document['platform']]}: {size['cpu']} CPU, "
        f"{size['memory_mib']} MiB, {size['concurrency']} at once, {size['timeout_s']} s",
        highlight=False,
        soft_wrap=True,
    )
    show_findings(console, document["findings"])
