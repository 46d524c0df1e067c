"""One Service's life: deployed, invoked from zero, scaled to zero, rolled, taken back, deleted.

On the fake cluster always; on a real one where KUBECONFIG names it and PREHEAT_TEST_IMAGE an image that
serves `functions/filetype` (`make test-cluster`). PREHEAT_TEST_INGRESS: the ingress's URL, where names do
not resolve here.
"""

from __future__ import annotations

import json
import os
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3
from kubernetes import client, config

from preheat.deploy.cluster import GROUP, VERSION, Cluster
from preheat.deploy.rollout import condition, serving

from ...conftest import ROOT
from ..build.conftest import Ran, preheat
from .fake_knative import knative

FILETYPE = ROOT / "functions" / "filetype" / "app.py"
NAME = "preheat-life"
MISSING = [name for name in ("KUBECONFIG", "PREHEAT_TEST_IMAGE") if not os.environ.get(name)]


class Place(NamedTuple):
    kubeconfig: Path
    image: str
    ingress: str
    """Empty: names resolve."""
    to_zero_s: float
    """How long an instance may take to go."""


@pytest.fixture(params=["fake", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path, filetype_artifact: Path) -> Iterator[Place]:
    if request.param == "fake":
        with knative({"filetype": filetype_artifact}, tmp_path / "cache", idle_s=1.0) as fake:
            yield Place(fake.api.kubeconfig(tmp_path), "filetype", fake.ingress, 60)
        return
    if MISSING:
        pytest.skip(f"no real cluster: {' and '.join(MISSING)} not set")
    ingress = os.environ.get("PREHEAT_TEST_INGRESS", "")
    found = Place(Path(os.environ["KUBECONFIG"]), os.environ["PREHEAT_TEST_IMAGE"], ingress, 300)
    try:
        yield found
    finally:
        if Cluster(kubeconfig=str(found.kubeconfig)).service(NAME) is not None:
            delete(found)


def delete(place: Place) -> None:
    api = client.ApiClient(client.Configuration())
    config.load_kube_config(str(place.kubeconfig), client_configuration=api.configuration)
    namespace = Cluster(kubeconfig=str(place.kubeconfig)).namespace
    client.CustomObjectsApi(api).delete_namespaced_custom_object(GROUP, VERSION, namespace, "services", NAME)


def deploy(place: Place, folder: Path, *options: str, env: tuple[str, ...] = ()) -> Ran:
    path = folder / "service.yaml"
    words = [word for variable in env for word in ("--env", variable)]
    ran = preheat(
        "render", "knative", FILETYPE, "--image", place.image, "--name", NAME, "-o", path, "--force", *words
    )
    assert ran.status == 0, ran.err
    where = ("--ingress", place.ingress) if place.ingress else ()
    return preheat(
        *("deploy", "knative", path, "--kubeconfig", place.kubeconfig, *where, "--json"),
        *("--hold", "1", "--requests", "5", "--max-cold-start-ms", "60000", *options),
    )


def wait_for_zero(place: Place, cluster: Cluster, revision: str) -> None:
    deadline = time.monotonic() + place.to_zero_s
    while condition(cluster.revision(revision), "Active").get("status") != "False":
        assert time.monotonic() < deadline, f"{revision} never scaled to zero"
        time.sleep(0.2)


def ask(place: Place, url: str) -> Any:
    sample = json.loads((FILETYPE.parent / "artifact" / "manifest.json").read_text())["sample"]
    headers = {"content-type": "application/json", "host": urllib.parse.urlsplit(url).netloc}
    answer = urllib3.request(
        "POST",
        (place.ingress or url) + "/predict",
        body=json.dumps(sample["request"]),
        headers=headers,
        timeout=120,
        retries=False,
    )
    assert answer.status == 200, answer.data
    assert answer.json() == sample["answer"]
    return answer


def test_the_life_of_a_service(place: Place, tmp_path: Path) -> None:
    cluster = Cluster(kubeconfig=str(place.kubeconfig))
    first = deploy(place, tmp_path, "--from-zero", "1")
    assert first.status == 0, first.out + first.err
    found = first.json()
    assert found["outcome"] == "deployed"
    assert found["steps"][0]["cold_starts"] == 1
    old, url = found["revision"], found["url"]

    wait_for_zero(place, cluster, old)
    assert ask(place, url).headers["x-preheat-start"] == "cold"
    assert ask(place, url).headers["x-preheat-start"] == "warm"
    wait_for_zero(place, cluster, old)

    second = deploy(place, tmp_path, "--steps", "50,100", env=("PREHEAT_ACCESS_LOG=on",))
    assert second.status == 0, second.out + second.err
    new = second.json()["revision"]
    assert new != old
    assert [step["percent"] for step in second.json()["steps"]] == [0, 50, 100]
    assert serving(cluster.service(NAME)) == new
    ask(place, url)

    third = deploy(place, tmp_path, "--max-cold-start-ms", "1", env=("PREHEAT_QUEUE=99",))
    assert third.status == 1
    assert third.json()["outcome"] == "rolled back"
    assert serving(cluster.service(NAME)) == new
    ask(place, url)

    delete(place)
    deadline = time.monotonic() + 60
    while cluster.service(NAME) is not None:
        assert time.monotonic() < deadline, "the Service is still there"
        time.sleep(0.2)
