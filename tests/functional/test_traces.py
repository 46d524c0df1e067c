"""Traces, as a real OTLP receiver gets them from a server in a process of its own."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preheat.tracing import tenant_digest

from ..conftest import Server, serving
from ..otlp import Collector, Received, collecting

SERVER, CONSUMER, ERROR = 2, 5, 2
REQUEST = {"content": base64.b64encode(b"hello, hello, hello").decode()}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


def to(collector: Collector, cache: Path, **more: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "PREHEAT_CACHE": str(cache), **more}


def within(child: Received, parent: Received) -> bool:
    return parent.begin_ns <= child.begin_ns <= child.end_ns <= parent.end_ns


def test_the_start_and_its_first_request(filetype_artifact: Path, cache: Path, fast: None) -> None:
    before_ns = time.time_ns()
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        answer = server.request("POST", "/predict", REQUEST, {"user-agent": "a test"})
        report = server.request("GET", "/coldstart").json()
        (start,) = collector.named("cold start")
        (request,) = collector.named("POST /predict")
        answered_ns = time.time_ns()

        assert start.parent_id == ""
        assert before_ns - 20e6 < start.begin_ns < start.end_ns < answered_ns
        assert (start.end_ns - start.begin_ns) / 1e6 == pytest.approx(report["total_ms"], abs=0.01)
        phases = collector.children(start)
        told = [p for p in report["phases"] if p["phase"] != "first_request"]
        assert [span.name for span in phases] == [phase["phase"] for phase in told]
        for span, phase in zip(phases, told, strict=True):
            assert within(span, start)
            assert span.trace_id == start.trace_id
            assert (span.begin_ns - start.begin_ns) / 1e6 == pytest.approx(phase["start_ms"], abs=0.01)
            assert (span.end_ns - span.begin_ns) / 1e6 == pytest.approx(phase["duration_ms"], abs=0.01)
        (compiled,) = (span for span in phases if span.name == "compile")
        assert compiled.attributes["preheat.variant"] == report["variant"]

        assert request.kind == SERVER
        assert (request.parent_id, request.trace_id != start.trace_id) == ("", True)
        assert (start.trace_id, start.span_id) in request.links
        assert answer.headers["traceresponse"] == f"00-{request.trace_id}-{request.span_id}-01"
        expected = {
            "http.request.method": "POST",
            "http.route": "/predict",
            "http.response.status_code": 200,
            "url.path": "/predict",
            "url.scheme": "http",
            "user_agent.original": "a test",
            "preheat.outcome": "ok",
            "preheat.start": "cold",
            "preheat.variant": report["variant"],
        }
        assert expected.items() <= request.attributes.items()
        assert "preheat.tenant" not in request.attributes
        parts = collector.children(request)
        assert [span.name for span in parts] == ["wait for the start", "wait", "run"]
        assert all(within(span, request) for span in parts)
        assert parts[0].end_ns == pytest.approx(start.end_ns, abs=1e6)

        resource = request.resource
        assert resource["service.name"] == "filetype"
        assert resource["service.version"] == report["artifact"]["version"]
        assert resource["service.instance.id"] == answer.headers["x-preheat-instance"]
        assert resource["telemetry.sdk.language"] == "python"


def test_the_client_s_trace_goes_on_and_its_flag_is_kept(
    filetype_artifact: Path, cache: Path, fast: None
) -> None:
    other = "a" * 32
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        server.request("POST", "/predict", REQUEST)
        collector.named("cold start")  # from now on the sampler is asked at once
        sampled = server.request(
            "POST", "/predict", REQUEST, {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2"}
        )
        unsampled = server.request("POST", "/predict", REQUEST, {"traceparent": f"00-{other}-{SPAN}-00"})
        broken = server.request("POST", "/predict", REQUEST, {"traceparent": "00-xyz"})
        spans = collector.named("POST /predict", count=3)
        (span,) = (s for s in spans if s.trace_id == TRACE)
        assert (span.parent_id, span.trace_state) == (SPAN, "a=1,b=2")
        assert sampled.headers["traceresponse"] == f"00-{TRACE}-{span.span_id}-01"
        assert [s.name for s in collector.children(span)] == ["wait", "run"]
        assert unsampled.headers["traceresponse"].startswith(f"00-{other}-")
        assert unsampled.headers["traceresponse"].endswith("-00")
        assert broken.headers["traceresponse"].split("-")[1] not in (TRACE, other)
        assert server.stop()[0] == 0
        assert not [s for s in collector.spans if s.trace_id == other]
        assert len([s for s in collector.spans if s.name == "POST /predict"]) == 3


def test_an_unsampled_request_that_came_before_the_sampler_is_not_sent(
    filetype_artifact: Path, cache: Path, fast: None
) -> None:
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        server.request("POST", "/predict", REQUEST, {"traceparent": f"00-{TRACE}-{SPAN}-00"})
        assert server.stop()[0] == 0
        assert [span.name for span in collector.spans if span.parent_id == ""] == ["cold start"]


def test_opentelemetry_s_own_variables_are_honoured(filetype_artifact: Path, cache: Path, fast: None) -> None:
    more = {
        "OTEL_SERVICE_NAME": "named",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.version=9",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
    }
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache, **more)) as server:
        server.request("POST", "/predict", REQUEST)
        server.request("POST", "/predict", REQUEST, {"traceparent": f"00-{TRACE}-{SPAN}-01"})
        (span,) = collector.named("POST /predict")
        assert span.trace_id == TRACE
        assert span.resource["service.name"] == "named"
        assert span.resource["service.version"] == "9"
        assert span.resource["deployment.environment.name"] == "test"
        assert collector.headers[0]["authorization"] == "Bearer x"
        assert server.stop()[0] == 0
        assert {span.trace_id for span in collector.spans} == {TRACE}


def test_probes_scrapes_and_other_routes(filetype_artifact: Path, cache: Path, fast: None) -> None:
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        server.wait_ready()
        for path in ("/v2/health/live", "/metrics"):
            assert "traceresponse" not in server.request("GET", path).headers
        missing = server.request("GET", "/nowhere")
        (span,) = collector.named("GET")
        assert span.attributes["http.response.status_code"] == 404
        assert span.status != ERROR
        assert missing.headers["traceresponse"] == f"00-{span.trace_id}-{span.span_id}-01"
        assert server.stop()[0] == 0
        assert {s.name for s in collector.spans if not s.parent_id} == {"cold start", "GET"}


def test_a_key_s_way_through_the_ledger(filetype_artifact: Path, cache: Path, fast: None) -> None:
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        server.wait_ready()
        for _ in range(2):
            server.request("POST", "/predict", REQUEST, {"idempotency-key": "k"})
        ran, replayed = sorted(collector.named("POST /predict", count=2), key=lambda span: span.begin_ns)
        parts = collector.children(ran)
        assert [span.name for span in parts] == ["ledger claim", "wait", "run", "ledger commit"]
        assert all(within(span, ran) for span in parts)
        assert parts[0].attributes["preheat.ledger.result"] == "claimed"
        assert parts[3].attributes["preheat.ledger.result"] == "committed"
        (claim,) = collector.children(replayed)
        assert claim.attributes["preheat.ledger.result"] == "replay"


def test_a_deferred_run_follows_the_request_that_left_it(
    filetype_artifact: Path, cache: Path, fast: None
) -> None:
    headers = {"prefer": "respond-async", "traceparent": f"00-{TRACE}-{SPAN}-01"}
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        server.wait_ready()
        assert server.request("POST", "/predict", REQUEST, headers).status == 202
        (run,) = collector.named("deferred request")
        (accepted,) = collector.named("POST /predict")
        assert accepted.attributes["preheat.outcome"] == "accepted"
        assert accepted.parent_id == SPAN
        assert run.kind == CONSUMER
        assert (run.trace_id, run.parent_id) == (TRACE, accepted.span_id)
        assert (TRACE, accepted.span_id) in run.links
        assert run.attributes["preheat.outcome"] == "ok"
        assert [span.name for span in collector.children(run)] == ["wait", "run", "ledger commit"]


def test_an_error_of_ours_is_an_error_of_the_span(
    filetype_artifact: Path, tmp_path: Path, cache: Path, fast: None
) -> None:
    (tmp_path / "file").write_text("")
    more = {"PREHEAT_LEDGER": f"sqlite:///{tmp_path}/file/ledger"}
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache, **more)) as server:
        server.wait_ready()
        assert server.request("POST", "/predict", REQUEST, {"idempotency-key": "k"}).status == 503
        assert server.request("POST", "/predict", b"{").status == 400
        failed, rejected = sorted(collector.named("POST /predict", count=2), key=lambda span: span.begin_ns)
        assert (failed.status, failed.attributes["error.type"]) == (ERROR, "503")
        assert failed.attributes["preheat.outcome"] == "unavailable"
        assert rejected.status != ERROR
        assert "error.type" not in rejected.attributes


def test_what_is_not_sent_yet_goes_out_at_sigterm(filetype_artifact: Path, cache: Path) -> None:
    """The SDK's own delay is five seconds; an instance that is scaled to zero does not have them."""
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache)) as server:
        assert server.request("POST", "/predict", REQUEST).status == 200
        status, _, err = server.stop()
        assert (status, err) == (0, "")
        assert {"cold start", "POST /predict", "run", "compile"} <= {span.name for span in collector.spans}


def quickest(server: Server, count: int = 20) -> float:
    """The median of requests in a row, in seconds."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        assert server.request("POST", "/predict", REQUEST).status == 200
        taken.append(time.perf_counter() - began)
    return sorted(taken)[count // 2]


def test_a_collector_that_is_not_there(filetype_artifact: Path, cache: Path, fast: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "PREHEAT_CACHE": str(cache)}
    with serving(filetype_artifact, **environ) as server:
        assert quickest(server) < 0.5
        time.sleep(1.0)  # it is tried meanwhile
        assert quickest(server) < 0.5
        began = time.monotonic()
        status, _, err = server.stop()
        assert time.monotonic() - began < 4
    assert status == 0
    assert "Traceback" not in err
    assert err.startswith("warning: traces: ")
    assert len(err.splitlines()) == 1


def test_a_collector_that_hangs(filetype_artifact: Path, cache: Path, fast: None) -> None:
    with (
        collecting(answer_after_s=60) as collector,
        serving(filetype_artifact, **to(collector, cache)) as server,
    ):
        assert quickest(server) < 0.5
        assert collector.asked.wait(10)
        assert quickest(server) < 0.5
        began = time.monotonic()
        status, _, err = server.stop()
        assert 1.5 < time.monotonic() - began < 5, "telemetry has two seconds, and no more"
    assert status == 0
    assert "Traceback" not in err


def test_a_second_sigterm_does_not_wait_for_the_collector(
    filetype_artifact: Path, cache: Path, fast: None
) -> None:
    with (
        collecting(answer_after_s=60) as collector,
        serving(filetype_artifact, **to(collector, cache)) as server,
    ):
        server.request("POST", "/predict", REQUEST)
        assert collector.asked.wait(10)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.finish()[0] == 128 + signal.SIGTERM
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf alone"),
        ({"PYTHONPATH": "{shadow}"}, "pip install 'preheat[otel]'"),
    ],
)
def test_what_stands_in_the_way_is_said_and_requests_are_answered(
    filetype_artifact: Path, tmp_path: Path, cache: Path, more: dict[str, str], told: str
) -> None:
    shadow = tmp_path / "shadow"
    (shadow / "opentelemetry").mkdir(parents=True)
    (shadow / "opentelemetry" / "__init__.py").write_text("")
    path = f"{shadow}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    more = {name: value.replace("{shadow}", path) for name, value in more.items()}
    with collecting() as collector, serving(filetype_artifact, **to(collector, cache, **more)) as server:
        for _ in range(3):
            assert server.request("POST", "/predict", REQUEST).status == 200
        status, _, err = server.stop()
        assert not collector.spans
    assert status == 0
    (line,) = err.splitlines()
    assert line.startswith("warning: ")
    assert told in line


LOADED = """
import sys
from preheat import Function
from preheat.tasks.filetype import FileType
class Telling(FileType):
    def finish(self, outputs, inputs):
        loaded = sorted(m for m in sys.modules if m.partition(".")[0] in ("opentelemetry", "requests"))
        return {"loaded": loaded}
function = Function(__file__, task=Telling)
"""


def test_nothing_of_it_is_imported_before_the_first_answer(
    filetype_artifact: Path, tmp_path: Path, cache: Path, fast: None
) -> None:
    (tmp_path / "app.py").write_text(LOADED)
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    with collecting() as collector, serving(tmp_path / "app.py", **to(collector, cache)) as server:
        assert server.request("POST", "/predict", REQUEST).json() == {"loaded": []}
        collector.named("POST /predict")
        assert server.request("POST", "/predict", REQUEST).json()["loaded"]


LAMBDA = """
import json, sys, time
from preheat import Function
function = Function(sys.argv[1] + "/app.py")
event = {"version": "2.0", "rawPath": "/predict", "requestContext": {"http": {"method": "POST"}},
         "headers": {"content-type": "application/json"}, "body": sys.argv[2]}
for _ in range(2):
    began = time.perf_counter()
    assert function.handler(event, None)["statusCode"] == 200
    print(json.dumps(time.perf_counter() - began), flush=True)
"""


def on_lambda(artifact: Path, endpoint: str, cache: Path, flush: str) -> list[float]:
    """Two events in a process of its own, which ends without a signal; how long each took."""
    environ = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "PREHEAT_CACHE": str(cache),
        "PREHEAT_TRACE_FLUSH": flush,
        "AWS_LAMBDA_FUNCTION_NAME": "f",
    }
    done = subprocess.run(
        [sys.executable, "-c", LAMBDA, str(artifact.parent), json.dumps(REQUEST)],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [float(line) for line in done.stdout.splitlines() if not line.startswith("{")]


def test_on_lambda_spans_go_out_before_the_answer_where_that_is_wanted(
    filetype_artifact: Path, cache: Path
) -> None:
    with collecting() as collector:
        on_lambda(filetype_artifact, collector.endpoint, cache, "answer")
        assert len([s for s in collector.spans if s.name == "POST /predict"]) == 2
        assert {s.attributes["preheat.platform"] for s in collector.named("cold start")} == {"lambda"}
    with collecting() as collector:
        on_lambda(filetype_artifact, collector.endpoint, cache, "later")
        assert not collector.spans


def test_on_lambda_a_collector_that_hangs_delays_one_answer_and_not_the_next(
    filetype_artifact: Path, cache: Path
) -> None:
    with collecting(answer_after_s=60) as collector:
        first, second = on_lambda(filetype_artifact, collector.endpoint, cache, "answer")
    assert 2.0 <= first < 4.0
    assert second < 1.0


def test_a_tenant_s_name_does_not_leave() -> None:
    digest = tenant_digest("key:acme")
    assert len(digest) == 16
    assert "acme" not in digest
    assert digest != tenant_digest("key:other")
