"""What is made of a revision's answers and counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from preheat.deploy.revision_health import Limits, Watch, counted, percentile, recorded
from preheat.errors import DeploymentError

METRICS = """\
# TYPE preheat_requests_total counter
preheat_requests_total{method="POST",route="/predict",outcome="ok"} 90.0
preheat_requests_total{method="POST",route="/predict",outcome="failed"} 6.0
preheat_requests_total{method="POST",route="/predict",outcome="shed"} 3.0
preheat_requests_total{method="POST",route="/predict",outcome="rejected"} 1.0
preheat_requests_total{method="GET",route="/v2/health/ready",outcome="unavailable"} 50.0
preheat_requests_total{method="GET",route="/metrics",outcome="ok"} 9.0
preheat_requests_created{method="POST",route="/predict",outcome="ok"} 1.7e+09
"""


class Revision:
    """A server that answers as a revision may: ``answers`` in their order, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = [(200, {"x-preheat-instance": "a"})]
        self.total_ms: Mapping[str, Any] = {"instance": "a", "total_ms": 300}
        self.metrics: list[str] = [METRICS]
        self.asked: list[dict[str, str]] = []
        revision = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                revision.asked.append({k.lower(): v for k, v in self.headers.items()})
                answers = revision.answers
                self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]), b"{}")

            def do_GET(self) -> None:
                if self.path == "/coldstart":
                    import json

                    self.answer(200, {}, json.dumps(revision.total_ms).encode())
                else:
                    texts = revision.metrics
                    text = texts.pop(0) if len(texts) > 1 else texts[0]
                    self.answer(200 if text else 404, {"x-preheat-instance": "a"}, text.encode())

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def revision() -> Iterator[Revision]:
    found = Revision()
    yield found
    found.server.shutdown()
    found.server.server_close()


def watch(revision: Revision, error_rate: float = 0.1, cold_ms: float | None = 1000, **more: Any) -> Watch:
    return Watch(revision.url, recorded("{}"), Limits(error_rate, cold_ms), sleep=lambda s: None, **more)


def test_counters_without_probes_and_scrapes() -> None:
    assert counted(METRICS) == (100, 9)
    assert counted("") == (0, 0)


@pytest.mark.parametrize(
    ("values", "p99"), [([], None), ([5.0], 5.0), ([1.0, 9.0], 9.0), ([float(i) for i in range(200)], 197.0)]
)
def test_nearest_rank(values: list[float], p99: float | None) -> None:
    assert percentile(values, 0.99) == p99


def test_a_good_step(revision: Revision) -> None:
    found = watch(revision).step(10, 5, 0)
    assert (found.sent, found.failed, found.problem) == (5, 0, "")
    assert (found.counted, found.counted_failed) == (0, 0)  # nothing since the step began
    assert (found.instances, found.cold_starts, found.cold_p99_ms) == (1, 0, 300)


def test_everybodys_failures_count(revision: Revision) -> None:
    later = METRICS.replace('outcome="failed"} 6.0', 'outcome="failed"} 16.0')
    revision.metrics = [METRICS] * 4 + [later]
    found = watch(revision).step(10, 5, 0)
    assert (found.counted, found.counted_failed) == (10, 10)
    assert "100.0% of requests failed" in found.problem


def test_failed_answers_end_the_step(revision: Revision) -> None:
    revision.answers = [(503, {})]
    found = watch(revision).step(10, 50, 0)
    assert found.failed == 6  # one more than a tenth of fifty
    assert found.problem


def test_a_few_failures_are_allowed(revision: Revision) -> None:
    revision.answers = [(503, {}), (200, {"x-preheat-instance": "a"})]
    found = watch(revision).step(10, 20, 0)
    assert (found.failed, found.problem) == (1, "")


def test_an_instances_own_start_is_judged(revision: Revision) -> None:
    revision.total_ms = {"instance": "a", "total_ms": 1500}
    assert watch(revision).step(0, 1, 0).problem == "cold starts take 1500 ms at p99, 1000 ms may be taken"
    assert watch(revision, cold_ms=None).step(0, 1, 0).problem == ""


def test_an_answer_that_met_a_start_is_counted(revision: Revision) -> None:
    revision.answers = [(200, {"x-preheat-instance": "a", "x-preheat-start": "cold"})]
    assert watch(revision).step(0, 1, 0).cold_starts == 1


def test_a_report_that_is_none(revision: Revision) -> None:
    revision.total_ms = {"detail": "something else"}
    assert watch(revision).step(0, 1, 0).cold_p99_ms is None


def test_no_metrics(revision: Revision) -> None:
    revision.metrics = [""]
    assert watch(revision).step(0, 2, 0).counted == 0


def test_a_request_that_is_refused_is_no_failure_of_the_revision(revision: Revision) -> None:
    revision.answers = [(401, {})]
    with pytest.raises(DeploymentError, match="answers 401 to the request it is judged by"):
        watch(revision).step(0, 1, 0)


def test_an_ingress_is_told_the_name(revision: Revision) -> None:
    found = Watch(
        "http://candidate-m.models.example.com",
        recorded("{}"),
        Limits(0.1, None),
        ingress=revision.url,
        headers={"authorization": "Bearer k"},
    )
    assert found.step(0, 1, 0).failed == 0
    assert revision.asked[0]["host"] == "candidate-m.models.example.com"
    assert revision.asked[0]["authorization"] == "Bearer k"


def test_nobody_answers(revision: Revision) -> None:
    closed = Watch("http://127.0.0.1:9", recorded("{}"), Limits(0.1, None))
    found = closed.step(0, 3, 0)
    assert found.failed == 1
    assert found.problem
