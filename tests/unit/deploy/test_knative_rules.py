"""Knative's field rules, each broken by one Service. Sources are files of knative/serving (August 2026)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from preheat.deploy import container_tables, knative_rules
from preheat.deploy.container_spec import Options
from preheat.deploy.knative import service, unit
from preheat.deploy.knative_fields import Needed, Wrong, flag_on

from .artifacts import facts

TABLES = container_tables.load()
POD = "spec.template.spec."
BOX = f"{POD}containers[0]."
SCALE = "spec.template.metadata.annotations.autoscaling.knative.dev/"
K8S, MASK = "k8s_validation.go", "fieldmask.go"


def rendered(**options: Any) -> Any:
    return service(unit(facts(), Options("r/x:1", **options), TABLES))


def set_at(document: Any, path: str, value: Any) -> Any:
    """A copy with a value put at a path such as ``spec.template.spec.containers[0].name``."""
    copied = copy.deepcopy(document)
    *parents, last = steps(path)
    found = copied
    for step in parents:
        found = found[step] if isinstance(step, int) else found.setdefault(step, {})
    found[last] = value
    return copied


def steps(path: str) -> list[str | int]:
    found: list[str | int] = []
    for part in path.split("."):
        name, _, index = part.partition("[")
        found.append(name)
        if index:
            found.append(int(index.rstrip("]")))
    return found


def annotated(name: str, value: str) -> Any:
    document = rendered()
    document["spec"]["template"]["metadata"]["annotations"][f"autoscaling.knative.dev/{name}"] = value
    return document


def found(document: Any) -> list[Wrong | Needed]:
    return knative_rules.check(document, TABLES.knative)


def test_what_is_rendered_needs_no_flag_and_breaks_no_rule() -> None:
    assert found(rendered(gpu=1, service_account="a", ledger_secret="l", store_secret="s")) == []


@pytest.mark.parametrize(
    ("path", "value", "at", "source"),
    [
        ("kind", "Pod", "kind", "service.yaml"),
        ("metadata.name", "Upper_case", "metadata.name", K8S),
        ("spec.replicas", 3, "spec.replicas", "service.yaml"),
        (f"{POD}timeoutSeconds", 601, f"{POD}timeoutSeconds", "revision_validation.go"),
        (f"{POD}containerConcurrency", 1001, f"{POD}containerConcurrency", "metadata_validation.go"),
        (f"{POD}terminationGracePeriodSeconds", 60, f"{POD}terminationGracePeriodSeconds", MASK),
        (f"{POD}automountServiceAccountToken", True, f"{POD}automountServiceAccountToken", MASK),
        (f"{POD}containers", [], f"{POD}containers", K8S),
        (f"{BOX}lifecycle", {"preStop": {}}, f"{BOX}lifecycle", MASK),
        (f"{BOX}image", "", f"{BOX}image", K8S),
        (f"{BOX}name", "queue-proxy", f"{BOX}name", K8S),
        (f"{BOX}ports[0].containerPort", 8012, f"{BOX}ports[0].containerPort", K8S),
        (f"{BOX}ports[0].name", "http", f"{BOX}ports[0].name", K8S),
        (f"{BOX}ports[0].protocol", "UDP", f"{BOX}ports[0].protocol", K8S),
        (f"{BOX}ports[0].hostPort", 80, f"{BOX}ports[0].hostPort", MASK),
        (f"{BOX}ports", [{"containerPort": 1}, {"containerPort": 2}], f"{POD}containers", K8S),
        (f"{BOX}env[0]", {"name": "PORT", "value": "1"}, f"{BOX}env[0].name", K8S),
        (f"{BOX}env[0]", {"name": "K_SERVICE", "value": "x"}, f"{BOX}env[0].name", K8S),
        (f"{BOX}readinessProbe.failureThreshold", 3, f"{BOX}readinessProbe.failureThreshold", K8S),
        (f"{BOX}readinessProbe.timeoutSeconds", 1, f"{BOX}readinessProbe.timeoutSeconds", K8S),
        (f"{BOX}livenessProbe", {"periodSeconds": 1}, f"{BOX}livenessProbe.httpGet", K8S),
        (f"{BOX}readinessProbe.httpGet.port", "http", f"{BOX}readinessProbe.httpGet.port", K8S),
        (f"{BOX}resources.claims", [{"name": "x"}], f"{BOX}resources.claims", MASK),
        (f"{BOX}image", "UPPER/x:1", f"{BOX}image", K8S),
        (f"{BOX}readinessProbe.tcpSocket", {"port": 8080}, f"{BOX}readinessProbe.httpGet", K8S),
        (f"{BOX}securityContext.privileged", True, f"{BOX}securityContext.privileged", MASK),
        (f"{BOX}securityContext.procMount", "Default", f"{BOX}securityContext.procMount", MASK),
        (f"{BOX}volumeMounts[0].mountPath", "/dev", f"{BOX}volumeMounts[0].mountPath", K8S),
        (f"{BOX}volumeMounts[0].mountPath", "tmp", f"{BOX}volumeMounts[0].mountPath", K8S),
        (f"{BOX}volumeMounts[0].name", "other", f"{BOX}volumeMounts[0].name", K8S),
        (f"{POD}volumes[0].emptyDir", {"medium": "HugePages"}, f"{POD}volumes[0].emptyDir.medium", K8S),
        (f"{POD}volumes[0].secret", {"secretName": "s"}, f"{POD}volumes[0].name", K8S),
        (f"{POD}volumes[0]", {"name": "tmp", "nfs": {}}, f"{POD}volumes[0].nfs", MASK),
    ],
)
def test_what_the_webhook_refuses_or_drops(path: str, value: Any, at: str, source: str) -> None:
    wrong = [item for item in found(set_at(rendered(), path, value)) if isinstance(item, Wrong)]
    assert at in [item.path for item in wrong]
    (one,) = [item for item in wrong if item.path == at][:1]
    assert one.source.endswith(source)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{POD}timeoutSeconds", 0),
        (f"{POD}containerConcurrency", 0),
        (f"{BOX}readinessProbe", {"initialDelaySeconds": 1}),
        (f"{BOX}readinessProbe", {"tcpSocket": {"port": "http1"}, "periodSeconds": 5, "failureThreshold": 3}),
        (f"{BOX}startupProbe", {"exec": {"command": ["true"]}}),
        (f"{BOX}volumeMounts[0].subPath", "x"),
        (f"{POD}volumes[0]", {"name": "tmp", "secret": {"secretName": "s"}}),
        (f"{BOX}image", "localhost:5000/a/b-c@sha256:" + "0" * 64),
        ("spec.traffic", [{"percent": 100}]),
        ("spec.traffic", [{"revisionName": "m-1", "latestRevision": False, "percent": 100}]),
    ],
)
def test_what_the_webhook_takes(path: str, value: Any) -> None:
    assert found(set_at(rendered(), path, value)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min-scale", "-1"),
        ("max-scale", "many"),
        ("initial-scale", "0"),
        ("activation-scale", "1"),
        ("metric", "latency"),
        ("window", "5s"),
        ("window", "6500ms"),
        ("window", "2h"),
        ("scale-down-delay", "1h1s"),
        ("scale-down-delay", "soon"),
        ("scale-to-zero-pod-retention-period", "-1s"),
        ("target", "0"),
        ("target", "x"),
        ("target-utilization-percentage", "101"),
    ],
)
def test_autoscaling_annotations(name: str, value: str) -> None:
    (wrong,) = found(annotated(name, value))
    assert isinstance(wrong, Wrong)
    assert wrong.path == SCALE + name
    assert wrong.source == "pkg/apis/autoscaling/annotation_validation.go"


def test_autoscaling_annotations_belong_to_the_revision() -> None:
    document = rendered()
    document["metadata"]["annotations"]["autoscaling.knative.dev/min-scale"] = "1"
    assert [item.path for item in found(document)] == [
        "metadata.annotations.autoscaling.knative.dev/min-scale"
    ]


def test_a_maximum_below_the_minimum() -> None:
    document = annotated("min-scale", "20")
    assert [item.path for item in found(document)] == [f"{SCALE}max-scale"]


@pytest.mark.parametrize(
    ("path", "value", "flag"),
    [
        (f"{POD}nodeSelector", {"a": "b"}, "kubernetes.podspec-nodeselector"),
        (f"{POD}runtimeClassName", "nvidia", "kubernetes.podspec-runtimeclassname"),
        (f"{POD}tolerations", [], "kubernetes.podspec-tolerations"),
        (f"{POD}affinity", {}, "kubernetes.podspec-affinity"),
        (f"{POD}securityContext", {}, "kubernetes.podspec-securitycontext"),
        (f"{POD}initContainers", [], "kubernetes.podspec-init-containers"),
        (f"{POD}volumes[0].hostPath", {}, "kubernetes.podspec-volumes-hostpath"),
        (f"{POD}volumes[0].image", {}, "kubernetes.podspec-volumes-image"),
        (f"{BOX}env[0].valueFrom", {"fieldRef": {}}, "kubernetes.podspec-fieldref"),
        (
            f"{BOX}securityContext.capabilities",
            {"add": ["SYS_NICE"]},
            "kubernetes.containerspec-addcapabilities",
        ),
        (
            f"{BOX}volumeMounts[0].mountPropagation",
            "None",
            "kubernetes.podspec-volumes-mount-propagation",
        ),
    ],
)
def test_what_needs_a_feature_flag(path: str, value: Any, flag: str) -> None:
    assert flag in [item.flag for item in found(set_at(rendered(), path, value)) if isinstance(item, Needed)]


def test_the_options_need_the_flags_that_their_help_names() -> None:
    needed = found(rendered(node_selector=("a=b",), pvc="models/embed", runtime_class="nvidia"))
    assert {item.flag for item in needed if isinstance(item, Needed)} == {
        "kubernetes.podspec-nodeselector",
        "kubernetes.podspec-persistent-volume-claim",
        "kubernetes.podspec-runtimeclassname",
    }
    assert not [item for item in needed if isinstance(item, Wrong)]


def test_a_claim_that_is_written_to_needs_one_more_flag() -> None:
    document = rendered(pvc="models")
    document["spec"]["template"]["spec"]["volumes"][1]["persistentVolumeClaim"]["readOnly"] = False
    assert "kubernetes.podspec-persistent-volume-write" in [
        item.flag for item in found(document) if isinstance(item, Needed)
    ]


def test_probes_of_a_second_container_need_a_flag() -> None:
    document = rendered()
    document["spec"]["template"]["spec"]["containers"].append(
        {"image": "side", "readinessProbe": {"tcpSocket": {"port": 1}}}
    )
    assert found(document) == [Needed(f"{POD}containers[1].readinessProbe", "multi-container-probing")]
    side = document["spec"]["template"]["spec"]["containers"][1]
    for handler, wrong in (
        ({"tcpSocket": {"port": "any"}}, []),
        ({"exec": {"command": ["true"]}}, []),
        ({"httpGet": {"path": "/"}}, [f"{POD}containers[1].readinessProbe.httpGet.port"]),
        ({"tcpSocket": {}}, [f"{POD}containers[1].readinessProbe.tcpSocket.port"]),
    ):
        side["readinessProbe"] = handler
        assert [item.path for item in found(document) if isinstance(item, Wrong)] == wrong


@pytest.mark.parametrize(
    ("traffic", "at"),
    [
        ([{"latestRevision": True, "percent": 99}], "spec.traffic"),
        ([{"latestRevision": False, "percent": 100}], "spec.traffic[0].revisionName"),
        ([{"revisionName": "a", "latestRevision": True, "percent": 100}], "spec.traffic[0].revisionName"),
        ([{"latestRevision": True, "percent": 100, "tag": "No"}], "spec.traffic[0].tag"),
        ([{"latestRevision": True, "percent": 100, "url": "x"}], "spec.traffic[0].url"),
    ],
)
def test_traffic(traffic: Any, at: str) -> None:
    document = rendered()
    document["spec"]["traffic"] = traffic
    assert at in [item.path for item in found(document)]


def test_traffic_that_is_right() -> None:
    document = rendered()
    document["spec"]["traffic"] = [
        {"revisionName": "m-00001", "percent": 90},
        {"latestRevision": True, "percent": 10, "tag": "candidate"},
    ]
    assert found(document) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0.0), ("90s", 90.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("500ms", 0.5), ("5", None), ("", None)],
)
def test_durations_as_go_writes_them(text: str, value: float | None) -> None:
    assert knative_rules.seconds(text) == value


def test_a_flag_is_on_where_the_config_map_or_the_default_says_so() -> None:
    flag = "kubernetes.podspec-nodeselector"
    assert flag_on({flag: "Enabled"}, flag)
    assert not flag_on({flag: "Allowed"}, flag)
    assert not flag_on({}, flag)
    assert flag_on({}, "kubernetes.podspec-volumes-emptydir")
    assert not flag_on(
        {"kubernetes.podspec-volumes-emptydir": "disabled"}, "kubernetes.podspec-volumes-emptydir"
    )
