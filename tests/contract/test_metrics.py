"""``GET /metrics`` over every door, held by the real parsers against what the answers said."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from preheat import Function
from preheat.function import load

from ..conftest import Answer, serving
from .conftest import DOORS, Door, _server, door_of

BODY = json.dumps({"content": "aGVsbG8=", "path": "a"}).encode()

APP = """
import time
from preheat import Function
from preheat.tasks.filetype import FileType


class Moody(FileType):
    def prepare(self, request):
        name = request.pop("path", "") if isinstance(request, dict) else ""
        if name == "hold":
            time.sleep(1.0)
        self.name = name
        return super().prepare(request)

    def finish(self, outputs, inputs):
        if self.name == "late":
            time.sleep(2.5)
        if self.name == "slow":
            time.sleep(1.0)
        if self.name == "defect":
            raise RuntimeError("a defect of the task")
        return super().finish(outputs, inputs)


function = Function(__file__, task=Moody)
"""


class Scrape:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def by(self, name: str, label: str) -> Counter[str]:
        """The sum of a family's samples for each value of one label."""
        found: Counter[str] = Counter()
        for (sample, labels), value in self.samples.items():
            if sample == name:
                found[dict(labels)[label]] += int(value)
        return found


def scrape(door: Door) -> Scrape:
    answer = door("GET", "/metrics")
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["x-preheat-outcome"] == "ok"
    return Scrape(answer.body.decode())


@contextlib.contextmanager
def opened(name: str, app: Path, monkeypatch: pytest.MonkeyPatch, **environ: str) -> Iterator[Door]:
    """One door to a function of its own."""
    if name == "server":
        with serving(app, **environ) as server:
            server.wait_ready()
            yield _server(server)
        return
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    function: Function = load(str(app))
    function.start()
    try:
        yield from door_of(function, name)
    finally:
        function.service.close()
        sys.path.remove(str(app.parent))


@pytest.fixture
def moody(tmp_path: Path, filetype_artifact: Path) -> Path:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(APP)
    return tmp_path / "app.py"


def named(name: str) -> bytes:
    return json.dumps({"content": "aGVsbG8=", "path": name}).encode()


class Asked:
    """Every answer that a door gave, for the sums."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.answers: list[Answer] = []

    def __call__(self, *args: Any, **headers: str) -> Answer:
        answer = self._door(*args, **headers)
        self.answers.append(answer)
        return answer

    def beside(self, *args: Any, **headers: str) -> threading.Thread:
        thread = threading.Thread(target=self, args=args, kwargs=headers)
        thread.start()
        return thread

    def outcomes(self) -> Counter[str]:
        return Counter(answer.headers["x-preheat-outcome"] for answer in self.answers)


ABREAST = [door for door in DOORS if not door.startswith("mangum")]
"""Doors that take several requests at once; Mangum takes one, as Lambda sends them."""


@pytest.mark.parametrize("name", ABREAST)
def test_each_request_has_one_outcome_and_the_sums_agree(
    name: str, moody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "PREHEAT_CACHE": str(tmp_path / "cache"),
        "PREHEAT_CONCURRENCY": "1",
        "PREHEAT_QUEUE": "1",
        "PREHEAT_TIMEOUT": "2",
    }
    with opened(name, moody, monkeypatch, **environ) as door:
        ask, before = Asked(door), scrape(door)
        assert ask("POST", "/predict", BODY).status == 200
        ask("POST", "/predict", b"{")
        ask("POST", "/predict", b"[" * 40_000)
        ask("PUT", "/predict", BODY)
        ask("GET", "/nowhere")
        ask("GET", "/v2/health/live")
        ask("GET", "/v2/models/other")
        ask("POST", "/predict", named("defect"))
        ask("POST", "/predict", named("late"))
        ask("POST", "/predict", BODY, prefer="respond-async")
        time.sleep(0.5)  # it is answered: the next ones find every place free
        keyed = ask.beside("POST", "/predict", named("slow"), idempotency_key="k")
        time.sleep(0.4)
        assert ask("POST", "/predict", named("slow"), idempotency_key="k").status == 409
        keyed.join(10)
        ask("POST", "/predict", named("slow"), idempotency_key="k")
        held = [ask.beside("POST", "/predict", named("hold")) for _ in range(2)]
        time.sleep(0.4)
        assert ask("POST", "/predict", BODY).status == 503
        for thread in held:
            thread.join(10)
        after = scrape(door)

    said = ask.outcomes()
    assert {"ok", "rejected", "in_progress", "shed", "timed_out", "failed"} <= set(said)
    assert sum(said.values()) == len(ask.answers)
    counted = after.by("preheat_requests_total", "outcome") - before.by("preheat_requests_total", "outcome")
    assert counted - Counter(ok=1) == said, "the first scrape was counted after it was answered"
    tenants = after.by("preheat_tenant_requests_total", "outcome")
    assert tenants == after.by("preheat_requests_total", "outcome")
    durations = after.by("preheat_request_duration_seconds_count", "route")
    assert durations == after.by("preheat_requests_total", "route")
    assert set(durations) >= {"/predict", "/v2/models/{model}", "/v2/health/live", "/metrics", "other"}

    starts = Counter(a.headers["x-preheat-start"] for a in ask.answers if "x-preheat-start" in a.headers)
    assert +after.by("preheat_request_starts_total", "start") == starts
    operations = Counter(
        (dict(labels)["operation"], dict(labels)["result"])
        for (sample, labels), value in after.samples.items()
        if sample == "preheat_ledger_operations_total"
        for _ in range(int(value))
    )
    assert operations["claim", "in_progress"] == 1
    assert operations["claim", "replay"] == 1
    assert operations["claim", "claimed"] == operations["commit", "committed"] == 1 + said["accepted"]
    assert said["accepted"] == (name in ("server", "uvicorn"))
    assert after.value("preheat_places_taken") == after.value("preheat_requests_running") == 0
    assert after.value("preheat_places") == 2
    runs = after.value("preheat_session_run_seconds_count")
    assert runs == after.value("preheat_batch_size_count") == after.value("preheat_queue_wait_seconds_count")


@pytest.mark.parametrize("name", DOORS)
def test_throttled_and_unavailable(
    name: str, moody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    environ = {
        "PREHEAT_CACHE": str(tmp_path / "cache"),
        "PREHEAT_RATE": "0.001",
        "PREHEAT_BURST": "2",
        "PREHEAT_LEDGER": f"sqlite:///{tmp_path}/file/ledger",
        "PREHEAT_METRICS_TENANTS": "0",
    }
    with opened(name, moody, monkeypatch, **environ) as door:
        ask = Asked(door)
        ask("POST", "/predict", BODY, idempotency_key="k")
        ask("POST", "/predict", BODY)
        ask("POST", "/predict", BODY)
        after = scrape(door)
    assert ask.outcomes() == Counter(ok=1, unavailable=1, throttled=1)
    counted = after.by("preheat_requests_total", "outcome")
    if name == "server":
        counted -= Counter(unavailable=counted["unavailable"] - 1)  # it was asked whether it was ready
        counted["ok"] = int(
            after.value("preheat_requests_total", method="POST", route="/predict", outcome="ok")
        )
    assert counted == ask.outcomes()
    assert after.value("preheat_ledger_operations_total", operation="claim", result="error") == 1
    assert not any("tenant" in dict(labels) for _, labels in after.samples)


def test_what_stands_there(door: Door) -> None:
    door("POST", "/predict", BODY)
    found = scrape(door)
    report = door("GET", "/coldstart").json()
    assert found.value("preheat_ready") == 1
    build = next(dict(labels) for name, labels in found.samples if name == "preheat_build_info")
    assert build["model"] == "filetype"
    assert (build["model_version"], build["variant"]) == (report["artifact"]["version"], report["variant"])
    assert build["provider"] == report["provider"]
    seconds = found.value("preheat_start_seconds", kind="fresh", platform=report["platform"])
    assert seconds * 1e3 == pytest.approx(report["total_ms"], abs=0.01)
    phases: Counter[str] = Counter()
    for phase in report["phases"]:
        phases[phase["phase"]] += phase["duration_ms"]
    for phase, taken in phases.items():
        told = found.value("preheat_start_phase_seconds", phase=phase) * 1e3
        assert told == pytest.approx(taken, abs=0.01)
    assert found.value("process_resident_memory_bytes") > 10e6
    for name, family in found.families.items():
        assert family.documentation, name
        assert family.type in ("counter", "gauge", "histogram"), name


def test_openmetrics_where_it_is_asked_for(door: Door) -> None:
    door("POST", "/predict", BODY)
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    answer = door("GET", "/metrics", accept=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics.text_string_to_metric_families(answer.body.decode())}
    assert {"preheat_requests", "preheat_session_run_seconds", "preheat_build_info"} <= names


@pytest.mark.parametrize(
    "accept", ["", "*/*", "application/openmetrics-text;version=x", "\xff,;;=", "text/html"]
)
def test_any_accept_header_is_answered(door: Door, accept: str) -> None:
    door("POST", "/predict", BODY)
    answer = door("GET", "/metrics", accept=accept)
    assert answer.status == 200
    assert b"preheat_requests_total{" in answer.body


def test_without_prometheus_client_it_is_said(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's door is another process; there it is installed, and answers."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "preheat.exposition", raising=False)
    answer = door("GET", "/metrics")
    if answer.status != 200:
        assert (answer.status, answer.json()["code"]) == (404, "no_metrics")
        assert "pip install 'preheat[metrics]'" in answer.json()["error"]


def test_a_route_of_the_function_s_own_is_counted_and_has_an_outcome(
    filetype_artifact: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(
        "from preheat import Function\n"
        "function = Function(__file__)\n"
        "@function.api.get('/own')\n"
        "def own():\n"
        "    return {'own': True}\n"
        "@function.api.get('/broken')\n"
        "def broken():\n"
        "    raise RuntimeError('secret')\n"
    )
    with serving(tmp_path / "app.py", PREHEAT_CACHE=str(tmp_path / "cache")) as server:
        own = server.request("GET", "/own")
        assert (own.json(), own.headers["x-preheat-outcome"]) == ({"own": True}, "ok")
        broken = server.request("GET", "/broken")
        assert (broken.status, broken.json()["code"]) == (500, "internal")
        assert broken.headers["x-preheat-outcome"] == "failed"
        assert "secret" not in broken.body.decode()
        with contextlib.closing(server.connect()) as raw:
            raw.sock.sendall(b"NONSENSE\r\n\r\n")
            assert raw.sock.recv(65536).startswith(b"HTTP/1.1 400")
        found = Scrape(server.request("GET", "/metrics").body.decode())
        by = {"method": "GET", "route": "other"}
        assert found.value("preheat_requests_total", outcome="ok", **by) == 1
        assert found.value("preheat_requests_total", outcome="failed", **by) == 1
        assert found.value("preheat_requests_total", method="_OTHER", route="other", outcome="rejected") == 1
        assert sum(found.by("preheat_requests_total", "outcome").values()) == 3


def test_a_scrape_during_the_start_waits_for_its_end(filetype_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(
        "import sys, time\n"
        "from preheat import Function\n"
        "from preheat.tasks.filetype import FileType\n"
        "class Slow(FileType):\n"
        "    def __init__(self, artifact):\n"
        "        time.sleep(1.0)\n"
        "        assert 'prometheus_client' not in sys.modules\n"
        "        super().__init__(artifact)\n"
        "function = Function(__file__, task=Slow)\n"
    )
    with serving(tmp_path / "app.py", PREHEAT_CACHE=str(tmp_path / "cache")) as server:
        found = Scrape(server.request("GET", "/metrics").body.decode())
        assert found.value("preheat_ready") == 1
        assert found.value("preheat_start_phase_seconds", phase="import") > 1.0


def test_the_access_log(filetype_artifact: Path, tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with serving(filetype_artifact, PREHEAT_CACHE=str(tmp_path), PREHEAT_ACCESS_LOG="on") as server:
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        assert "traceresponse" not in server.request("POST", "/predict", BODY, headers).headers
        server.request("POST", "/predict", b"{")
        server.request("GET", "/v2/health/ready")
        server.request("GET", "/metrics")
        server.request("GET", "/nowhere")
        _, out, _ = server.stop()
    start, *lines = map(json.loads, out.splitlines())
    assert start["message"] == "cold start"
    assert [(line["route"], line["outcome"], line["status"]) for line in lines] == [
        ("/predict", "ok", 200),
        ("/predict", "rejected", 400),
        ("other", "rejected", 404),
    ]
    first = lines[0]
    assert (first["trace_id"], first["method"], first["start"]) == (trace, "POST", "cold")
    assert first["instance"] == start["instance"]
    assert first["tenant"] == ""
    assert first["duration_ms"] >= first["run_ms"] > 0
    assert "trace_id" not in lines[1]
