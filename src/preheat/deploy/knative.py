"""`preheat render knative`: a Knative Service from an artifact's measured facts.

The repository's own ``knative/service.yaml`` and ``service-gpu.yaml`` are written by this module.
"""

from __future__ import annotations

from . import container_spec, knative_rules
from .cloudformation import dump
from .container_size import size
from .container_spec import MODEL, Options, Section, Unit
from .container_tables import Tables
from .facts import Facts
from .knative_fields import Needed

HEADER = """\
# Written by `preheat render knative`: memory, concurrency and time come from what the build measured.
# `preheat deploy knative FILE` rolls it out; `kubectl apply` takes it as well.
"""


def unit(facts: Facts, options: Options, tables: Tables) -> Unit:
    """Sizes for Knative. Raises UsageError."""
    container_spec.check(options)
    found = size(
        facts,
        facts.architecture,
        tables.assumed,
        cpu=options.cpu,
        timeout_s=tables.knative.timeout_s,
        concurrency=tables.knative.concurrency,
        held_back_s=tables.knative.drain_s,
        gpu=options.gpu > 0,
        wait_ms=options.wait_ms,
    )
    return container_spec.sized(facts, options, found)


def service(unit: Unit) -> Section:
    """The Service. Raises UsageError."""
    options, found = unit.options, unit.size
    meta: Section = {"name": unit.name}
    if options.namespace:
        meta["namespace"] = options.namespace
    meta["annotations"] = container_spec.judged_by(unit)
    spec: Section = {"containerConcurrency": found.concurrency, "timeoutSeconds": found.timeout_s}
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.runtime_class:
        spec["runtimeClassName"] = options.runtime_class
    if options.node_selector:
        spec["nodeSelector"] = container_spec.pairs(options.node_selector, "--node-selector")
    spec["containers"] = [_container(unit)]
    spec["volumes"] = [container_spec.tmp_volume(found)]
    if options.pvc:
        claim = {"claimName": options.pvc.partition("/")[0], "readOnly": True}
        spec["volumes"].append({"name": "model", "persistentVolumeClaim": claim})
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"template": {"metadata": {"annotations": _scale(unit)}, "spec": spec}},
    }


def render(facts: Facts, options: Options, tables: Tables) -> str:
    """The Service as YAML. Raises UsageError for what cannot be, and where nothing was measured."""
    document = service(unit(facts, options, tables))
    lines = [HEADER]
    for found in knative_rules.check(document, tables.knative):
        if isinstance(found, Needed):
            lines.append(f"# Needs {found.flag}: enabled in config-features ({found.path}).\n")
    return "".join(lines) + dump(document)


def _scale(unit: Unit) -> dict[str, str]:
    options = unit.options
    return {
        f"{knative_rules.AUTOSCALING}{name}": value
        for name, value in (
            ("min-scale", str(options.min_scale)),
            ("max-scale", str(options.max_scale)),
            ("target", str(options.target or unit.size.concurrency)),
            ("initial-scale", str(options.initial_scale)),
            ("scale-down-delay", f"{options.scale_down_delay_s}s"),
            ("scale-to-zero-pod-retention-period", f"{options.retention_s}s"),
        )
    }


def _container(unit: Unit) -> Section:
    claim = unit.options.pvc
    if not claim:
        return container_spec.container(unit)
    path = claim.partition("/")[2]
    part = {"subPath": path} if path else {}
    return container_spec.container(unit, [{"name": "model", "mountPath": MODEL, "readOnly": True, **part}])
