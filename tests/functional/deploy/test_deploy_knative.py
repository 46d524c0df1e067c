"""`preheat deploy knative` against a fake cluster: what it asks, what it makes of refusals, how it rolls."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ...conftest import ROOT
from ..build.conftest import Ran, preheat
from .fake_api import Failure
from .fake_knative import FakeKnative, knative

FILETYPE = ROOT / "functions" / "filetype" / "app.py"
QUICK = ("--hold", "0", "--requests", "4", "--timeout", "60", "--max-cold-start-ms", "60000")
"""A machine that stalls sends nothing back: how long a start took says nothing here."""


@pytest.fixture
def cluster(filetype_artifact: Path, tmp_path: Path) -> Iterator[FakeKnative]:
    empty = tmp_path / "empty"
    empty.mkdir()
    images = {"good:1": filetype_artifact, "good:2": filetype_artifact, "broken:1": empty}
    with knative(images, tmp_path / "cache") as fake:
        yield fake


@functools.cache
def rendered(image: str, *options: str) -> str:
    ran = preheat("render", "knative", FILETYPE, "--image", image, *options)
    assert ran.status == 0, ran.err
    return ran.out


def manifest(folder: Path, image: str = "good:1", *options: str) -> Path:
    path = folder / "service.yaml"
    path.write_text(rendered(image, *options))
    return path


def deploy(cluster: FakeKnative, folder: Path, path: Path, *options: str) -> Ran:
    kubeconfig = cluster.api.kubeconfig(folder)
    return preheat(
        *("deploy", "knative", path, "--kubeconfig", kubeconfig, "--ingress", cluster.ingress, *QUICK),
        *options,
    )


def deployed(cluster: FakeKnative, folder: Path, image: str = "good:1", *options: str) -> Any:
    ran = deploy(cluster, folder, manifest(folder, image), "--json", *options)
    assert ran.status == 0, ran.out + ran.err
    return ran.json()


def traffic(cluster: FakeKnative) -> Any:
    return cluster.api.objects["services", "models", "filetype"]["spec"]["traffic"]


def applied(cluster: FakeKnative) -> list[Any]:
    """The traffic that each apply asked for."""
    return [
        r.body["spec"]["traffic"]
        for r in cluster.api.requests
        if r.method == "PATCH" and "traffic" in r.body["spec"]
    ]


def test_a_first_deployment(cluster: FakeKnative, tmp_path: Path) -> None:
    found = deployed(cluster, tmp_path)
    assert (found["outcome"], found["revision"], found["previous"]) == ("deployed", "filetype-00001", "")
    assert found["url"] == "http://filetype.models.example.com"
    (step,) = found["steps"]
    assert (step["percent"], step["sent"], step["failed"]) == (100, 4, 0)
    assert step["counted"] == 4
    assert step["cold_p99_ms"] > 0
    assert traffic(cluster) == [{"latestRevision": True, "percent": 100}]
    assert cluster.api.refused == []
    patches = [r for r in cluster.api.requests if r.method == "PATCH"]
    assert {r.headers["content-type"] for r in patches} == {"application/apply-patch+yaml"}
    assert {r.query["fieldManager"] for r in patches} == {"preheat"}
    assert {r.query["fieldValidation"] for r in patches} == {"Strict"}
    assert set(cluster.hosts) == {"candidate-filetype.models.example.com"}


def test_a_second_one_gets_the_traffic_step_by_step(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    cluster.api.requests.clear()
    found = deployed(cluster, tmp_path, "good:2", "--steps", "25,100")
    assert (found["outcome"], found["previous"]) == ("deployed", "filetype-00001")
    assert [step["percent"] for step in found["steps"]] == [0, 25, 100]
    old, new = {"revisionName": "filetype-00001"}, {"revisionName": "filetype-00002", "tag": "candidate"}
    assert applied(cluster) == [
        [{**old, "percent": 100}, {"latestRevision": True, "percent": 0, "tag": "candidate"}],
        [{**old, "percent": 75}, {**new, "percent": 25}],
        [{**new, "percent": 100}],
        [{"latestRevision": True, "percent": 100}],
    ]
    assert cluster.api.refused == []


def test_the_same_again_changes_nothing(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    found = deployed(cluster, tmp_path)
    assert (found["outcome"], found["revision"]) == ("unchanged", "filetype-00001")
    assert list(cluster.revisions) == ["filetype-00001"]
    assert traffic(cluster) == [{"latestRevision": True, "percent": 100}]


def failing(cluster: FakeKnative, name: str, every: int) -> None:
    """Let a revision fail as soon as it is there."""
    deadline = time.monotonic() + 30
    while name not in cluster.revisions:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    cluster.revisions[name].fail_every = every


def test_failed_requests_send_it_back(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    path = manifest(tmp_path, "good:2")
    process = begun(cluster, tmp_path, path)
    failing(cluster, "filetype-00002", every=2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    found = json.loads(out)
    assert found["outcome"] == "rolled back"
    assert "of requests failed, 1.0% may" in found["reason"]
    assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]
    assert "back to filetype-00001" in err


def begun(cluster: FakeKnative, folder: Path, path: Path, *options: str) -> subprocess.Popen[str]:
    kubeconfig = cluster.api.kubeconfig(folder)
    words = ("deploy", "knative", path, "--kubeconfig", kubeconfig, "--ingress", cluster.ingress, *QUICK)
    return subprocess.Popen(
        [sys.executable, "-m", "preheat", *map(str, words), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_slow_cold_starts_send_it_back(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:2"), "--json", "--max-cold-start-ms", "1")
    assert ran.status == 1
    found = ran.json()
    assert found["outcome"] == "rolled back"
    assert "1 ms may be taken" in found["reason"]
    assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]


def test_nothing_to_go_back_to(cluster: FakeKnative, tmp_path: Path) -> None:
    ran = deploy(cluster, tmp_path, manifest(tmp_path), "--max-cold-start-ms", "1")
    assert ran.status == 1
    assert "there is no earlier revision to go back to" in ran.out


def test_a_revision_that_does_not_start(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    for image, reason in (("broken:1", "ExitCode1"), ("missing:1", "ContainerMissing")):
        ran = deploy(cluster, tmp_path, manifest(tmp_path, image), "--timeout", "12")
        assert ran.status == 1
        assert "does not get ready" in ran.error
        assert reason in ran.error
        assert "waiting for revision" in ran.err
        assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_roll_gives_the_traffic_back(
    number: signal.Signals, cluster: FakeKnative, tmp_path: Path
) -> None:
    deployed(cluster, tmp_path)
    process = begun(cluster, tmp_path, manifest(tmp_path, "good:2"), "--hold", "60", "--requests", "100")
    deadline = time.monotonic() + 30
    while traffic(cluster)[0].get("percent") != 90:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number if number == signal.SIGTERM else 130
    assert "back to filetype-00001" in err
    assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]


def test_a_refusal_on_the_way_gives_the_traffic_back(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    cluster.api.failures.append(Failure("PATCH", 403, "rights were taken away", traffic=50))
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:2"))
    assert ran.status == 1
    assert "rights were taken away" in ran.error
    assert "back to filetype-00001" in ran.err
    assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]


def test_traffic_that_cannot_be_given_back_is_told(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    cluster.api.failures.append(Failure("PATCH", 403, "rights were taken away", traffic=50))
    path = manifest(tmp_path, "good:2")
    process = begun(cluster, tmp_path, path, "--steps", "30,50,100")
    while not any(part[0]["percent"] == 70 for part in applied(cluster)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    cluster.api.failures.append(Failure("PATCH", 403, "all of them", traffic=100))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the traffic stays where it is: cannot apply" in err
    assert "error: cannot apply the Service filetype: these credentials may not" in err
    assert [t["percent"] for t in traffic(cluster)] == [70, 30]


def test_a_dry_run_keeps_nothing(cluster: FakeKnative, tmp_path: Path) -> None:
    ran = deploy(cluster, tmp_path, manifest(tmp_path), "--dry-run", "server")
    assert ran.status == 0, ran.err
    assert "accepts it; nothing was changed" in ran.out
    (patch,) = [r for r in cluster.api.requests if r.method == "PATCH"]
    assert patch.query["dryRun"] == "All"
    assert cluster.api.objects == {}


def test_a_missing_feature_flag_is_named_before_anything_is_applied(
    cluster: FakeKnative, tmp_path: Path
) -> None:
    path = manifest(tmp_path, "good:1", "--node-selector", "gpu=yes")
    ran = deploy(cluster, tmp_path, path)
    assert ran.status == 1
    assert "kubernetes.podspec-nodeselector (for spec.template.spec.nodeSelector)" in ran.error
    assert not [r for r in cluster.api.requests if r.method == "PATCH"]
    cluster.api.features["kubernetes.podspec-nodeselector"] = "enabled"
    assert deploy(cluster, tmp_path, path).status == 0


def test_flags_that_cannot_be_read_are_left_to_the_webhook(cluster: FakeKnative, tmp_path: Path) -> None:
    cluster.api.features_readable = False
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:1", "--node-selector", "gpu=yes"))
    assert ran.status == 1
    assert "config-features cannot be read" in ran.err
    assert "Knative's webhook refuses it: validation failed: must not set the field(s)" in ran.error


def test_a_limit_that_a_cluster_may_have_moved_is_the_webhooks(cluster: FakeKnative, tmp_path: Path) -> None:
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:1", "--timeout", "700"))
    assert ran.status == 1
    assert "Knative's webhook refuses it" in ran.error


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure("PATCH", 403, 'services is forbidden: User "me" cannot patch'), "these credentials may not"),
        (
            Failure("PATCH", 422, "spec.template: Invalid value"),
            "the cluster finds it malformed: spec.template",
        ),
        (Failure("GET", 401, "Unauthorized"), "does not know these credentials"),
    ],
)
def test_refusals_in_words(failure: Failure, words: str, cluster: FakeKnative, tmp_path: Path) -> None:
    cluster.api.failures.append(failure)
    ran = deploy(cluster, tmp_path, manifest(tmp_path))
    assert ran.status == 1
    assert words in ran.error


def test_no_knative(cluster: FakeKnative, tmp_path: Path) -> None:
    cluster.api.installed = False
    ran = deploy(cluster, tmp_path, manifest(tmp_path))
    assert ran.status == 1
    assert "Knative Serving is not there" in ran.error


def test_what_passes_is_tried_again(cluster: FakeKnative, tmp_path: Path) -> None:
    cluster.api.failures += [
        Failure("PATCH", 500, "failed calling webhook: context deadline exceeded"),
        Failure("GET", 429, "slow down", headers=(("retry-after", "1"),)),
        Failure("PATCH", apply_first=True),
    ]
    found = deployed(cluster, tmp_path)
    assert found["outcome"] == "deployed"
    assert cluster.api.failures == []
    assert list(cluster.revisions) == ["filetype-00001"]


def test_fields_of_another_manager_are_taken_by_force_only(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    service = cluster.api.objects["services", "models", "filetype"]
    path = ("spec", "template", "spec", "containerConcurrency")
    service["owners"]["kubectl"] = {path: 99}
    del service["owners"]["preheat"][path]
    service["spec"]["template"]["spec"]["containerConcurrency"] = 99
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:2"))
    assert ran.status == 1
    assert '.spec.template.spec.containerConcurrency: conflict with "kubectl"' in ran.error
    assert "--force takes these fields over" in ran.error
    assert deploy(cluster, tmp_path, manifest(tmp_path, "good:2"), "--force").status == 0


def test_the_request_itself_is_refused(cluster: FakeKnative, tmp_path: Path) -> None:
    deployed(cluster, tmp_path)
    request = tmp_path / "request.json"
    request.write_text('{"nothing": "of use"}')
    ran = deploy(cluster, tmp_path, manifest(tmp_path, "good:2"), "--request", str(request))
    assert ran.status == 1
    assert "answers 4" in ran.error
    assert "--request" in ran.error
    assert traffic(cluster) == [{"revisionName": "filetype-00001", "percent": 100}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("kind: Pod", "Service of serving.knative.dev/v1"),
        ("[", "is not YAML"),
        ("", "must hold one Knative Service"),
        ("apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {}\n", "has no spec"),
    ],
)
def test_files_that_are_no_service(change: str, words: str, cluster: FakeKnative, tmp_path: Path) -> None:
    path = tmp_path / "service.yaml"
    if change == "kind: Pod":
        change = manifest(tmp_path).read_text().replace("kind: Service", change)
    path.write_text(change)
    ran = deploy(cluster, tmp_path, path)
    assert ran.status == 2
    assert words in ran.error
    assert cluster.api.requests == []


def test_a_file_that_knative_would_drop_fields_of(cluster: FakeKnative, tmp_path: Path) -> None:
    path = manifest(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["spec"]["template"]["spec"]["containers"][0]["lifecycle"] = {}
    path.write_text(yaml.safe_dump(document))
    ran = deploy(cluster, tmp_path, path)
    assert ran.status == 2
    assert "lifecycle is no field that Knative takes (pkg/apis/serving/fieldmask.go)" in ran.error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", "50,10,100"), "--steps takes rising percentages"),
        (("--steps", "10,50"), "that end with 100"),
        (("--steps", "x"), "--steps takes rising percentages"),
        (("--requests", "0"), "--requests must be at least 1"),
        (("--hold", "-1"), "--hold and --timeout are seconds"),
        (("--max-error-rate", "5"), "--max-error-rate is a share"),
        (("--max-cold-start-ms", "0"), "--max-cold-start-ms must be more than 0"),
        (("--dry-run", "client"), "--dry-run takes server"),
        (("--header", "x"), "--header must be 'name: value'"),
        (("--header", "x: y\nz"), "--header must be 'name: value'"),
        (("--request", "/nowhere"), "/nowhere cannot be read"),
        (("--context", "other"), "no cluster is named"),
        (("--kubeconfig", "/nowhere"), "no cluster is named"),
    ],
)
def test_wrong_use(options: tuple[str, ...], words: str, cluster: FakeKnative, tmp_path: Path) -> None:
    ran = deploy(cluster, tmp_path, manifest(tmp_path), *options)
    assert ran.status == 2
    assert words in ran.error
    assert cluster.api.requests == []


def test_the_client_is_an_extra(tmp_path: Path) -> None:
    run = "from preheat.cli import run; sys.exit(run(sys.argv[1:]))"
    script = f"import sys; sys.modules['kubernetes'] = None; {run}"
    words = ("deploy", "knative", str(manifest(tmp_path)))
    ran = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert "pip install 'preheat[knative]'" in ran.stderr
