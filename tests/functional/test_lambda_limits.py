"""What goes through the Lambda handler whole, and what is refused in words: cookies, bytes, sizes, shapes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request, Response

from preheat import Function
from preheat.errors import InvalidRequestError, TooLargeError
from preheat.settings import Settings

from ..conftest import event
from .test_lambda_events import HTTP, PYTHON

MIB = 1024**2


@pytest.fixture(scope="module")
def function(filetype_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    cache = tmp_path_factory.mktemp("cache")
    made = Function(environ={"PREHEAT_ARTIFACT": str(filetype_artifact), "PREHEAT_CACHE": str(cache)})

    @made.api.get("/cookies")
    def cookies(request: Request) -> Response:
        response = Response(json.dumps(request.cookies), media_type="application/json")
        response.set_cookie("c", "3")
        response.set_cookie("d", "4")
        return response

    @made.api.post("/bytes")
    async def same(request: Request) -> Response:
        return Response(await request.body(), media_type=request.headers["content-type"])

    @made.api.get("/large/{size}")
    def large(size: int) -> Response:
        return Response('"' + "é" * size + '"', media_type="application/json")

    @made.api.get("/query")
    def query(request: Request) -> list[tuple[str, str]]:
        return request.query_params.multi_items()

    yield made
    made.handler.close()


def sent(name: str, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    """The sample event of a front end, with another request in it."""
    made = event(name)
    for field in ("path", "rawPath"):
        if field in made:
            made[field] = path
    if "http" in made["requestContext"]:
        made["requestContext"]["http"].update(method=method, path=path)
    else:
        made["httpMethod"] = method
    for header, value in headers.items():
        header = header.replace("_", "-")
        for known in list(made.get("headers") or ()):
            if known.lower() == header:
                del made["headers"][known]
        if made.get("headers"):
            made["headers"][header] = value
        if made.get("multiValueHeaders"):
            for known in list(made["multiValueHeaders"]):
                if known.lower() == header:
                    del made["multiValueHeaders"][known]
            made["multiValueHeaders"][header] = [value]
    made["body"] = None if body is None else base64.b64encode(body).decode()
    made["isBase64Encoded"] = body is not None
    return made


def set_cookies(answer: Any) -> list[str]:
    """Every cookie that an answer sets, wherever its front end wants them."""
    found = [*answer.get("cookies", ())]
    for name, values in (answer.get("multiValueHeaders") or {}).items():
        found += values if name.lower() == "set-cookie" else []
    found += [v for n, v in (answer.get("headers") or {}).items() if n.lower() == "set-cookie"]
    return [cookie.partition(";")[0] for cookie in found]


@pytest.mark.parametrize("name", HTTP)
def test_cookies_go_both_ways(function: Function, name: str) -> None:
    asked = sent(name, "GET", "/cookies", cookie="a=1; b=2")
    if asked.get("version") == "2.0":
        asked["cookies"] = ["a=1", "b=2"]
        asked["headers"].pop("cookie", None)
    answer = function.handler(asked)
    assert answer["statusCode"] == 200, answer
    assert json.loads(answer["body"]) == {"a": "1", "b": "2"}
    assert set_cookies(answer) == ["c=3", "d=4"]
    assert ("cookies" in answer) == ("version" in asked and asked["version"] == "2.0")


@pytest.mark.parametrize("name", HTTP)
def test_binary_bodies_go_both_ways(function: Function, name: str) -> None:
    data = bytes(range(256)) * 3
    answer = function.handler(sent(name, "POST", "/bytes", data, content_type="application/octet-stream"))
    assert answer["isBase64Encoded"] is True
    assert base64.b64decode(answer["body"]) == data


def test_text_that_is_not_utf8_goes_as_bytes(function: Function) -> None:
    data = "naïve".encode("latin-1")
    kind = "text/plain; charset=latin-1"
    answer = function.handler(sent("function_url", "POST", "/bytes", data, content_type=kind))
    assert base64.b64decode(answer["body"]) == data


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("api_gateway_v2", {"rawQueryString": "q=1&q=a%20b"}),
        ("api_gateway_v1", {"multiValueQueryStringParameters": {"q": ["1", "a b"]}}),
        ("alb_multi_value", {"multiValueQueryStringParameters": {"q": ["1", "a%20b"]}}),
    ],
)
def test_queries_arrive_as_they_were_sent(function: Function, name: str, given: Any) -> None:
    answer = function.handler({**sent(name, "GET", "/query"), **given})
    assert json.loads(answer["body"]) == [["q", "1"], ["q", "a b"]]


@pytest.mark.parametrize(
    ("name", "limit"), [("function_url", 6 * MIB), ("api_gateway_v1", 6 * MIB), ("alb", MIB)]
)
def test_an_answer_that_lambda_would_not_pass_on_is_told(function: Function, name: str, limit: int) -> None:
    for size, fits in ((limit // 6 - 2000, True), (limit // 6, False)):  # é takes six bytes as JSON
        answer = function.handler(sent(name, "GET", f"/large/{size}"))
        assert len(json.dumps(answer)) <= limit
        if fits:
            assert answer["statusCode"] == 200
        else:
            told = json.loads(answer["body"])
            assert (answer["statusCode"], told["code"]) == (413, "answer_too_large")
            assert "send fewer inputs" in told["error"]


def test_a_hot_routes_answer_is_held_against_the_limit_too(function: Function) -> None:
    rows = 4000
    head = {
        "inputs": [
            {
                "name": "bytes",
                "shape": [rows, 2048],
                "datatype": "INT32",
                "parameters": {"binary_data_size": rows * 8192},
            }
        ]
    }
    function.start()
    loaded = function.service.current
    assert loaded is not None
    # A batch of one input whose answer is made large: the filetype model's own limits let no such answer be.
    run, loaded.engine.infer = loaded.engine.infer, lambda *_: _wide(loaded)  # type: ignore[method-assign]
    try:
        body = json.dumps(
            {"inputs": [{**head["inputs"][0], "shape": [1, 2048], "data": [1] * 2048, "parameters": {}}]}
        )
        asked = sent("function_url", "POST", "/v2/models/filetype/infer", body.encode())
        asked["headers"]["content-type"] = "application/json"
        answer = function.handler(asked)
    finally:
        loaded.engine.infer = run  # type: ignore[method-assign]
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (413, "answer_too_large")


def _wide(loaded: Any) -> Any:
    import numpy as np

    name = loaded.engine.manifest.outputs[0].name
    return {name: np.full((1, 1_000_000), 1 / 3, dtype=np.float32)}


@pytest.mark.parametrize("name", ["function_url", "api_gateway_v1", "alb"])
@pytest.mark.parametrize("path", ["/predict", "/bytes"])
def test_a_request_past_six_megabytes_is_told(function: Function, name: str, path: str) -> None:
    asked = sent(name, "POST", path, b"x" * (6 * MIB + 4), content_type="application/octet-stream")
    answer = function.handler(asked)
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (413, "too_large")
    asked.update(body="x" * (6 * MIB + 1), isBase64Encoded=False)
    assert function.handler(asked)["statusCode"] == 413


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requestContext": [7]}, "requestContext"),
        ({"headers": "x"}, "headers"),
        ({"multiValueHeaders": {"a": "b"}}, "multiValueHeaders"),
        ({"cookies": "a=b"}, "cookies"),
        ({"rawPath": 7}, "path"),
        ({"body": {"content": PYTHON}}, "body must be a string"),
        ({"body": "%%%", "isBase64Encoded": True}, "not base64"),
        ({"body": "YQ", "isBase64Encoded": True}, "not base64"),
    ],
)
def test_an_http_event_of_another_shape_is_refused(function: Function, change: Any, said: str) -> None:
    asked = {**sent("function_url", "POST", "/predict"), **change}
    answer = function.handler(asked)
    assert answer["statusCode"] == 400
    assert said in json.loads(answer["body"])["error"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"Records": [{"eventSource": "aws:s3", "s3": {}}]}, "aws:s3"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}, "aws:sns"),
        ({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}, "aws.events"),
        ({"requestContext": {"connectionId": "x", "routeKey": "$default"}, "body": "{}"}, "web socket"),
        ({"type": "REQUEST", "methodArn": "arn:aws:execute-api:eu-west-1:1:x/y/GET/"}, "authorizer"),
    ],
)
def test_events_of_other_services_are_named(function: Function, other: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as raised:
        function.handler(other)
    assert raised.value.code == "unknown_event"


@pytest.mark.parametrize("direct", [None, 7, "x", [], {}, {"content": 7}])
def test_a_direct_event_that_is_no_request_says_why(function: Function, direct: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"content|object"):
        function.handler(direct)
    assert function.handler({"content": PYTHON})["predictions"][0]["label"] == "python"


def test_a_direct_answer_over_the_limit_fails_with_its_reason(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    function.start()
    loaded = function.service.current
    assert loaded is not None
    monkeypatch.setattr(loaded.task, "finish", lambda *_: {"predictions": "x" * (6 * MIB)})
    with pytest.raises(TooLargeError, match="fewer inputs"):
        function.handler({"content": PYTHON})


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"import os", 400),
        ("application/json", b"\xff\xfe{}", 400),
        ("text/csv", b"a,b", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
    ],
)
def test_a_body_that_is_not_what_its_content_type_says(
    function: Function, kind: str, body: bytes, status: int
) -> None:
    assert (
        function.handler(sent("function_url", "POST", "/predict", body, content_type=kind))["statusCode"]
        == status
    )


def test_a_stage_before_the_path_is_no_part_of_it(function: Function) -> None:
    for stage, path in (("prod", "/prod/predict"), ("v2", "/v2/v2/health/live"), ("prod", "/prod/query")):
        method = "POST" if path.endswith("predict") else "GET"
        body = json.dumps({"content": PYTHON}).encode() if method == "POST" else None
        asked = sent("api_gateway_v2", method, path, body)
        asked["requestContext"]["stage"] = stage
        assert function.handler(asked)["statusCode"] == 200


@pytest.mark.parametrize(
    ("memory", "threads"), [("128", 1), ("1769", 1), ("3537", 1), ("3538", 2), ("10240", 5), ("", 0)]
)
def test_the_memory_size_decides_the_threads(memory: str, threads: int) -> None:
    environ = {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": memory}
    assert Settings().thread_count(environ) == threads
    assert Settings(threads=3).thread_count(environ) == 3
