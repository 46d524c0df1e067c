"""`preheat check lambda`: what of an artifact will not fit into a Lambda function, and what to change."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..choice import rank
from ..errors import UsageError
from .aws_tables import Tables
from .facts import Facts
from .sizing import MIB, Sizing, needed_mb

PACKAGES = ("zip", "image")
UNPUBLISHED = "$LATEST"


class Finding(NamedTuple):
    what: str
    """A stable name for programs."""
    verdict: Literal["fits", "beware", "does not fit"]
    said: str
    change: str = ""
    """What to do about it."""


class Plan(NamedTuple):
    """How the function is to be deployed."""

    architecture: str
    package: str = "zip"
    python: str = "3.12"
    memory_mb: int = 0
    timeout_s: int = 0
    ephemeral_mb: int = 512
    snapstart: bool = True
    provisioned: int = 0
    efs: bool = False
    qualifier: str = "live"
    layers: tuple[str, ...] = ()
    """Zip files of layers; none: the sizes that the table assumes."""


def check_plan(plan: Plan, tables: Tables) -> None:
    """Raises UsageError for what Lambda itself knows no such value of."""
    if plan.package not in PACKAGES:
        raise UsageError(f"--package must be one of {', '.join(PACKAGES)}, not {plan.package!r}")
    limits = tables.limits
    ranges = (
        ("--memory", plan.memory_mb, limits.memory_mb, "MB"),
        ("--ephemeral-storage", plan.ephemeral_mb, limits.ephemeral_mb, "MB"),
        ("--timeout", plan.timeout_s, limits.timeout_s, "seconds"),
    )
    for name, value, (low, high), unit in ranges:
        if not low <= value <= high:
            raise UsageError(f"{name} must lie between {low} and {high} {unit}, not {value}")
    if plan.provisioned < 0:
        raise UsageError("--provisioned must not be negative")
    parts = plan.python.split(".")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--python takes a release such as 3.12, not {plan.python!r}")


def findings(facts: Facts, plan: Plan, sizing: Sizing, tables: Tables) -> list[Finding]:
    """Everything that was looked at, in the order in which a deployment would meet it."""
    return [
        _variant(facts, plan, sizing),
        *_isa(facts, sizing),
        _package(facts, plan, tables),
        *_ephemeral(facts, plan, sizing, tables),
        _memory(plan, sizing, tables),
        _init(plan, sizing, tables),
        _timeout(plan, sizing),
        *(_snapstart(facts, plan, tables) if plan.snapstart else ()),
        *_store(facts),
    ]


def _variant(facts: Facts, plan: Plan, sizing: Sizing) -> Finding:
    fits, others = facts.fitting(plan.architecture)
    best = next(v for v in rank(facts.manifest, facts.manifest.objective) if v in (*fits, *others))
    if best not in others:
        return Finding("architecture", "fits", f"the variant {sizing.variant} is for {plan.architecture}")
    return Finding(
        "architecture",
        "does not fit",
        f"its variants {', '.join(v.name for v in others)} were made for {best.requires.arch}, the function "
        f"is {plan.architecture}: it would run {sizing.variant} alone",
        f"deploy on {facts.architecture}, or build the artifact on {plan.architecture}",
    )


def _isa(facts: Facts, sizing: Sizing) -> Iterator[Finding]:
    variant = facts.manifest.variant(sizing.variant)
    if variant is not None and variant.requires.isa:
        yield Finding(
            "isa",
            "beware",
            f"the weights of {variant.name} are laid out for a CPU with {', '.join(variant.requires.isa)}, "
            "and Lambda promises no CPU: on another, the next variant runs",
            "look at the variant that /coldstart reports; `preheat build --only mapped` leaves it out",
        )


def _package(facts: Facts, plan: Plan, tables: Tables) -> Finding:
    limit = tables.limits.unzipped_mb if plan.package == "zip" else tables.limits.image_mb
    layers = _layers_mb(plan, tables)
    artifact = 0.0 if facts.stored else facts.bytes / MIB
    total = layers + artifact
    said = (
        f"{total:.0f} MB of {limit} MB unpacked: "
        f"{'layers' if plan.package == 'zip' else 'libraries'} {layers:.0f}"
        f"{'' if plan.layers else ' (assumed)'}, artifact {artifact:.0f}"
    )
    if total <= limit:
        return Finding("package", "fits", said)
    biggest = max(facts.manifest.variants, key=facts.opened)
    return Finding(
        "package",
        "does not fit",
        said,
        "publish it and name it by a store's reference, of which one variant alone is fetched "
        f"(at most {facts.opened(biggest) / MIB:.0f} MB), or deploy a container image"
        if plan.package == "zip"
        else "build fewer variants with `preheat build --only`",
    )


def _layers_mb(plan: Plan, tables: Tables) -> float:
    if not plan.layers:
        return tables.assumed.runtime_layer_mb + tables.assumed.preheat_layer_mb
    return sum(_unzipped(path) for path in plan.layers) / MIB


def _unzipped(path: str) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UsageError(f"{path} is not a zip file: `make layers` writes them") from None


def _ephemeral(facts: Facts, plan: Plan, sizing: Sizing, tables: Tables) -> Iterator[Finding]:
    if not facts.stored:
        return
    said = f"fetching the artifact takes up to {sizing.ephemeral_mb} MB of {plan.ephemeral_mb} MB in /tmp"
    if sizing.ephemeral_mb <= plan.ephemeral_mb:
        yield Finding("ephemeral", "fits", said)
        return
    most = tables.snapstart.ephemeral_mb
    change = f"set --ephemeral-storage {sizing.ephemeral_mb}"
    if plan.snapstart and sizing.ephemeral_mb > most:
        change = (
            f"SnapStart takes at most {most} MB: deploy a container image with the artifact in it, or build "
            "smaller variants (`preheat build --only`, `--quantize int8`)"
        )
    yield Finding("ephemeral", "does not fit", said, change)


def _memory(plan: Plan, sizing: Sizing, tables: Tables) -> Finding:
    needed = needed_mb(sizing.rss_mib, tables.assumed.python_mib)
    said = (
        f"{plan.memory_mb} MB, {needed} MB needed: a measured peak of {sizing.rss_mib:.0f} MiB and "
        f"{tables.assumed.python_mib:.0f} (assumed) beside it"
    )
    if needed > plan.memory_mb:
        change = f"set --memory {needed}"
        if needed > tables.limits.memory_mb[1]:
            change = "no function has that much: a smaller model, or a container service"
        return Finding("memory", "does not fit", said, change)
    if plan.memory_mb < tables.limits.memory_per_cpu_mb:
        least = tables.limits.memory_per_cpu_mb
        return Finding(
            "memory",
            "beware",
            f"{said}; below {least} MB the function has {plan.memory_mb / least:.0%} of a vCPU",
            f"set --memory {least} for a whole one: shorter runs cost the same",
        )
    return Finding("memory", "fits", said)


def _init(plan: Plan, sizing: Sizing, tables: Tables) -> Finding:
    longer = plan.snapstart or plan.provisioned > 0
    limit = max(tables.limits.snapstart_init_s, plan.timeout_s) if longer else tables.limits.init_s
    seconds = sizing.init_ms / 1e3
    said = (
        f"{seconds:.1f} s of {limit:.0f} s: "
        f"{'measured phases' if sizing.measured_init else 'imports assumed'}, "
        f"at {plan.memory_mb / tables.limits.memory_per_cpu_mb:.2g} vCPU"
    )
    if seconds > limit:
        return Finding(
            "init",
            "does not fit",
            said,
            "it would be started again inside the first invocation: put the artifact into the package "
            "or image, give it more memory, or use SnapStart, whose init may take longer",
        )
    if seconds > limit / 2:
        change = "measure it there: `preheat measure --json`, then --run with that file"
        return Finding("init", "beware", f"{said}; less than a factor of two is left", change)
    return Finding("init", "fits", said)


def _timeout(plan: Plan, sizing: Sizing) -> Finding:
    said = f"{plan.timeout_s} s; a cold start and its largest batch, twice over: {sizing.timeout_s} s"
    if plan.timeout_s >= sizing.timeout_s:
        return Finding("timeout", "fits", said)
    change = f"set --timeout {sizing.timeout_s}, or build with a smaller --limit batch"
    return Finding("timeout", "beware", said, change)


def _snapstart(facts: Facts, plan: Plan, tables: Tables) -> Iterator[Finding]:
    wrong: list[tuple[str, str]] = []
    known = tables.snapstart.python
    if plan.python not in known:
        wrong.append((f"not on Python {plan.python}", f"use Python {known[0]} or newer"))
    if plan.provisioned:
        wrong.append(
            ("not together with provisioned concurrency", "choose one; the costs below compare them")
        )
    if plan.efs:
        wrong.append(("not with EFS", "fetch the artifact from a store, or put it into the package"))
    if plan.ephemeral_mb > tables.snapstart.ephemeral_mb:
        most = tables.snapstart.ephemeral_mb
        wrong.append((f"not with more than {most} MB of /tmp", f"set --ephemeral-storage {most}"))
    if plan.qualifier == UNPUBLISHED:
        wrong.append(("on published versions only, never on $LATEST", "publish a version and name its alias"))
    for said, change in wrong:
        yield Finding("snapstart", "does not fit", f"SnapStart works {said}", change)
    if plan.package == "image":
        yield Finding(
            "snapstart",
            "beware",
            "SnapStart for container images depends on the base image and the region",
            "try it there first: sam/image.yaml leaves it off",
        )
    elif not wrong:
        yield Finding("snapstart", "fits", f"Python {plan.python}, published versions, 512 MB of /tmp")
    if facts.alias:
        yield Finding(
            "snapshot_alias",
            "beware",
            f"the alias {facts.alias!r} is read when a function version is published, and then no more",
            f"name the version: …@{facts.manifest.version}; publish a function version for each change",
        )


def _store(facts: Facts) -> Iterator[Finding]:
    if not facts.stored:
        return
    scheme = facts.location.partition("://")[0]
    named = f"the alias {facts.alias!r}" if facts.alias else "the version"
    if scheme == "file":
        yield Finding(
            "store",
            "does not fit",
            f"{facts.location} lies on this machine, where no function sees it",
            "publish it to s3://bucket/prefix/name, or deploy the folder",
        )
    elif scheme != "s3":
        yield Finding(
            "store",
            "beware",
            f"{scheme}:// is another cloud's: the function needs its credentials, and a start the way",
            "publish it to s3://bucket/prefix/name, for which `render sam` writes the policy",
        )
    else:
        yield Finding("store", "fits", f"{named} is there: {facts.manifest.version[:19]}…")


def worst(found: Sequence[Finding]) -> int:
    """The exit status: 1 where anything does not fit."""
    return int(any(finding.verdict == "does not fit" for finding in found))


def finite(value: float, name: str) -> float:
    """A figure of the command line. Raises UsageError for a negative one, NaN and infinities."""
    if not 0 <= value < math.inf:
        raise UsageError(f"{name} must be a number that is not negative, not {value}")
    return value
