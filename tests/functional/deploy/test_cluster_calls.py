"""The calls to the API server one by one: conflicts, lost answers, timeouts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat.deploy.cluster import TRIES, Cluster
from preheat.deploy.container_spec import Options
from preheat.deploy.container_tables import load
from preheat.deploy.knative import service, unit
from preheat.errors import DeploymentError, UsageError

from ...unit.deploy.artifacts import facts
from .fake_api import Failure, FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    yield fake
    fake.close()


@pytest.fixture
def cluster(api: FakeApi, tmp_path: Path) -> Cluster:
    return Cluster(kubeconfig=str(api.kubeconfig(tmp_path)), timeout_s=0.5, pause_s=0.01)


def document(**changes: Any) -> Any:
    made = service(unit(facts(), Options("r/x:1"), load()))
    made["spec"] |= changes
    return made


def latest(percent: int = 100) -> list[dict[str, Any]]:
    return [{"latestRevision": True, "percent": percent}]


def test_the_namespace_is_the_contexts(cluster: Cluster) -> None:
    assert cluster.namespace == "models"


def test_what_is_not_there(cluster: Cluster) -> None:
    assert cluster.service("m") is None
    assert cluster.revision("m-1") is None


def test_a_changed_status_is_no_conflict(api: FakeApi, cluster: Cluster) -> None:
    before = cluster.apply(document(), None)
    api.put("services", api.objects["services", "models", "m"])  # as the controller does, now and then
    after = cluster.apply(document(traffic=latest()), before)
    assert after["metadata"]["generation"] == 2
    assert [line for line in api.refused if "has been modified" in line]


def test_a_changed_specification_is(api: FakeApi, cluster: Cluster) -> None:
    before = cluster.apply(document(), None)
    theirs = copy.deepcopy(api.objects["services", "models", "m"])
    theirs["spec"]["template"]["spec"]["timeoutSeconds"] = 99
    theirs["metadata"]["generation"] += 1
    api.put("services", theirs)
    with pytest.raises(DeploymentError, match="changed by somebody else") as raised:
        cluster.apply(document(traffic=latest()), before)
    assert raised.value.code == "conflict"
    assert "traffic" not in api.objects["services", "models", "m"]["spec"]


def test_a_lost_answer_is_not_somebody_else(api: FakeApi, cluster: Cluster) -> None:
    before = cluster.apply(document(), None)
    api.failures.append(Failure("PATCH", hang_s=1.5, apply_first=True))
    after = cluster.apply(document(traffic=latest()), before)
    assert after["metadata"]["generation"] == 2


def test_a_server_that_hangs(api: FakeApi, cluster: Cluster) -> None:
    api.failures += [Failure("GET", hang_s=1.5)] * TRIES
    with pytest.raises(DeploymentError, match=r"does not answer .*, 4 tries of 0\.5 s") as raised:
        cluster.service("m")
    assert raised.value.code == "unreachable"
    assert len(api.requests) == TRIES


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    fake = FakeApi()
    path = fake.kubeconfig(tmp_path)
    fake.close()
    with pytest.raises(DeploymentError, match=r"does not answer .*refused"):
        Cluster(kubeconfig=str(path), pause_s=0.01).service("m")


def test_a_server_that_is_broken(api: FakeApi, cluster: Cluster) -> None:
    api.failures += [Failure("GET", 503, "etcd leader changed")] * TRIES
    with pytest.raises(DeploymentError, match="answers 503: etcd leader changed"):
        cluster.service("m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 1}, 'unknown field "spec.replicas"'),
        ({"traffic": [{"latestRevision": True, "percent": 90}]}, "webhook refuses it.*sum to 90, want 100"),
        ({"traffic": [{"latest": True, "percent": 100}]}, r'unknown field "spec.traffic\[0\].latest"'),
    ],
)
def test_what_the_server_finds_wrong(change: Any, words: str, cluster: Cluster) -> None:
    with pytest.raises(DeploymentError, match=words):
        cluster.apply(document(**change), None)


def test_what_the_schema_finds_wrong(cluster: Cluster) -> None:
    made = document()
    made["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = "eighty"
    with pytest.raises(DeploymentError, match="the cluster finds it malformed") as raised:
        cluster.apply(made, None)
    assert raised.value.code == "invalid"


def test_an_unknown_context(api: FakeApi, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cluster is named"):
        Cluster(kubeconfig=str(api.kubeconfig(tmp_path)), context="other")
