"""Schemathesis, from the OpenAPI document: no 5xx, and no answer that the document does not describe."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks

from preheat.adapters.schemas import DOCS

from ..conftest import Server

HELD = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.allow_header_conformance,
]
LONG = {"x-preheat-timeout": "30", "grpc-timeout": "30S"}
"""In place of generated ones, which would be up at once: 504 is a server error to Schemathesis."""


@pytest.fixture(scope="module")
def document(embed_server: Server) -> Any:
    """The document, as the server publishes it."""
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{embed_server.port}/openapi.json")


def test_every_hot_route_is_documented(document: Any) -> None:
    paths = document.raw_schema["paths"].items()
    assert {(method.upper(), path.strip("/")) for path, methods in paths for method in methods} == set(DOCS)


@pytest.mark.parametrize(("method", "path"), sorted(DOCS))
def test_every_route_answers_as_documented(
    document: Any, embed_server: Server, method: str, path: str
) -> None:
    operations = (found.ok() for found in document.get_all_operations())
    (operation,) = (o for o in operations if (o.method.upper(), o.path.strip("/")) == (method, path))
    statuses: list[int] = []

    @given(case=operation.as_strategy())
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        if "model" in case.path_parameters and len(statuses) % 3:
            case.path_parameters["model"] = "embed"  # two of three times the model that is there
        for name, long in LONG.items():
            if name in (case.headers or {}):
                case.headers[name] = long
        response = case.call_and_validate(checks=HELD, timeout=10)
        statuses.append(response.status_code)

    run()
    assert statuses
    assert embed_server.request("POST", "/predict", {"input": "still there"}).status == 200
