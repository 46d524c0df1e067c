"""`preheat render cloudrun`: a Cloud Run service from an artifact's measured facts.

Cloud Run's fields: https://cloud.google.com/run/docs/reference/yaml/v1. The repository's own
``knative/cloudrun.yaml`` and ``cloudrun-gpu.yaml`` are written by this module.
"""

from __future__ import annotations

import math

from ..errors import UsageError
from . import container_spec
from .cloudformation import dump
from .container_size import size
from .container_spec import PORT, TMP_MOUNT, Options, Section, Unit
from .container_tables import CloudRun, Tables
from .facts import Facts

HEADER = """\
# Written by `preheat render cloudrun`: memory, concurrency and time come from what the build measured.
# `gcloud run services replace FILE` deploys it.
"""
LATEST = "latest"
"""Which version of a secret is read, unless another is named."""


def unit(facts: Facts, options: Options, tables: Tables) -> Unit:
    """Sizes for Cloud Run. Raises UsageError for CPUs and GPUs that it does not have."""
    container_spec.check(options)
    limits = tables.cloudrun
    cpu = options.cpu
    if options.gpu:
        if options.gpu != limits.gpu.units:
            raise UsageError(f"--gpu must be {limits.gpu.units} on Cloud Run, not {options.gpu}")
        cpu = max(cpu, limits.gpu.cpu)
    if cpu not in limits.cpu:
        raise UsageError(f"--cpu must be one of {', '.join(map(str, limits.cpu))} on Cloud Run, not {cpu}")
    found = size(
        facts,
        facts.architecture,
        tables.assumed,
        cpu=cpu,
        timeout_s=limits.timeout_s,
        concurrency=limits.concurrency,
        tmp_is_memory=True,
        gpu=options.gpu > 0,
        wait_ms=options.wait_ms,
    )
    needed = max(found.memory_mib, limits.least_memory(cpu, gpu=bool(options.gpu)))
    return container_spec.sized(facts, options, found._replace(memory_mib=needed))


def startup_failures(unit: Unit, limits: CloudRun) -> int:
    """How often the startup probe may fail, a second apart: four times the expected start, at least 30."""
    return min(max(math.ceil(4 * unit.size.init_ms / 1e3), 30), limits.startup_s)


def service(unit: Unit, limits: CloudRun) -> Section:
    """The service. Raises UsageError for options that Cloud Run has nothing for."""
    options, found = unit.options, unit.size
    for flag, value in (
        ("--store-secret", options.store_secret),
        ("--node-selector", options.node_selector),
        ("--pvc", options.pvc),
        ("--runtime-class", options.runtime_class),
    ):
        if value:
            raise UsageError(f"{flag} is nothing of Cloud Run's; --service-account gives access to a store")
    meta: Section = {"name": unit.name, "annotations": container_spec.judged_by(unit)}
    if options.namespace:
        meta["namespace"] = options.namespace
    notes = {
        "autoscaling.knative.dev/minScale": str(options.min_scale),
        "autoscaling.knative.dev/maxScale": str(options.max_scale or 100),
        "run.googleapis.com/execution-environment": "gen2",
        "run.googleapis.com/startup-cpu-boost": "true",
        # CPU between requests is paid for with a GPU only, where Cloud Run insists on it.
        "run.googleapis.com/cpu-throttling": "false" if options.gpu else "true",
    }
    spec: Section = {"containerConcurrency": found.concurrency, "timeoutSeconds": found.timeout_s}
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.gpu:
        notes["run.googleapis.com/gpu-zonal-redundancy-disabled"] = "true"
        spec["nodeSelector"] = {"run.googleapis.com/accelerator": limits.gpu.accelerator}
    spec["containers"] = [
        {
            "image": options.image,
            "ports": [{"name": "http1", "containerPort": PORT}],
            "env": container_spec.environment(unit, LATEST),
            "resources": {"limits": container_spec.amounts(unit)},
            "startupProbe": _startup(unit, limits),
            "livenessProbe": container_spec.live(),
            "volumeMounts": [TMP_MOUNT],
        }
    ]
    spec["volumes"] = [container_spec.tmp_volume(found, medium="Memory")]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"template": {"metadata": {"annotations": notes}, "spec": spec}},
    }


def render(facts: Facts, options: Options, tables: Tables) -> str:
    """The service as YAML. Raises UsageError for what cannot be, and where nothing was measured."""
    return HEADER + dump(service(unit(facts, options, tables), tables.cloudrun))


def _startup(unit: Unit, limits: CloudRun) -> Section:
    """A second is the shortest period there is. A TCP probe lets requests in as soon as the socket is open:
    they wait for the model in the server's queue, and a start that fails is seen late."""
    numbers = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": startup_failures(unit, limits)}
    if unit.options.tcp_probe:
        return {"tcpSocket": {"port": PORT}, **numbers}
    return container_spec.ready(**numbers)
