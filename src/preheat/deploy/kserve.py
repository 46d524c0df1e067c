"""`preheat render kserve`: a ServingRuntime and an InferenceService; the server speaks its protocol.

Fields: ``pkg/apis/serving/v1alpha1/servingruntime_types.go`` and ``v1beta1/predictor.go`` of kserve/kserve.
The repository's own ``knative/kserve.yaml`` is written by this module.
"""

from __future__ import annotations

from . import container_spec, knative
from .cloudformation import dump
from .container_spec import PORT, Options, Section, Unit
from .container_tables import Tables
from .facts import Facts

HEADER = """\
# Written by `preheat render kserve`: memory, concurrency and time come from what the build measured.
# `kubectl apply -f FILE` deploys it.
"""
FORMAT = "preheat"
CONTAINER = "kserve-container"
"""The name by which KServe finds the container (``pkg/constants/constants.go``)."""
KNATIVE_MODE = {"serving.kserve.io/deploymentMode": "Knative"}
"""Without it the default is a plain Deployment, which knows no zero and no concurrency (constants.go)."""


def documents(unit: Unit) -> list[Section]:
    """The ServingRuntime and the InferenceService. Raises UsageError."""
    return [_runtime(unit), _inference_service(unit)]


def render(facts: Facts, options: Options, tables: Tables) -> str:
    """Both as YAML. Raises UsageError for what cannot be, and where nothing was measured."""
    found = documents(knative.unit(facts, options, tables))
    return HEADER + "---\n".join(dump(document) for document in found)


def _meta(unit: Unit, name: str) -> Section:
    space = {"namespace": unit.options.namespace} if unit.options.namespace else {}
    return {"name": name, **space}


def _runtime(unit: Unit) -> Section:
    container = {"name": CONTAINER, **container_spec.container(unit, protocol="TCP")}
    spec: Section = {
        "annotations": {"prometheus.kserve.io/port": str(PORT), "prometheus.kserve.io/path": "/metrics"},
        "supportedModelFormats": [{"name": FORMAT, "version": "1", "autoSelect": True, "priority": 1}],
        "protocolVersions": ["v2"],
        "containers": [container],
        "volumes": [container_spec.tmp_volume(unit.size)],
    }
    if unit.options.node_selector:
        spec["nodeSelector"] = container_spec.pairs(unit.options.node_selector, "--node-selector")
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": _meta(unit, f"preheat-{unit.name}"),
        "spec": spec,
    }


def _inference_service(unit: Unit) -> Section:
    options = unit.options
    model: Section = {
        "modelFormat": {"name": FORMAT, "version": "1"},
        "protocolVersion": "v2",
        "runtime": f"preheat-{unit.name}",
    }
    if options.pvc:
        model["storageUri"] = f"pvc://{options.pvc}"  # mounted where PREHEAT_ARTIFACT names
    predictor: Section = {
        "minReplicas": options.min_scale,
        "maxReplicas": options.max_scale,
        "containerConcurrency": unit.size.concurrency,
        "timeout": unit.size.timeout_s,
        "scaleMetric": "concurrency",
        "scaleTarget": options.target or unit.size.concurrency,
    }
    if options.service_account:
        predictor["serviceAccountName"] = options.service_account
    if options.runtime_class:
        predictor["runtimeClassName"] = options.runtime_class
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**_meta(unit, unit.name), "annotations": KNATIVE_MODE},
        "spec": {"predictor": {**predictor, "model": model}},
    }
