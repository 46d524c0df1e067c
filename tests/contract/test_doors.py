"""One suite over every door: they answer alike, good and bad, and a bad request harms no later one."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from preheat.manifest import Manifest, load

from .conftest import Door

PYTHON = b"#!/usr/bin/env python3\nimport os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 8
JSON = {"content_type": "application/json"}


def predict(door: Door, content: bytes = PYTHON) -> Any:
    body = json.dumps({"content": base64.b64encode(content).decode()}).encode()
    return door("POST", "/predict", body, **JSON)


@pytest.fixture(autouse=True)
def a_good_request_right_after(door: Door) -> Iterator[None]:
    yield
    answer = predict(door)
    assert answer.status == 200
    assert answer.json()["predictions"][0]["label"] == "python"


@pytest.fixture(scope="module")
def manifest(filetype_artifact: Any) -> Manifest:
    return load((filetype_artifact / "manifest.json").read_bytes())


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [65] * 2048, **changes}


def infer(door: Door, *inputs: dict[str, Any], **more: Any) -> Any:
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return door("POST", "/v2/models/filetype/infer", body, **JSON)


# What a good request gets


def test_health(door: Door) -> None:
    assert door("GET", "/v2/health/live").json() == {"live": True}
    assert door("GET", "/v2/health/ready").json() == {"ready": True}
    assert door("GET", "/v2/models/filetype/ready").json() == {"name": "filetype", "ready": True}


def test_metadata(door: Door, manifest: Manifest) -> None:
    assert door("GET", "/v2").json()["name"] == "preheat"
    document = door("GET", "/v2/models/filetype").json()
    assert document["name"] == "filetype"
    assert document["inputs"] == [{"name": "bytes", "datatype": "INT32", "shape": [-1, 2048]}]
    assert document["outputs"] == [{"name": "target_label", "datatype": "FP32", "shape": [-1, 214]}]
    version = document["versions"][0]
    assert manifest.version.endswith(version)
    assert door("GET", f"/v2/models/filetype/versions/{version}").json() == document
    assert door("GET", f"/v2/models/filetype/versions/{version}/ready").status == 200


def test_predict(door: Door) -> None:
    answer = predict(door)
    assert answer.status == 200
    assert answer.json()["predictions"][0]["label"] == "python"
    assert answer.headers["x-preheat-outcome"] == "ok"
    assert answer.headers["x-preheat-start"] in ("cold", "warm")
    assert len(answer.headers["x-preheat-instance"]) == 16
    assert "run;dur=" in answer.headers["server-timing"]
    assert answer.headers["content-type"] == "application/json"


def test_predict_takes_the_tasks_own_content_type(door: Door) -> None:
    answer = door("POST", "/predict", PYTHON, content_type="application/octet-stream")
    assert answer.json() == predict(door).json()


def test_infer_json(door: Door, manifest: Manifest) -> None:
    document = infer(door, tensor(), id="a").json()
    assert document["id"] == "a"
    assert document["model_name"] == "filetype"
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("target_label", "FP32", [1, 214])
    assert sum(output["data"]) == pytest.approx(1, abs=1e-3)


def test_infer_binary_both_ways(door: Door) -> None:
    head = {
        "inputs": [
            {
                "name": "bytes",
                "shape": [1, 2048],
                "datatype": "INT32",
                "parameters": {"binary_data_size": 8192},
            }
        ],
        "outputs": [{"name": "target_label", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    answer = door(
        "POST",
        "/v2/models/filetype/infer",
        text + struct.pack("<2048i", *[65] * 2048),
        content_type="application/octet-stream",
        inference_header_content_length=str(len(text)),
    )
    assert answer.status == 200
    length = int(answer.headers["inference-header-content-length"])
    values = struct.unpack("<214f", answer.body[length:])
    plain = infer(door, tensor()).json()["outputs"][0]["data"]
    assert values == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies(door: Door, encoding: str) -> None:
    body = json.dumps({"content": base64.b64encode(PYTHON).decode()}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    answer = door("POST", "/predict", packed, content_encoding=encoding, **JSON)
    assert answer.json()["predictions"][0]["label"] == "python"


def test_the_cold_start_is_told(door: Door, manifest: Manifest) -> None:
    report = door("GET", "/coldstart").json()
    assert report["artifact"] == {"name": "filetype", "version": manifest.version}
    names = [phase["phase"] for phase in report["phases"]]
    assert {"platform", "download", "import", "compile", "warmup"} <= set(names)
    page = door("GET", "/coldstart", accept="text/html,*/*")
    assert page.headers["content-type"].startswith("text/html")
    assert b"<svg" in page.body


def test_head_is_get_without_the_body(door: Door) -> None:
    answer = door("HEAD", "/v2/health/live")
    assert answer.status == 200


# What a bad one gets


@pytest.mark.parametrize(
    ("path", "code"),
    [("/v2/models/other/infer", 404), ("/v2/models/filetype/versions/9/infer", 404)],
)
def test_another_model_is_not_found(door: Door, path: str, code: int) -> None:
    answer = door("POST", path, json.dumps({"inputs": [tensor()]}).encode(), **JSON)
    assert answer.status == code
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/v2/models/filetype/infer", "POST"),
        ("POST", "/v2/health/live", "GET, HEAD"),
    ],
)
def test_another_method_is_refused(door: Door, method: str, path: str, allow: str) -> None:
    answer = door(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allow
    assert answer.json()["code"] == "method_not_allowed"


def test_an_unknown_path_is_not_found(door: Door) -> None:
    answer = door("GET", "/nothing/here")
    assert answer.status == 404
    assert answer.json()["code"] == "not_found"


DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"null", "object"),
        (b"[]", "object"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "bytes"),
        (b'{"inputs": 7}', "inputs"),
        (b'{"inputs": [NaN]}', "NaN"),
        (DEEP, "nested"),
        (b'{"inputs": [{"name": "bytes"}]}', "datatype"),
    ],
    ids=["empty", "cut", "utf16", "null", "list", "none", "no-inputs", "number", "nan", "deep", "bare"],
)
def test_a_malformed_infer_body(door: Door, body: bytes, said: str) -> None:
    answer = door("POST", "/v2/models/filetype/infer", body, **JSON)
    assert answer.status == 400
    assert said in answer.json()["error"]
    assert answer.headers["x-preheat-outcome"] == "rejected"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"name": "other"}, 400, "'bytes'"),
        ({"name": 7}, 400, "name"),
        ({"shape": [1, 2047], "data": [1] * 2047}, 400, "axis 1 must be 2048"),
        ({"shape": [2048]}, 400, "rank must be 2"),
        ({"shape": [2, 2048]}, 400, "2048"),
        ({"shape": [0, 2048], "data": []}, 400, "empty"),
        ({"shape": [-1, 2048]}, 400, "whole number"),
        ({"shape": [2**40, 2**40]}, 413, "limit"),
        ({"shape": [1.5, 2048]}, 400, "whole number"),
        ({"shape": "x"}, 400, "shape"),
        ({"shape": [1] * 100}, 413, "rank"),
        ({"datatype": "FP32"}, 400, "INT32"),
        ({"datatype": "FLOAT"}, 400, "FLOAT"),
        ({"data": [1] * 2047}, 400, "2048"),
        ({"data": [1] * 2049}, 400, "2048"),
        ({"data": ["a"] * 2048}, 400, "bytes"),
        ({"data": [1.5] * 2048}, 400, "bytes"),
        ({"data": [2**31] * 2048}, 400, "bytes"),
        ({"data": [None] * 2048}, 400, "bytes"),
        ({"data": {"a": 1}}, 400, "data"),
        ({"data": [[1] * 2048, [1] * 2048]}, 400, "2048"),
        ({"parameters": {"binary_data_size": 8192}}, 400, "binary"),
        ({"parameters": {"shared_memory_region": "r"}}, 400, "shared memory"),
    ],
)
def test_a_tensor_that_does_not_fit(door: Door, changes: dict[str, Any], status: int, said: str) -> None:
    answer = infer(door, tensor(**changes))
    assert answer.status == status, answer.body
    assert said in answer.json()["error"]


def test_inputs_named_twice_or_unknown_and_outputs_unknown(door: Door) -> None:
    assert infer(door, tensor(), tensor()).status == 400
    assert infer(door, tensor(), tensor(name="more")).status == 400
    assert infer(door, tensor(), outputs=[{"name": "nothing"}]).status == 400


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999", "0", "x"])
def test_a_header_length_that_lies(door: Door, length: str) -> None:
    body = json.dumps({"inputs": [tensor()]}).encode()
    answer = door("POST", "/v2/models/filetype/infer", body, inference_header_content_length=length)
    assert answer.status == 400


def test_content_types_and_encodings_not_spoken(door: Door) -> None:
    assert door("POST", "/predict", b"a=b", content_type="application/x-www-form-urlencoded").status == 415
    assert door("POST", "/predict", b"{}", content_encoding="br", **JSON).status == 415
    assert door("POST", "/predict", b"{}", content_encoding="gzip", **JSON).status == 400


def test_a_decompression_bomb_is_too_large(door: Door) -> None:
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    answer = door("POST", "/predict", bomb, content_encoding="gzip", **JSON)
    assert answer.status == 413
    assert answer.json()["code"] == "too_large"


def test_a_body_over_the_limit_is_too_large(door: Door, manifest: Manifest) -> None:
    answer = door(
        "POST", "/predict", b"x" * (manifest.limits.bytes + 1), content_type="application/octet-stream"
    )
    assert answer.status == 413


@pytest.mark.parametrize(
    "document",
    [
        None,
        7,
        "x",
        [],
        {},
        {"content": 7},
        {"content": None},
        {"content": "*"},
        {"content": [1]},
        {"content": []},
    ],
)
def test_a_predict_body_that_does_not_fit(door: Door, document: Any) -> None:
    answer = door("POST", "/predict", json.dumps(document).encode(), **JSON)
    assert answer.status == 400, answer.body
    assert answer.json()["code"] == "invalid_request"


def test_embeddings_of_a_model_that_has_none(door: Door) -> None:
    answer = door("POST", "/v1/embeddings", b'{"input": "a", "model": "filetype"}', **JSON)
    assert answer.status == 404
    assert "embed" in answer.json()["error"]
