"""`preheat check knative` and `check cloudrun`: what will not work there, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..providers import NVIDIA
from ..server import grace_s
from ..settings import Settings
from . import cloud_run, container_spec, knative, knative_rules
from .container_spec import Unit
from .container_tables import Tables
from .facts import X86_64
from .fit import Finding
from .knative_fields import Needed, Wrong
from .sizing import needed_mb


def on_knative(unit: Unit, tables: Tables) -> list[Finding]:
    """Everything that was looked at, in the order in which a deployment would meet it. Raises UsageError."""
    document = knative.service(unit)
    return [
        *_rules(knative_rules.check(document, tables.knative)),
        *_variants(unit),
        _memory(unit, tables, tmp_mib=0),
        _start(unit, "the first request waits as long"),
        _timeout(unit, tables),
        _concurrency(unit),
        *_sources(unit),
        *_ledger(unit),
    ]


def on_cloudrun(unit: Unit, tables: Tables) -> list[Finding]:
    """The same for Cloud Run. Raises UsageError."""
    cloud_run.service(unit, tables.cloudrun)
    return [
        *_cloudrun_limits(unit, tables),
        *_variants(unit),
        _memory(unit, tables, tmp_mib=unit.size.tmp_mib),
        _startup(unit, tables),
        _shutdown(unit, tables),
        _concurrency(unit),
        *_sources(unit),
        *_ledger(unit),
    ]


def _rules(found: Sequence[Wrong | Needed]) -> Iterator[Finding]:
    for item in found:
        if isinstance(item, Needed):
            yield Finding(
                "feature_flag",
                "beware",
                f"{item.path} is refused or dropped where the cluster does not have {item.flag}",
                f"set {item.flag}: enabled in config-features; `preheat deploy knative` looks",
            )
        else:
            moved = f"; {item.setting} moves the limit" if item.setting else ""
            yield Finding("field", "does not fit", f"{item.path} {item.said}", f"see {item.source}{moved}")
    if not found:
        yield Finding("fields", "fits", "every field is taken with the default feature flags")


def _variants(unit: Unit) -> Iterator[Finding]:
    facts = unit.facts
    fits, _ = facts.fitting(facts.architecture, gpu=True)
    providers = [v for v in fits if v.requires.provider in NVIDIA]
    if unit.options.gpu and not providers:
        yield Finding(
            "gpu",
            "does not fit",
            "no variant of the artifact uses a GPU: one would be paid for and never asked",
            "build the artifact with a GPU provider, or leave --gpu out",
        )
    elif providers and not unit.options.gpu:
        names = ", ".join(v.name for v in providers)
        yield Finding("gpu", "beware", f"without a GPU the variants {names} are not opened", "say --gpu 1")
    best = facts.manifest.variant(unit.size.variant)
    assert best is not None  # noqa: S101 - the sizes were reckoned for it
    if best.requires.isa:
        yield Finding(
            "isa",
            "beware",
            f"the weights of {best.name} are laid out for a CPU with {', '.join(best.requires.isa)}: on a "
            "node without, the next variant runs, and answers say x-preheat-degraded",
            "build on a node like those that will serve; `preheat build --only mapped` leaves it out",
        )
    else:
        yield Finding("isa", "fits", f"{best.name} runs on any {facts.architecture} CPU")


def _memory(unit: Unit, tables: Tables, *, tmp_mib: int) -> Finding:
    size = unit.size
    needed = needed_mb(size.rss_mib, tables.assumed.python_mib) + tmp_mib
    tmp = f", {tmp_mib} for /tmp, which is memory" if tmp_mib else ""
    said = (
        f"{size.memory_mib} MiB, {needed} MiB needed: a measured peak of {size.rss_mib:.0f} MiB, "
        f"{tables.assumed.python_mib:.0f} (assumed) beside it{tmp}"
    )
    if needed > size.memory_mib:
        return Finding("memory", "does not fit", said, f"set --memory {needed}")
    return Finding("memory", "fits", said)


def _start(unit: Unit, then: str) -> Finding:
    seconds = unit.size.init_ms / 1e3
    said = f"{seconds:.1f} s from process to first answer (imports assumed), at {unit.size.cpu} CPU; {then}"
    if seconds > 10:
        change = "put the artifact into the image, or keep an instance with --min-scale 1"
        return Finding("start", "beware", said, change)
    return Finding("start", "fits", said)


def _timeout(unit: Unit, tables: Tables) -> Finding:
    """The revision's timeout is its pods' grace time (``pkg/reconciler/revision/resources/deploy.go``)."""
    grace = grace_s(*_environment(unit))
    least = math.ceil(tables.knative.drain_s + grace)
    timeout = unit.size.timeout_s
    said = (
        f"{timeout} s; it is the grace time too, of which queue-proxy takes {tables.knative.drain_s} s "
        f"before the server hears SIGTERM, and the server up to {grace:g} s"
    )
    if timeout < least:
        change = f"set --timeout {least}: else it may be killed while it drains"
        return Finding("timeout", "beware", said, change)
    return Finding("timeout", "fits", said)


def _concurrency(unit: Unit) -> Finding:
    size = unit.size
    waited = size.concurrency * size.request_ms
    said = (
        f"{size.concurrency} at once; the last of them waits about {waited:.0f} ms "
        f"({size.request_ms:.1f} ms each)"
    )
    if waited > 2 * max(unit.options.wait_ms, size.cpu * size.request_ms):
        change = f"set --concurrency {max(int(unit.options.wait_ms / max(size.request_ms, 0.1)), size.cpu)}"
        return Finding("concurrency", "beware", said, change)
    return Finding("concurrency", "fits", said)


def _sources(unit: Unit) -> Iterator[Finding]:
    facts, options = unit.facts, unit.options
    if options.pvc:
        yield Finding("artifact", "fits", f"read from the volume claim {options.pvc}")
    elif not facts.stored:
        yield Finding("artifact", "fits", "baked into the image: PREHEAT_ARTIFACT is the image's own")
    elif facts.location.startswith("file:"):
        yield Finding(
            "artifact",
            "does not fit",
            f"{facts.location} lies on this machine, where no instance sees it",
            "publish it to a bucket, put it into the image, or name a --pvc",
        )
    else:
        mib = unit.size.tmp_mib
        yield Finding("artifact", "fits", f"fetched at each start, {mib} MiB of /tmp at most")
        if not (options.service_account or options.store_secret):
            yield Finding(
                "store_access",
                "beware",
                f"nothing here gives access to {facts.location.partition('@')[0]}",
                "name a --service-account with workload identity, or a --store-secret with the variables",
            )
    if facts.alias and not options.pvc:
        yield Finding(
            "alias",
            "beware",
            f"each start reads the alias {facts.alias!r} anew: a revision would serve two models after a "
            "promotion, and a rollback would change nothing",
            f"name the version: …@{facts.manifest.version}",
        )


def _ledger(unit: Unit) -> Iterator[Finding]:
    if unit.options.ledger_secret:
        yield Finding("ledger", "fits", f"from the secret {unit.options.ledger_secret.partition('/')[0]}")
        return
    settings, environ = _environment(unit)
    url = environ.get("PREHEAT_LEDGER", "")
    if set(settings.idempotency_modes().values()) == {"off"}:
        yield Finding("ledger", "fits", "no keys are taken, so none are recorded")
    elif url and not url.startswith("sqlite:"):
        yield Finding("ledger", "fits", url)
    else:
        yield Finding(
            "ledger",
            "beware",
            "records of keyed requests lie in each instance's /tmp: a retry that meets another runs again",
            "name a shared one by --ledger-secret or --ledger, or set --env PREHEAT_IDEMPOTENCY=off",
        )


def _environment(unit: Unit) -> tuple[Settings, Mapping[str, str]]:
    """The container's settings and variables, as far as no secret holds them."""
    listed = container_spec.environment(unit, container_spec.SECRET_KEY)
    environ = {entry["name"]: str(entry["value"]) for entry in listed if "value" in entry}
    return Settings.from_environ(environ), environ


def _cloudrun_limits(unit: Unit, tables: Tables) -> Iterator[Finding]:
    limits, size = tables.cloudrun, unit.size
    wrong: list[tuple[str, str]] = []
    if unit.facts.architecture != X86_64:
        wrong.append((f"its variants were made for {unit.facts.architecture}", "build them on x86_64"))
    for flag, value, (low, high) in (
        ("--timeout", size.timeout_s, limits.timeout_s),
        ("--concurrency", size.concurrency, limits.concurrency),
    ):
        if not low <= value <= high:
            wrong.append((f"{flag} is {value}", f"set it between {low} and {high}"))
    least = limits.least_memory(size.cpu, gpu=bool(unit.options.gpu))
    if not least <= size.memory_mib <= limits.memory_mb[1]:
        has = f"{size.cpu} CPUs{' and a GPU' if unit.options.gpu else ''}"
        wrong.append((f"{size.memory_mib} MiB with {has}", f"set --memory {least} to {limits.memory_mb[1]}"))
    for said, change in wrong:
        yield Finding("limits", "does not fit", f"Cloud Run does not take it: {said}", change)
    if not wrong:
        yield Finding("limits", "fits", f"{size.cpu} CPU, {size.memory_mib} MiB, {size.timeout_s} s")


def _startup(unit: Unit, tables: Tables) -> Finding:
    allowed = cloud_run.startup_failures(unit, tables.cloudrun)
    if unit.size.init_ms / 1e3 > allowed:
        return Finding(
            "start",
            "does not fit",
            f"the start takes {unit.size.init_ms / 1e3:.0f} s, the startup probe ends after {allowed} s",
            "put the artifact into the image, or give it more --cpu",
        )
    probe = "TCP" if unit.options.tcp_probe else "HTTP, once a second: up to a second is added to a start"
    return _start(unit, f"startup probe: {probe}")


def _shutdown(unit: Unit, tables: Tables) -> Finding:
    """The platform is told by its names, as the server itself tells it."""
    settings, environ = _environment(unit)
    grace, allowed = grace_s(settings, {**environ, "K_SERVICE": unit.name}), tables.cloudrun.shutdown_s
    said = f"Cloud Run ends an instance {allowed} s after SIGTERM, and the server takes up to {grace:g} s"
    if grace >= allowed:
        change = "leave PREHEAT_GRACE out, or set it to 8: what it still answers then would be cut off"
        return Finding("shutdown", "beware", said, change)
    return Finding("shutdown", "fits", said)
