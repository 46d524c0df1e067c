"""Lambda and Knative made cold: against moto's Lambda and a small Kubernetes API."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from preheat.errors import UsageError
from preheat.load.cold import NotColdError, aws_lambda, knative

from .servers import Reply, answering


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """moto's client of a function `embed` with the alias `live` on its first version."""
    import boto3
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws(config={"lambda": {"use_docker": False}}):
        trust = {"Version": "2012-10-17", "Statement": []}
        role = boto3.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(trust))
        client = boto3.client("lambda")
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as file:
            file.writestr("app.py", "def handler(event, context): return 1")
        client.create_function(
            FunctionName="embed",
            Runtime="python3.13",
            Role=role["Role"]["Arn"],
            Handler="app.handler",
            Code={"ZipFile": code.getvalue()},
            Publish=True,
        )
        client.create_alias(FunctionName="embed", Name="live", FunctionVersion="1")
        yield client


def test_lambda_s_alias_moves_to_a_new_version_each_time(function: Any) -> None:
    plug = aws_lambda.force_cold("lambda", "embed:live", "https://x.lambda-url.us-east-1.on.aws")
    served = [function.get_alias(FunctionName="embed", Name="live")["FunctionVersion"]]
    for _ in range(2):
        told = plug.force()
        served.append(function.get_alias(FunctionName="embed", Name="live")["FunctionVersion"])
        assert told.endswith(f"is at the new version {served[-1]}")
    assert len(set(served)) == 3


def test_lambda_s_own_words_where_it_refuses(function: Any) -> None:
    with pytest.raises(NotColdError, match=r"none.*(ResourceNotFound|not found)"):
        aws_lambda.AwsLambda("none", "live", function).force()
    with pytest.raises(NotColdError, match="embed"):
        aws_lambda.AwsLambda("embed", "gone", function).force()


class _Pods:
    """Two pods of one service; each look may take one away."""

    def __init__(self, leave: bool) -> None:
        self.names = ["embed-00001-a", "embed-00001-b"]
        self.leave, self.deleted, self.selectors = leave, False, set[str]()

    def __call__(self, method: str, path: str, _headers: Mapping[str, str], _body: bytes) -> Reply:
        assert path.startswith("/api/v1/namespaces/models/pods?"), path
        self.selectors |= set(parse_qs(urlsplit(path).query)["labelSelector"])
        if method == "DELETE":
            self.deleted = True
            return 200, {}, b'{"kind": "Status", "status": "Success"}'
        items = [{"metadata": {"name": name, "namespace": "models"}} for name in self.names]
        if self.leave:
            self.names = self.names[1:]
        return 200, {}, json.dumps({"kind": "PodList", "apiVersion": "v1", "items": items}).encode()


def _core(url: str) -> Any:
    import kubernetes

    configuration = kubernetes.client.Configuration(host=url)
    configuration.retries = 0
    return kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))


@pytest.mark.parametrize("delete", [True, False])
def test_knative_is_cold_when_no_pod_is_left(delete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knative, "POLL_S", 0.01)
    pods = _Pods(leave=True)
    with answering(pods) as url:
        told = knative.Knative("models", "embed", _core(url), delete=delete).force()
    assert told == "no pod of models/embed is left"
    assert pods.names == []
    assert pods.deleted is delete
    assert pods.selectors == {"serving.knative.dev/service=embed"}


def test_pods_that_stay_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knative, "POLL_S", 0.01)
    monkeypatch.setattr(knative, "GONE_S", 0.1)
    with answering(_Pods(leave=False)) as url:
        with pytest.raises(NotColdError, match="still has pods: embed-00001-a, embed-00001-b; a deleted pod"):
            knative.Knative("models", "embed", _core(url), delete=True).force()
        with pytest.raises(NotColdError, match="is min-scale above zero"):
            knative.Knative("models", "embed", _core(url), delete=False).force()


def test_a_cluster_that_refuses() -> None:
    def forbidden(*_: object) -> Reply:
        return 403, {}, b'{"kind": "Status", "reason": "Forbidden"}'

    with answering(forbidden) as url, pytest.raises(NotColdError, match="models/embed: 403"):
        knative.Knative("models", "embed", _core(url), delete=True).force()


def test_what_to_install_for_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UsageError, match=r"--cold knative-wait needs .* `pip install 'preheat\[knative\]'`"):
        knative.force_cold("knative-wait", "models/embed", "http://x")
