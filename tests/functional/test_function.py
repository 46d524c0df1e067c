"""`Function`: what an app.py defines, on the platforms that import it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from preheat import Function
from preheat.errors import ArtifactError, InvalidRequestError, SettingsError, UsageError
from preheat.function import platform
from preheat.measure.client import free_port

from ..conftest import ROOT

REQUEST = {"content": base64.b64encode(b"import os\n\n\ndef main():\n    return os.getcwd()\n" * 8).decode()}


def function(artifact: Path | str, cache: Path, **environ: str) -> Function:
    return Function(environ={"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(cache), **environ})


def test_lambda_starts_the_model_when_the_module_is_imported(filetype_artifact: Path, cache: Path) -> None:
    made = function(filetype_artifact, cache, AWS_LAMBDA_RUNTIME_API="x", AWS_LAMBDA_FUNCTION_NAME="f")
    assert made.service.current is None
    handler = made.handler
    assert made.service.current is not None
    assert made.service.current.report.platform == "lambda"
    assert handler(REQUEST)["predictions"][0]["label"] == "python"


def test_a_direct_invocation_that_does_not_fit_fails_with_its_reason(
    filetype_artifact: Path, cache: Path
) -> None:
    handler = function(filetype_artifact, cache).handler
    with pytest.raises(InvalidRequestError, match="content"):
        handler({"wrong": 1})
    assert handler(REQUEST)["predictions"][0]["label"] == "python"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"body": "not base64 !", "isBase64Encoded": True}, "not base64"),
        ({"body": 7}, "must be a string"),
    ],
)
def test_an_event_that_is_broken_is_answered(
    filetype_artifact: Path, cache: Path, change: dict[str, Any], said: str
) -> None:
    handler = function(filetype_artifact, cache).handler
    event = {
        "rawPath": "/predict",
        "requestContext": {"http": {"method": "POST"}},
        "headers": {"content-type": "application/json"},
        "body": json.dumps(REQUEST),
        "isBase64Encoded": False,
    }
    assert handler(event)["statusCode"] == 200
    answer = handler({**event, **change})
    assert answer["statusCode"] == 400
    assert said in json.loads(answer["body"])["error"]


def test_lambda_answers_what_is_not_hot_through_fastapi(filetype_artifact: Path, cache: Path) -> None:
    event = {"rawPath": "/openapi.json", "requestContext": {"http": {"method": "GET"}}, "headers": {}}
    handler = function(filetype_artifact, cache).handler
    answer = handler(event)
    handler.close()
    assert answer["statusCode"] == 200
    assert "/predict" in json.loads(answer["body"])["paths"]


def test_an_artifact_that_is_missing_is_named_and_found_later(
    tmp_path: Path, filetype_artifact: Path, cache: Path
) -> None:
    made = function(tmp_path / "artifact", cache)
    with pytest.raises(ArtifactError, match="does not exist"):
        made.start()
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    again = function(tmp_path / "artifact", cache)
    again.start()
    assert again.service.current is not None


def test_nothing_named_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="PREHEAT_ARTIFACT"):
        Function(environ={}).start()
    with pytest.raises(SettingsError, match="did you mean"):
        Function(environ={"PREHEAT_ARTEFACT": "x"})


def test_routes_of_ones_own_beside_the_hot_ones(filetype_artifact: Path, cache: Path) -> None:
    made = function(filetype_artifact, cache)

    @made.api.get("/hello/{name}")
    def hello(name: str) -> dict[str, str]:
        return {"hello": name}

    event = {"rawPath": "/hello/you", "requestContext": {"http": {"method": "GET"}}, "headers": {}}
    assert json.loads(made.handler(event)["body"]) == {"hello": "you"}
    made.handler.close()


def _asked(app: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body)

    return asyncio.run(ask())


def test_an_asgi_server_without_lifespan_starts_the_model_with_the_first_request(
    filetype_artifact: Path, cache: Path
) -> None:
    answer = _asked(function(filetype_artifact, cache).app, "POST", "/predict", REQUEST)
    assert answer.status_code == 200
    assert answer.headers["x-preheat-start"] == "cold"
    missing = _asked(function("/nowhere", cache).app, "POST", "/predict", REQUEST)
    assert (missing.status_code, missing.json()["code"]) == (503, "failed_start")


def test_without_fastapi_a_path_that_is_not_hot_says_what_to_install(
    filetype_artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "preheat.adapters.api", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    made = function(filetype_artifact, cache)
    answer = _asked(made.app, "GET", "/docs")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_api")
    assert "pip install 'preheat[api]'" in answer.json()["error"]
    event = {"rawPath": "/docs", "requestContext": {"http": {"method": "GET"}}, "headers": {}}
    assert made.handler(event)["statusCode"] == 404
    assert _asked(made.app, "POST", "/predict", REQUEST).status_code == 200


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "process"),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, "lambda"),
        ({"K_SERVICE": "s", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "knative"),
        ({"K_SERVICE": "s"}, "cloudrun"),
    ],
)
def test_the_platform_is_told_by_its_own_names(environ: dict[str, str], name: str) -> None:
    assert platform(environ) == name


def test_serve_is_the_same_server(filetype_artifact: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "preheat", "serve"]
    server = subprocess.Popen(
        [*command, str(filetype_artifact), "--port", str(free_port()), "--host", "127.0.0.1"],
        env={**os.environ, "PREHEAT_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stderr is not None
    line = server.stderr.readline()
    assert line.startswith(f"serving {filetype_artifact} on http://127.0.0.1:")
    with socket.create_connection(("127.0.0.1", int(re.findall(r":(\d+) ", line)[0]))):
        pass  # it is true from the line on
    assert json.loads(server.stdout.readline())["kind"] == "fresh"
    server.terminate()
    server.communicate(timeout=30)
    assert server.returncode == 0
    done = subprocess.run(
        [*command, "/nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the artifact /nowhere does not exist")


def test_serve_says_nothing_of_serving_what_it_cannot(filetype_artifact: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for target, said in (
            (str(filetype_artifact), f"error: cannot listen on 127.0.0.1:{port}"),
            ("/nowhere/app.py", "error: /nowhere/app.py does not exist"),
            (str(filetype_artifact.parent), f"error: {filetype_artifact.parent} is not an artifact"),
        ):
            command = ["serve", target, "--port", port, "--host", "127.0.0.1"]
            done = subprocess.run(
                [sys.executable, "-m", "preheat", *command], capture_output=True, text=True, timeout=60
            )
            assert done.returncode in (1, 2)
            assert done.stderr.startswith(said)
            assert done.stderr.count("\n") == 1


def test_try_prints_answers_and_phases(filetype_artifact: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    command = [sys.executable, "-m", "preheat", "try", str(filetype_artifact), str(ROOT / "LICENSE")]
    done = subprocess.run(
        [*command, "--report", str(page), "--json"], capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    (answer,) = document["answers"]
    assert (answer["status"], answer["start"]) == (200, "cold")
    assert answer["body"]["predictions"][0]["label"] == "txt"
    assert document["first_answer_ms"] >= document["coldstart"]["total_ms"] - 20
    assert "<svg" in page.read_text()
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "compile" in shown
    assert '"label": "txt"' in shown


def test_try_says_what_is_wrong(filetype_artifact: Path, tmp_path: Path) -> None:
    for arguments, status, said in (
        ([str(filetype_artifact), "/nowhere"], 2, "/nowhere cannot be read"),
        ([str(tmp_path)], 1, "it has no manifest.json"),
    ):
        command = [sys.executable, "-m", "preheat", "try", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


DEFECTIVE = """
import numpy as np
from preheat import Function, Task


class Defective(Task):
    def prepare(self, request):
        if request == "other name":
            return {"byte": np.zeros((1, 2048), dtype=np.int32)}
        if request == "other type":
            return {"bytes": np.zeros((1, 2048), dtype=np.int64)}
        return {"bytes": np.zeros((1, 2048), dtype=np.int32)}

    def finish(self, outputs, inputs):
        return outputs["target_label"]


function = Function(__file__, task=Defective)
"""


@pytest.mark.parametrize(
    ("request_text", "said"),
    [
        ('"other name"', "Defective.prepare must give 'bytes' as INT32; it gave no tensor of that name"),
        ('"other type"', "Defective.prepare must give 'bytes' as INT32; it gave INT64"),
        ('"fine"', "Object of type ndarray is not JSON serializable"),
    ],
)
def test_a_defect_of_a_task_is_the_servers_and_try_shows_its_log(
    tmp_path: Path, filetype_artifact: Path, request_text: str, said: str
) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(DEFECTIVE)
    (tmp_path / "request.json").write_text(request_text)
    command = [sys.executable, "-m", "preheat", "try", str(tmp_path / "app.py")]
    done = subprocess.run([*command, str(tmp_path / "request.json")], capture_output=True, text=True)
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    unnamed = subprocess.run(command, capture_output=True, text=True)
    assert unnamed.returncode == 2
    assert "name a file to send" in unnamed.stderr
