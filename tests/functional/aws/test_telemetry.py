"""What a function on Lambda tells CloudWatch and X-Ray, under the emulator and from a restored clone."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preheat import manifest as manifests
from preheat.adapters.lambda_telemetry import Answered
from preheat.measure.lambda_runtime import http_event

from ...conftest import ROOT
from .conftest import Emulated

Start = Callable[..., Emulated]
BODY = json.dumps({"content": base64.b64encode(b"import os\n" * 40).decode()}).encode()
JSON = {"content_type": "application/json"}


def emf(log: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return [line for line in lines if "_aws" in line]


def check_emf(line: dict[str, Any], dimensions: dict[str, str]) -> dict[str, float]:
    """The values of a valid line of CloudWatch's embedded metric format, by metric."""
    meta = line["_aws"]
    assert abs(meta["Timestamp"] / 1000 - time.time()) < 300
    (directive,) = meta["CloudWatchMetrics"]
    assert directive["Namespace"] == "Preheat"
    names, by_version = directive["Dimensions"]
    assert set(by_version) == {"service", "function_version"}, "what the template's alarm names"
    assert len(names) <= 30
    assert {name: line[name] for name in names if name in dimensions} == dimensions
    assert all(isinstance(line[name], str) and line[name] for name in names)
    found = {}
    for metric in directive["Metrics"]:
        assert metric["Unit"] == "Milliseconds"
        value = line[metric["Name"]]
        (found[metric["Name"]],) = value if isinstance(value, list) else [value]
    return found


def told(report: dict[str, Any]) -> dict[str, float]:
    """What /coldstart says, as the metrics are called."""
    wanted = {"total_ms": report["total_ms"], "unaccounted_ms": report["unaccounted_ms"]}
    for phase in report["phases"]:
        name = f"{phase['phase']}_ms"
        wanted[name] = wanted.get(name, 0.0) + phase["duration_ms"]
    return wanted


def eventually(look: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return seen


def test_one_invocation_is_enough_for_the_metrics_and_they_are_the_reports(
    filetype_artifact: Path, emulated: Start
) -> None:
    function = emulated("filetype", AWS_LAMBDA_FUNCTION_VERSION="7")
    assert function.http("POST", "/predict", BODY, **JSON)["statusCode"] == 200
    (line,) = eventually(lambda: emf(function.log()))
    report = json.loads(function.http("GET", "/coldstart")["body"])
    dimensions = {"start": "fresh", "variant": report["variant"], "service": line["function_name"]}
    values = check_emf(line, {**dimensions, "function_version": line["function_version"]})
    assert {"platform_ms", "import_ms", "download_ms", "compile_ms", "warmup_ms", "first_request_ms"} <= set(
        values
    )
    assert values == pytest.approx(told(report), abs=0.01)
    assert (line["report"], line["instance"]) == (report["id"], report["instance"])
    for _ in range(2):
        function.http("POST", "/predict", BODY, **JSON)
    assert len(emf(function.log())) == 1


def test_the_first_answer_is_posted_before_its_record_is_written(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    """At the Runtime API of a rehearsal; the emulator keeps an answer until the next event is asked for."""
    app = tmp_path / "app.py"
    app.write_text(
        "import time\n"
        "from preheat import Function\n"
        "from preheat.adapters import lambda_telemetry\n"
        "lambda_telemetry.Telemetry.record = lambda *given: time.sleep(3)\n"
        "function = Function(__file__)\n"
        "handler = function.handler\n"
    )
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "preheat", "rehearse", str(app), "--clones", "2", "--json"],
        capture_output=True,
        timeout=120,
    )
    assert time.monotonic() - began > 6
    assert json.loads(done.stdout)["first_answer_ms"]["max"] < 3000


def test_later_lines_are_structured_and_carry_the_invocation(
    filetype_artifact: Path, emulated: Start
) -> None:
    function = emulated("filetype")
    function.http("POST", "/predict", BODY, **JSON)
    batch = json.loads((ROOT / "tests" / "events" / "sqs.json").read_text())
    batch["Records"][0]["body"] = "no JSON"
    assert function.invoke(batch)["batchItemFailures"]
    lines = [json.loads(line) for line in function.log().splitlines() if line.startswith("{")]
    (failed, *_) = [line for line in lines if line.get("message") == "message failed"]
    assert failed["preheat"]["message_id"] == batch["Records"][0]["messageId"]
    assert failed["level"] == "INFO"
    assert len(failed["function_request_id"]) == 36


COLD = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent))
import app
class Context:
    aws_request_id = "r-1"
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:f:7"
    def get_remaining_time_in_millis(self): return 30000
answer = app.handler(json.loads(sys.argv[2]), Context())
assert answer["statusCode"] == 200, answer
loaded = sorted(sys.modules)
assert "aws_lambda_powertools" not in loaded
del answer
assert "aws_lambda_powertools" in sys.modules
print("modules", json.dumps(loaded))
"""
FORBIDDEN = {
    *(
        "aws_lambda_powertools",
        "aws_xray_sdk",
        "boto3",
        "botocore",
        "fastapi",
        "starlette",
        "mangum",
        "asyncio",
    ),
    *("pydantic", "anyio", "uvicorn", "ssl", "http.client", "urllib.request", "email", "sqlite3", "torch"),
    *(
        "snapshot_restore_py",
        "preheat.snapshot",
        "preheat.server",
        "preheat.adapters.connection",
        "httptools",
    ),
    *("preheat.adapters.sqs", "preheat.adapters.keys", "preheat.idempotency", "preheat.measure", "logging"),
}


def run_cold(program: str, name: str, cache: Path, **more: str) -> list[str]:
    """Run a program on a function and its recorded request; gives the modules that it prints."""
    sample = manifests.load((ROOT / "functions" / name / "artifact" / "manifest.json").read_bytes()).sample
    assert sample is not None
    body = json.dumps(sample["request"]).encode()
    event = http_event("POST", "/predict", body, {"content-type": "application/json"})
    environ = {
        "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9",
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769",
        "PREHEAT_CACHE": str(cache),
        "PATH": "",
        "PYTHONPATH": str(ROOT / "src"),
        **more,
    }
    words = [sys.executable, "-c", program, str(ROOT / "functions" / name / "app.py"), json.dumps(event)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("modules ")]
    return list(json.loads(line.removeprefix("modules ")))


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_the_cold_path_imports_only_what_the_first_answer_needs(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(f"{name}_artifact")
    loaded = run_cold(COLD, name, tmp_path)
    assert {"numpy", "onnxruntime", "preheat.engine"} <= set(loaded)
    assert not {m for m in loaded if m in FORBIDDEN or m.partition(".")[0] in FORBIDDEN}


def test_a_restored_instance_tells_its_own_start(filetype_artifact: Path, tmp_path: Path) -> None:
    """The rehearsal keeps what its clones print: these print to a file that stays."""
    out = tmp_path / "out.txt"
    app = tmp_path / "app.py"
    app.write_text(
        "import os, sys\n"
        "from preheat import Function\n"
        "function = Function(__file__)\n"
        "if 'AWS_LAMBDA_RUNTIME_API' in os.environ:\n"
        f"    sys.stdout = open({str(out)!r}, 'a', buffering=1)\n"
        "handler = function.handler\n"
    )
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    subprocess.run(
        [sys.executable, "-m", "preheat", "rehearse", str(app), "--clones", "2", "--json"],
        capture_output=True,
        timeout=120,
    )
    lines = emf(out.read_text())
    assert len({line["report"] for line in lines}) == len(lines) == 2
    for line in lines:
        values = check_emf(line, {"start": "restored", "function_version": "1"})
        assert {"restore_ms", "warmup_ms", "first_request_ms", "total_ms"} <= set(values)
        assert "import_ms" not in values
        assert values["total_ms"] < 5000


TRACED = COLD.replace(
    "print(", "import time; time.sleep(0.2)\nassert app.handler(json.loads(sys.argv[2]), Context())\nprint("
)


def test_a_traced_invocation_has_the_phases_as_subsegments(filetype_artifact: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        run_cold(
            TRACED,
            "filetype",
            tmp_path,
            AWS_XRAY_DAEMON_ADDRESS=f"127.0.0.1:{daemon.getsockname()[1]}",
            LAMBDA_TASK_ROOT="/var/task",
            _X_AMZN_TRACE_ID="Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
        )
        daemon.settimeout(0.5)
        found: list[dict[str, Any]] = []
        try:
            while True:
                found.append(json.loads(daemon.recv(65536).split(b"\n", 1)[1]))
        except TimeoutError:
            pass
    assert {one["trace_id"] for one in found} == {"1-5759e988-bd862e3fe1be46a994272793"}
    (start,) = [one for one in found if one["name"] == "## preheat start"]
    assert start["annotations"]["start"] == "fresh"
    parts = {part["name"]: part for part in start.get("subsegments", ())} | {
        one["name"]: one for one in found
    }
    assert {"### import", "### compile", "### warmup"} <= set(parts)
    assert all(start["start_time"] <= parts[name]["start_time"] for name in parts if name.startswith("###"))
    assert [one["name"] for one in found].count("## preheat") == 2  # the record's own, and the second event


def test_an_answer_tells_when_it_is_let_go_of() -> None:
    done: list[int] = []
    answer = Answered({"a": 1}, lambda: done.append(1))
    assert json.dumps(answer) == '{"a": 1}'
    assert done == []
    del answer
    assert done == [1]
