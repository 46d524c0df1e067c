"""Each function under the genuine Runtime Interface Emulator and awslambdaric, invoked over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preheat import manifest as manifests
from preheat.measure.answers import differs

from ...conftest import ROOT, event
from .conftest import Emulated

Start = Callable[..., Emulated]
MIB = 1024**2


def sample(name: str) -> tuple[Any, Any, float]:
    """The recorded request of a function's artifact, its answer, and how far another may be off."""
    data = (ROOT / "functions" / name / "artifact" / "manifest.json").read_bytes()
    manifest = manifests.load(data)
    assert manifest.sample is not None
    return manifest.sample["request"], manifest.sample["answer"], manifest.tolerance


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_each_function_answers_every_kind_of_event(
    name: str, emulated: Start, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(f"{name}_artifact")
    asked, wanted, tolerance = sample(name)
    function = emulated(name)
    first = function.http("POST", "/predict", json.dumps(asked).encode(), content_type="application/json")
    assert first["statusCode"] == 200, function.log()
    assert differs(json.loads(first["body"]), wanted, tolerance) is None
    assert first["headers"]["x-preheat-start"] == "cold"
    for front in ("api_gateway_v1", "api_gateway_v2", "alb", "alb_multi_value", "function_url_iam"):
        sent = {**event(front), "body": json.dumps(asked)}
        answer = function.invoke(sent)
        assert differs(json.loads(answer["body"]), wanted, tolerance) is None
    assert differs(function.invoke(asked), wanted, tolerance) is None
    batch = event("sqs")
    for record in batch["Records"]:
        record["body"] = json.dumps(asked)
        record["messageAttributes"].pop("route", None)
    assert function.invoke(batch) == {"batchItemFailures": []}
    report = json.loads(function.http("GET", "/coldstart")["body"])
    assert (report["platform"], report["kind"], report["threads"]) == ("lambda", "fresh", 1)
    assert report["unaccounted_ms"] < 0.1 * report["total_ms"]
    assert "/predict" in json.loads(function.http("GET", "/openapi.json")["body"])["paths"]


def test_bytes_and_errors_come_through(filetype_artifact: Path, emulated: Start) -> None:
    function = emulated("filetype")
    data = b"#!/usr/bin/env python3\nimport os\n\n\ndef main() -> None:\n    print(os.getcwd())\n" * 8
    answer = function.http("POST", "/predict", data, content_type="application/octet-stream")
    assert json.loads(answer["body"])["predictions"][0]["label"] == "python"
    failed = function.invoke({"wrong": 1})
    assert (failed["errorType"], "content" in failed["errorMessage"]) == ("InvalidRequestError", True)
    other = function.invoke({"Records": [{"eventSource": "aws:s3"}]})
    assert "aws:s3" in other["errorMessage"]
    assert function.http("POST", "/predict", b"{", content_type="application/json")["statusCode"] == 400


def test_a_large_answer_comes_or_is_refused_in_words(
    tmp_path: Path, emulated: Start, filetype_artifact: Path
) -> None:
    app = tmp_path / "large.py"
    app.write_text(
        "from preheat import Function\n"
        "function = Function(__file__)\n"
        "@function.api.get('/large/{size}')\n"
        "def large(size: int) -> str:\n    return 'x' * size\n"
        "handler = function.handler\n"
    )
    function = emulated(app, PREHEAT_ARTIFACT=str(filetype_artifact))
    fits = function.http("GET", f"/large/{6 * MIB - 4096}")
    assert fits["statusCode"] == 200
    assert len(fits["body"]) == 6 * MIB - 4096 + 2
    refused = function.http("GET", f"/large/{6 * MIB}")
    assert (refused["statusCode"], json.loads(refused["body"])["code"]) == (413, "answer_too_large")
    past = function.http("POST", "/predict", b"x" * (6 * MIB), content_type="application/octet-stream")
    assert past["errorType"] == "Runtime.UnmarshalError"  # the emulator cuts what Lambda refuses
    assert function.http("GET", "/v2/health/ready")["statusCode"] == 200


def test_an_artifact_that_is_missing_is_the_init_error_and_the_next_start_succeeds(
    tmp_path: Path, emulated: Start, filetype_artifact: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text((ROOT / "functions" / "filetype" / "app.py").read_text())
    function = emulated(app)
    asked, wanted, tolerance = sample("filetype")
    failed = function.invoke(asked)
    assert str(tmp_path / "artifact") in json.dumps(failed)
    assert failed["errorType"] == "ArtifactError"
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    assert differs(function.invoke(asked), wanted, tolerance) is None


def test_a_time_budget_that_is_spent_is_a_timeout_in_words(
    tmp_path: Path, emulated: Start, filetype_artifact: Path
) -> None:
    app = tmp_path / "late.py"
    app.write_text(
        "import time\n"
        "from preheat import Function\n"
        "function = Function(__file__)\n"
        "inner = function.handler\n"
        "def handler(event, context):\n"
        "    time.sleep(context.get_remaining_time_in_millis() / 1000 - 0.2 if event.pop('late', 0) else 0)\n"
        "    context.get_remaining_time_in_millis = lambda: -1\n"
        "    return inner(event, context)\n"
    )
    function = emulated(app, PREHEAT_ARTIFACT=str(filetype_artifact))
    answer = function.http("POST", "/predict", b"x", content_type="application/octet-stream")
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (504, "timed_out")
    asked, _, _ = sample("filetype")
    assert function.invoke(asked)["errorType"] == "TimedOutError"


def test_measure_starts_the_function_as_lambda_does(filetype_artifact: Path, tmp_path: Path) -> None:
    app = ROOT / "functions" / "filetype" / "app.py"
    words = ["measure", str(app), "--platform", "lambda", "--rounds", "2", "--floor", "--json"]
    environ = {**os.environ, "PREHEAT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "preheat", *words], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert (report["platform"], row["correct"], row["samples"], row["threads"]) == ("lambda", True, 2, 1)
    assert {"platform", "import", "compile", "warmup", "first_request"} <= set(row["phases"])
    assert row["pss_mib"] > 10


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["--platform", "lambda", "--rie", "/nowhere/rie"], {}, "aws-sam-cli"),
        (["--platform", "lambda"], {"LAMBDA_RIE": "/nowhere/rie"}, "--rie or LAMBDA_RIE"),
        (["--platform", "knative"], {}, "process or lambda"),
    ],
)
def test_measure_says_what_it_lacks(words: list[str], environ: dict[str, str], said: str) -> None:
    app = ROOT / "functions" / "filetype" / "app.py"
    done = subprocess.run(
        [sys.executable, "-m", "preheat", "measure", str(app), *words],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_measure_wants_a_function_for_lambda(filetype_artifact: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "preheat", "measure", str(filetype_artifact), "--platform", "lambda"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "app.py" in done.stderr) == (2, True)
