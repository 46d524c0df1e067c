"""Credentials over HTTP: who comes in, whose key is whose, and what stays open."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm
from prometheus_client.parser import text_string_to_metric_families

from preheat.tracing import tenant_digest

from ..conftest import Answer, Server, serving
from ..otlp import collecting

KEY = ed25519.Ed25519PrivateKey.generate()
ISSUER = "https://idp.example.com/"
BODY = {"content": base64.b64encode(b"import os\n\n\ndef main():\n    return os.getcwd()\n" * 8).decode()}
OPEN = (
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/filetype",
    "/coldstart",
    "/docs",
    "/metrics",
)


def token(subject: str, **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": "preheat", "sub": subject, "exp": int(time.time()) + 60, **changes}
    return jwt.encode(claims, KEY, algorithm="EdDSA", headers={"kid": "ed"})


@pytest.fixture(scope="module")
def jwks() -> Iterator[str]:
    document = json.dumps({"keys": [{**OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "ed"}]})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(document.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def server(filetype_artifact: Path, tmp_path_factory: pytest.TempPathFactory, jwks: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tenants")
    digests = {
        name: "sha256:" + hashlib.sha256(f"pk_{name}".encode()).hexdigest() for name in ("acme", "beta")
    }
    (folder / "keys.json").write_text(json.dumps(digests))
    environ = {
        "PREHEAT_CACHE": str(folder / "cache"),
        "PREHEAT_API_KEYS": str(folder / "keys.json"),
        "PREHEAT_JWT_KEYS": jwks,
        "PREHEAT_JWT_ISSUER": ISSUER,
        "PREHEAT_JWT_AUDIENCE": "preheat",
        "no_proxy": "*",
    }
    with serving(filetype_artifact, **environ) as running:
        running.wait_ready()
        yield running


def predict(server: Server, **headers: str) -> Answer:
    return server.request("POST", "/predict", BODY, {n.replace("_", "-"): v for n, v in headers.items()})


def test_credentials_of_either_kind_come_in(server: Server) -> None:
    assert predict(server, authorization="Bearer pk_acme").status == 200
    assert predict(server, x_api_key="pk_beta").status == 200
    assert predict(server, authorization=f"Bearer {token('user-7')}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer pk_nobody"},
        {"x-api-key": "acme"},
        {"authorization": f"Bearer {token('user-7', exp=1)}"},
        {"authorization": "Basic cGtfYWNtZTo="},
        {"x-tenant": "acme"},
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/filetype/infer", "/v2/requests/" + "0" * 40])
def test_without_them_inference_is_refused(server: Server, headers: dict[str, str], path: str) -> None:
    method = "GET" if "requests" in path else "POST"
    answer = server.request(method, path, BODY if method == "POST" else None, headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-preheat-outcome"] == "rejected"
    assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_of_the_server_stays_open(server: Server, path: str) -> None:
    assert server.request("GET", path).status == 200


def test_the_same_key_of_two_tenants_never_meets(server: Server) -> None:
    bearers = ["Bearer pk_acme", f"Bearer {token('acme')}", f"Bearer {token('user-8')}", "Bearer pk_beta"]
    for bearer in bearers:
        answer = predict(server, authorization=bearer, idempotency_key="k-1")
        assert (answer.status, "x-preheat-replayed" in answer.headers) == (200, False)
    for bearer in bearers:
        answer = predict(server, authorization=bearer, idempotency_key="k-1")
        assert (answer.status, "x-preheat-replayed" in answer.headers) == (200, True)
    again = predict(server, authorization=f"Bearer {token('user-8', jti='another')}", idempotency_key="k-1")
    assert "x-preheat-replayed" in again.headers


def test_a_key_file_that_is_wrong_ends_the_start(filetype_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"acme": "pk_acme"}')
    with serving(filetype_artifact, PREHEAT_API_KEYS=str(tmp_path / "keys.json")) as running:
        status, _, said = running.finish()
    assert status == 2
    assert "never holds a key itself" in said
    assert "pk_acme" not in said
    assert "Traceback" not in said


def test_metrics_traces_and_the_log_tell_tenants_apart(filetype_artifact: Path, tmp_path: Path) -> None:
    digest = "sha256:" + hashlib.sha256(b"pk_acme").hexdigest()
    (tmp_path / "keys.json").write_text(json.dumps({"acme": digest}))
    with collecting() as collector:
        environ = {
            "PREHEAT_CACHE": str(tmp_path / "cache"),
            "PREHEAT_API_KEYS": str(tmp_path / "keys.json"),
            "PREHEAT_ACCESS_LOG": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        }
        with serving(filetype_artifact, **environ) as running:
            assert predict(running, x_api_key="pk_acme").status == 200
            assert predict(running, x_api_key="pk_other").status == 401
            unheard = running.request("GET", f"/v2/requests/{'0' * 40}", headers={"x-api-key": "pk_acme"})
            assert unheard.status == 404
            text = running.request("GET", "/metrics").body.decode()
            _, out, _ = running.stop()
        (known, unknown) = sorted(collector.named("POST /predict", count=2), key=lambda s: s.begin_ns)
    tenants = {
        (sample.labels["tenant"], sample.labels["outcome"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "preheat_tenant_requests_total"
    }
    ((tenant, _),) = (pair for pair in tenants if pair[1] == "ok")
    assert "acme" in tenant
    assert tenants == {(tenant, "ok"): 1, ("", "rejected"): 1, (tenant, "rejected"): 1}
    assert known.attributes["preheat.tenant"] == tenant_digest(tenant)
    assert "preheat.tenant" not in unknown.attributes
    assert not [
        value for span in collector.spans for value in span.attributes.values() if "acme" in str(value)
    ]
    lines = [json.loads(line) for line in out.splitlines()[1:]]
    assert [line["tenant"] for line in lines] == [tenant, "", tenant]
