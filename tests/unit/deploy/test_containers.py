"""Rendered services: sizes from measurements, options, and the published schemas of Kubernetes."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from preheat.deploy import cloud_run, container_tables, knative, kserve
from preheat.deploy.container_spec import Options
from preheat.deploy.facts import Facts
from preheat.errors import SettingsError, UsageError

from ...pod_schema import held_against_the_schema
from .artifacts import facts

TABLES = container_tables.load()


def knative_service(found: Facts | None = None, **options: Any) -> Any:
    return yaml.safe_load(knative.render(found or facts(), Options("r/x:1", **options), TABLES))


def cloud_run_service(found: Facts | None = None, **options: Any) -> Any:
    return yaml.safe_load(cloud_run.render(found or facts(), Options("r/x:1", **options), TABLES))


def kserve_pair(**options: Any) -> list[Any]:
    return list(yaml.safe_load_all(kserve.render(facts(), Options("r/x:1", **options), TABLES)))


def pod(document: Any) -> Any:
    return document["spec"]["template"]["spec"]


def container(document: Any) -> Any:
    (only,) = pod(document)["containers"]
    return only


def env(document: Any) -> dict[str, Any]:
    return {e["name"]: e.get("value", e.get("valueFrom")) for e in container(document)["env"]}


FULL: dict[str, Any] = {
    "gpu": 1,
    "service_account": "a",
    "ledger_secret": "l/k",
    "store_secret": "s",
    "node_selector": ("a=b",),
    "pvc": "models/embed",
    "runtime_class": "nvidia",
    "namespace": "n",
    "env": ("PREHEAT_VERIFY=always", "OTHER=1"),
}


@pytest.mark.parametrize("options", [{}, FULL])
def test_knative_is_a_pod_by_the_published_schema(options: dict[str, Any]) -> None:
    document = knative_service(**options)
    held_against_the_schema(document["spec"]["template"]["metadata"], pod(document))


@pytest.mark.parametrize("options", [{}, {"gpu": 1, "service_account": "a", "ledger_secret": "l"}])
def test_cloud_run_is_a_pod_by_the_published_schema(options: dict[str, Any]) -> None:
    document = cloud_run_service(**options)
    held_against_the_schema(document["spec"]["template"]["metadata"], pod(document))


def test_kserve_is_a_pod_by_the_published_schema() -> None:
    runtime, _ = kserve_pair(gpu=1, node_selector=("a=b",), store_secret="s", ledger_secret="l")
    spec = runtime["spec"]
    held_against_the_schema(
        {"annotations": spec["annotations"]},
        {key: spec[key] for key in ("containers", "volumes", "nodeSelector")},
    )


def test_the_schema_refuses_what_is_no_field() -> None:
    document = knative_service()
    container(document)["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        held_against_the_schema({}, pod(document))


def test_sizes_come_from_the_measurements() -> None:
    # 300 MiB is portable's peak, which has to fit too; 110 beside it; 15 % more; in steps of 64.
    document = knative_service()
    assert container(document)["resources"] == {
        "requests": {"cpu": "1", "memory": "512Mi"},
        "limits": {"memory": "512Mi"},
    }
    # 4 ms on two threads are 8 on one; 100 ms hold twelve of them.
    assert pod(document)["containerConcurrency"] == 12
    assert pod(knative_service(cpu=2))["containerConcurrency"] == 25
    assert pod(knative_service(wait_ms=8))["containerConcurrency"] == 1
    assert pod(knative_service(wait_ms=1e9))["containerConcurrency"] == 129
    assert pod(document)["timeoutSeconds"] == 60
    assert env(document)["PREHEAT_TIMEOUT"] == "59"


def test_what_is_asked_for_outranks_the_measurements() -> None:
    document = knative_service(memory_mb=1000, concurrency=7, timeout_s=90, cpu=3)
    assert container(document)["resources"]["limits"]["memory"] == "1000Mi"
    assert (pod(document)["containerConcurrency"], pod(document)["timeoutSeconds"]) == (7, 90)
    assert (env(document)["PREHEAT_THREADS"], env(document)["PREHEAT_CONCURRENCY"]) == ("3", "3")


def test_what_the_platform_lets_in_finds_a_place_in_the_server() -> None:
    assert env(knative_service(concurrency=500))["PREHEAT_QUEUE"] == "500"
    assert "PREHEAT_QUEUE" not in env(knative_service())


def test_the_probe_that_starts_fastest() -> None:
    found = container(knative_service())
    assert found["readinessProbe"] == {"httpGet": {"path": "/v2/health/ready", "port": 8080}}
    assert "startupProbe" not in found


def test_the_restricted_profile() -> None:
    """The Pod Security Standards, "Restricted": https://kubernetes.io/docs/concepts/security/."""
    context = container(knative_service())["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_scaling() -> None:
    document = knative_service(
        min_scale=1, max_scale=5, target=2, initial_scale=3, scale_down_delay_s=30, retention_s=60
    )
    annotations = document["spec"]["template"]["metadata"]["annotations"]
    assert {key.partition("/")[2]: value for key, value in annotations.items()} == {
        "min-scale": "1",
        "max-scale": "5",
        "target": "2",
        "initial-scale": "3",
        "scale-down-delay": "30s",
        "scale-to-zero-pod-retention-period": "60s",
    }


def test_an_artifact_in_a_store_is_fetched_into_tmp() -> None:
    stored = facts(location="s3://models/m@v1", stored=True, home="")
    document = knative_service(stored, store_secret="keys")
    assert env(document)["PREHEAT_ARTIFACT"] == "s3://models/m@v1"
    assert container(document)["envFrom"] == [{"secretRef": {"name": "keys"}}]
    (volume,) = pod(document)["volumes"]
    assert volume["emptyDir"] == {"sizeLimit": "64Mi"}
    assert "PREHEAT_ARTIFACT" not in env(knative_service())


def test_an_artifact_on_a_volume_claim() -> None:
    document = knative_service(pvc="models/embed/v1")
    assert env(document)["PREHEAT_ARTIFACT"] == "/mnt/models"
    mount = container(document)["volumeMounts"][1]
    assert mount == {"name": "model", "mountPath": "/mnt/models", "readOnly": True, "subPath": "embed/v1"}
    assert pod(document)["volumes"][1]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}


def test_a_ledger_by_secret_or_by_name() -> None:
    by_secret = env(knative_service(ledger_secret="l"))["PREHEAT_LEDGER"]
    assert by_secret == {"secretKeyRef": {"name": "l", "key": "url"}}
    assert env(knative_service(ledger="dynamodb://t"))["PREHEAT_LEDGER"] == "dynamodb://t"
    cloud = env(cloud_run_service(ledger_secret="l"))["PREHEAT_LEDGER"]
    assert cloud == {"secretKeyRef": {"name": "l", "key": "latest"}}


def test_what_a_deployment_judges_by() -> None:
    notes = knative_service()["metadata"]["annotations"]
    assert notes["preheat-cold-start-p99-ms"] == "1500"  # twice 600 + (50 + 10) * 2 ms, in steps of 500


def test_the_header_names_the_flags() -> None:
    text = knative.render(facts(), Options("r/x:1", node_selector=("a=b",)), TABLES)
    assert "# Needs kubernetes.podspec-nodeselector: enabled in config-features" in text


def test_cloud_run_with_a_gpu() -> None:
    document = cloud_run_service(gpu=1)
    assert container(document)["resources"]["limits"] == {
        "cpu": "4",
        "memory": "16384Mi",
        "nvidia.com/gpu": "1",
    }
    assert pod(document)["nodeSelector"] == {"run.googleapis.com/accelerator": "nvidia-l4"}
    notes = document["spec"]["template"]["metadata"]["annotations"]
    assert notes["run.googleapis.com/startup-cpu-boost"] == "true"
    assert notes["run.googleapis.com/cpu-throttling"] == "false"


def test_cloud_runs_startup_probe() -> None:
    probe = container(cloud_run_service())["startupProbe"]
    assert probe["httpGet"]["path"] == "/v2/health/ready"
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (1, 30)
    assert container(cloud_run_service(tcp_probe=True))["startupProbe"]["tcpSocket"] == {"port": 8080}


def test_memory_holds_tmp_on_cloud_run() -> None:
    stored = facts(location="gs://models/m@v1", stored=True, home="", weights_mib=200)
    document = cloud_run_service(stored)
    assert pod(document)["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
    assert container(document)["resources"]["limits"]["memory"] == "768Mi"


def test_kserves_pair() -> None:
    """``supportedModelFormats``, ``containers`` and the name: servingruntime_types.go, constants.go."""
    runtime, inference = kserve_pair(pvc="models/embed", service_account="a", runtime_class="nvidia")
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert runtime["spec"]["protocolVersions"] == ["v2"]
    assert [c["name"] for c in runtime["spec"]["containers"]] == ["kserve-container"]
    predictor = inference["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    assert predictor["model"]["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]
    assert predictor["model"]["storageUri"] == "pvc://models/embed"
    assert (predictor["serviceAccountName"], predictor["runtimeClassName"]) == ("a", "nvidia")


RUNTIME_FIELDS = {
    *("supportedModelFormats", "multiModel", "disabled", "protocolVersions", "workerSpec", "containers"),
    *("volumes", "nodeSelector", "affinity", "tolerations", "labels", "annotations", "imagePullSecrets"),
    *("hostIPC", "schedulerName", "resourceClaims", "replicas", "storageHelper"),
}
"""ServingRuntimeSpec, without what is ModelMesh's: pkg/apis/serving/v1alpha1/servingruntime_types.go."""
SCALING_FIELDS = {
    *("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling"),
    *("containerConcurrency", "timeout", "canaryTrafficPercent", "logger", "batcher", "labels"),
    *("annotations", "deploymentStrategy"),
}
"""ComponentExtensionSpec: pkg/apis/serving/v1beta1/component.go."""
MODEL_FIELDS = {"modelFormat", "runtime", "protocolVersion", "storageUri", "storage"}
"""ModelSpec and PredictorExtensionSpec: pkg/apis/serving/v1beta1/predictor_model.go, predictor.go."""


def test_kserve_has_every_field_that_is_written() -> None:
    runtime, inference = kserve_pair(**{**FULL, "max_scale": 0})
    assert set(runtime["spec"]) <= RUNTIME_FIELDS
    predictor = inference["spec"]["predictor"]
    pods = {"model", "serviceAccountName", "runtimeClassName"}  # the pod's own, inlined
    assert set(predictor) <= SCALING_FIELDS | pods
    assert set(predictor["model"]) <= MODEL_FIELDS
    assert predictor["scaleMetric"] in ("concurrency", "rps")  # validateScalingKPACompExtension
    assert predictor["containerConcurrency"] >= 0  # component.go
    assert predictor["timeout"] > 0


def test_kserve_scales_to_zero_in_its_knative_mode_only() -> None:
    """DefaultDeployment is Standard: pkg/constants/constants.go."""
    _, inference = kserve_pair()
    assert inference["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": "Knative"}


def test_a_model_name_becomes_a_label() -> None:
    odd = facts()
    odd = odd._replace(manifest=odd.manifest._replace(name="My_Model.v2"))
    assert knative_service(odd)["metadata"]["name"] == "my-model-v2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "My_Model"}, "'My_Model' cannot name a service"),
        ({"cpu": 0}, "--cpu must be at least 1"),
        ({"min_scale": 3, "max_scale": 2}, "--max-scale 2 is less than --min-scale 3"),
        ({"initial_scale": 0}, "--initial-scale must be at least 1"),
        ({"ledger": "redis://u:p@h"}, "put the URL into a secret"),
        ({"ledger": "redis://h", "ledger_secret": "s"}, "exclude each other"),
        ({"env": ("PORT=1",)}, "--env cannot set 'PORT'"),
        ({"env": ("PREHEAT_PORT=1",)}, "--env cannot set PREHEAT_PORT"),
        ({"env": ("x",)}, "--env takes NAME=VALUE"),
        ({"node_selector": ("x",)}, "--node-selector takes NAME=VALUE"),
        ({"wait_ms": float("nan")}, "--wait-ms must be more than 0"),
    ],
)
def test_wrong_use(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        knative_service(**options)


def test_a_setting_that_no_server_takes() -> None:
    with pytest.raises(SettingsError, match="PREHEAT_VERFY is not a setting"):
        knative_service(env=("PREHEAT_VERFY=always",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpu": 3}, "--cpu must be one of 1, 2, 4, 6, 8 on Cloud Run"),
        ({"gpu": 2}, "--gpu must be 1 on Cloud Run"),
        ({"pvc": "c"}, "--pvc is nothing of Cloud Run's"),
    ],
)
def test_wrong_use_of_cloud_run(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        cloud_run_service(**options)
