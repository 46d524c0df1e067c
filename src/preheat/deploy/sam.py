"""`preheat render sam`: a SAM template from an artifact's measured facts.

The repository's own ``sam/template.yaml`` and ``sam/image.yaml`` are written by this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import UsageError
from . import sam_function, sam_stack
from .aws_tables import Tables
from .cloudformation import dump
from .facts import ARM64, X86_64, Facts
from .fit import PACKAGES
from .sizing import MIB, size

FILES = {"zip": "template.yaml", "image": "image.yaml"}

EXTRAS = {
    "text_embedding": "text",
    "text_classification": "text",
    "image_classification": "image",
}
"""What a task's libraries are called among the package's extras."""

HEADER = """\
# Written by `preheat render sam`: memory, time and storage come from what the build measured. `sam build`,
# `sam deploy --guided`; docs/lambda.md says how a model gets into the bucket.
"""


class Unit(NamedTuple):
    """One function of a template."""

    name: str
    """The model's name, which is the metrics' ``service`` too."""
    code: str
    """The folder of its ``app.py``, relative to the template; empty for one that needs none of its own."""
    store: str
    """Where its artifact is fetched from: empty for its package, ``stack`` for the template's own bucket,
    else the root of an ``s3://`` store."""
    selector: str
    """The version or alias that is opened there, unless the deployment names another."""
    extras: str
    """What its libraries are called among the package's extras, with commas between them."""
    memory_mb: int
    timeout_s: int
    ephemeral_mb: int
    threads: int
    cold_start_ms: int
    """p99 of cold starts above which an alarm goes off."""

    @property
    def logical(self) -> str:
        """The beginning of its resources' names."""
        return "".join(part[:1].upper() + part[1:] for part in re.split("[^A-Za-z0-9]+", self.name))


class Template(NamedTuple):
    package: str
    text: str
    makefile: str
    """What `sam build` runs; empty where it runs nothing."""


def render(
    functions: Sequence[Facts],
    tables: Tables,
    *,
    folder: str,
    package: str,
    python: str,
    architecture: str | None,
    layers: str,
) -> Template:
    """A template for functions. ``folder``: where it will lie; ``layers``: the folder of `make layers`.

    Raises UsageError for a value that Lambda does not know, and for an artifact that was never measured.
    """
    if package not in PACKAGES:
        raise UsageError(f"--package must be one of {', '.join(PACKAGES)}, not {package!r}")
    if python not in tables.snapstart.python:
        raise UsageError(f"--python must be one of {', '.join(tables.snapstart.python)}, not {python!r}")
    if architecture is None:
        made = {facts.architecture for facts in functions}
        architecture = ARM64 if made == {ARM64} else X86_64
    units = [_unit(facts, architecture, tables, folder, package) for facts in functions]
    context, dockerfile = os.path.relpath(".", folder), os.path.relpath(f"{folder}/Dockerfile", ".")
    return template(
        units,
        package=package,
        python=python,
        architecture=architecture,
        layers=os.path.relpath(layers, folder),
        context=context,
        dockerfile=dockerfile,
    )


def template(
    units: Sequence[Unit],
    *,
    package: str,
    python: str,
    architecture: str,
    layers: str,
    context: str,
    dockerfile: str,
) -> Template:
    """A template of functions whose sizes are known. Paths are relative to the template, ``dockerfile`` to
    ``context``. Raises UsageError where two functions would bear one name."""
    names = [unit.logical for unit in units]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two functions would be called {twice[0]}: build one of them with another --name")
    parameters, conditions, resources, outputs = sam_stack.shared(
        package, python, architecture, layers, bucket=any(unit.store == "stack" for unit in units)
    )
    for unit in units:
        parameters |= sam_function.parameters(unit)
        conditions |= sam_function.conditions(unit)
        resources |= sam_function.resources(unit, package, python, context, dockerfile)
        outputs |= sam_function.outputs(unit)
    document: dict[str, Any] = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Transform": "AWS::Serverless-2016-10-31",
        "Description": f"Preheat on AWS Lambda ({package}): {', '.join(unit.name for unit in units)}",
        "Metadata": sam_stack.interface(parameters),
        "Parameters": parameters,
        "Conditions": conditions,
        "Resources": resources,
        "Outputs": outputs,
    }
    made = _makefile(units) if package == "zip" else ""
    return Template(package, HEADER + dump(document), made)


def _unit(facts: Facts, architecture: str, tables: Tables, folder: str, package: str) -> Unit:
    layers = tables.assumed.runtime_layer_mb + tables.assumed.preheat_layer_mb
    fits = package == "image" or facts.bytes / MIB + layers <= tables.limits.unzipped_mb
    store, selector = "", ""
    if facts.stored:
        root, _, last = facts.location.rpartition("/")
        store, selector = root, last.rpartition("@")[2]
        if not store.startswith("s3://"):
            raise UsageError(f"{facts.location}: a Lambda function's artifact lies in S3, s3://bucket/prefix")
    elif not (facts.home and fits):
        store = "stack"
    if package == "image" and not facts.home:
        raise UsageError(f"{facts.location}: an image is made from a function's app.py; name that")
    sized = size(facts, architecture, tables, stored=bool(store))
    manifest = facts.manifest
    return Unit(
        name=manifest.name,
        code=os.path.relpath(facts.home, folder) if facts.home else "",
        store=store,
        selector=selector,
        extras=",".join(filter(None, (EXTRAS.get(manifest.task, ""), "store", "lambda"))),
        memory_mb=min(sized.memory_mb, tables.limits.memory_mb[1]),
        timeout_s=sized.timeout_s,
        ephemeral_mb=sized.ephemeral_mb,
        threads=sized.threads,
        cold_start_ms=max(-(-int(2 * sized.init_ms) // 500) * 500, 1000),
    )


def _makefile(units: Sequence[Unit]) -> str:
    lines = [
        "# What `sam build` runs for each function (samconfig.toml has it build in place): its own code, and",
        "# the artifact where that fits beside the layers. Libraries come from the layers.",
    ]
    for unit in units:
        if not unit.code:
            continue
        target = f"build-{unit.logical}Function"
        lines += [
            "",
            f".PHONY: {target}",
            f"{target}:",
            f'\t@test -f "{unit.code}/app.py" || {{ echo "run sam build --build-in-source" >&2; exit 1; }}',
            f'\tcp "{unit.code}"/*.py "$(ARTIFACTS_DIR)/"',
        ]
        if not unit.store:
            lines.append(f'\tcp -R "{unit.code}/artifact" "$(ARTIFACTS_DIR)/"')
    return "\n".join(lines) + "\n"
