"""`preheat load` as a person runs it: real servers, real arrivals, locust in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from preheat.load import compare, runs
from preheat.load.figures import summary
from preheat.measure.client import free_port
from preheat.measure.start import children

from ...conftest import ROOT, Server, gone
from ..test_measure import preheat
from .conftest import Begun, Load, lines
from .servers import OneInstance, Reply, answering, plain

COLD = '[[steps]]\nname = "cold"\narrivals = "burst"\ncount = 1\ncold = true\nexpect = "cold"\nrepeat = 3\n'
WARM = '[[steps]]\nname = "warm"\narrivals = "poisson"\nrate = 30\nduration_s = 2\nexpect = "warm"\n'


def test_cold_is_told_from_warm_by_the_server(
    gateway: tuple[str, OneInstance], load: Load, out: Path
) -> None:
    url, one = gateway
    done = load(COLD + WARM, f"{url}/filetype", "--cold", "up", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert one.started == found["latency"]["cold"]["n"] == found["forced"] == 3
    assert found["starts"]["cold"] == 3
    assert found["starts"]["warm"] == found["latency"]["warm"]["n"] > 20
    assert found["outcomes"] == {"ok": found["requests"]}
    assert found["left_out"] == {}
    assert found["instances"]["all"] == 3
    assert {"platform", "import", "compile", "warmup", "wait", "run", "outside the server"} <= set(
        found["phases"]["cold"]
    )
    assert set(found["phases"]["warm"]) == {"wait", "run", "outside the server", "generator late"}
    value, low, high = found["latency"]["cold"]["p50"]
    assert low <= value <= high
    assert found["latency"]["cold"]["p50"][0] > found["latency"]["warm"]["p50"][0]
    assert {row["name"] for row in found["costs"]} >= {"lambda", "cloud-run", "node-l4"}
    assert all(row["per_1000_good"] > 0 for row in found["costs"])
    own = found["generator"]
    assert own["requests"] == 200
    assert 0 < own["median_ms"] <= own["p99_ms"]
    _, samples, end = lines(out)
    assert len(samples) == found["requests"]
    assert all("has no instance" in forced["by"] for forced in end["forced"])
    for sample in samples:
        # One clock each: what the server took is a part of what the client saw.
        assert sample["server_ms"] <= sample["client_ms"]
    again = runs.read(str(out))
    assert summary(again)["latency"] == found["latency"]


def test_a_run_can_be_piped(load: Load, out: Path) -> None:
    steps = '[[steps]]\narrivals = "burst"\ncount = 3\n'
    with answering(plain) as url:
        done = load(steps, url, "-o", "-")
    assert done.returncode == 0, done.stderr
    out.parent.mkdir()
    out.write_text(done.stdout)
    assert len(runs.read(str(out)).samples) == 3
    assert "what these requests cost" in done.stderr


def test_what_is_not_as_asked_is_counted_and_in_no_statistic(filetype_server: Server, load: Load) -> None:
    filetype_server.request("POST", "/predict", {"content": "aW1wb3J0IHN5cwo="})
    steps = '[[steps]]\narrivals = "burst"\ncount = 5\nexpect = "cold"\n'
    done = load(steps, f"http://127.0.0.1:{filetype_server.port}", "--json")
    found = json.loads(done.stdout)
    assert found["latency"] == {}
    assert found["left_out"] == {"asked cold, met warm": 5}
    assert found["steps"][0]["as_asked"] == 0


@pytest.mark.alone
def test_a_stall_is_felt_by_all_who_came_meanwhile(load: Load, out: Path) -> None:
    """Coordinated omission: one request stalls for a second, and the requests that were due in that second
    waited for the rest of it, whether or not a client was free to send them."""
    count = iter(range(10**6))

    def stalling(*_: object) -> Reply:
        if next(count) == 10:
            time.sleep(1)
        return 200, {}, b"{}"

    with answering(stalling, one_at_a_time=True) as url:
        done = load('[[steps]]\narrivals = "constant"\nrate = 40\nduration_s = 2\n', url, "--json")
    assert done.returncode == 0, done.stderr
    _, samples, _ = lines(out)
    took = sorted(sample["client_ms"] for sample in samples)
    assert len(took) == 80
    # Forty were due within the stall, their waits evenly spread over it.
    assert 25 <= sum(ms > 300 for ms in took) <= 50
    assert took[-1] > 950
    at = sorted(sample["at_s"] for sample in samples)
    assert at[-1] - at[0] == pytest.approx(79 / 40, abs=1e-3)  # intended moments, which no stall moves


def test_workers_share_the_schedule(load: Load, out: Path) -> None:
    seen: list[str] = []

    def counting(_method: str, _path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        seen.append(headers["idempotency-key"])
        return 200, {}, b"{}"

    steps = '[keys]\neach = true\n[[steps]]\narrivals = "constant"\nrate = 50\nduration_s = 2\n'
    with answering(counting) as url:
        done = load(steps, url, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    _, samples, _ = lines(out)
    assert sorted(sample["number"] for sample in samples) == list(range(100))
    assert set(Counter(sample["worker"] for sample in samples).values()) == {50}
    assert len(set(seen)) == len(seen) == 100


def test_a_closed_loop_keeps_so_many_at_once(load: Load, out: Path) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def busy(*_: object) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return 200, {}, b"{}"

    steps = '[[steps]]\narrivals = "concurrency"\nconcurrency = [1, 4]\nduration_s = 1\n'
    with answering(busy) as url:
        found = json.loads(load(steps, url, "--json").stdout)
    assert most == [4]
    assert found["latency"] == {}
    assert found["left_out"] == {"sent by a closed loop": found["good"]}
    assert 50 <= found["good"] <= 100


def test_retries_obey_retry_after_and_duplicates_are_told(load: Load, out: Path) -> None:
    lock, tries = threading.Lock(), Counter[str]()

    def second_time(_method: str, _path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        key = headers["idempotency-key"]
        with lock:
            tries[key] += 1
            if tries[key] == 1:
                return 503, {"retry-after": "1", "x-preheat-outcome": "shed"}, b"{}"
        return 200, {"x-preheat-replayed": "true"} if tries[key] > 2 else {}, b'{"a": 1}'

    steps = "[keys]\neach = true\nduplicates = 0.5\n[retry]\nmost = 2\n"
    steps += '[[steps]]\narrivals = "constant"\nrate = 20\nduration_s = 1\n'
    with answering(second_time) as url:
        found = json.loads(load(steps, url, "--json").stdout)
    _, samples, _ = lines(out)
    assert len(tries) == 20
    assert found["retries"] == found["throttled"] == 20
    assert found["duplicates"]["sent"] == found["requests"] - 20 > 0
    assert found["duplicates"]["differing"] == 0
    retried = [sample for sample in samples if sample["attempt"] == 1]
    assert all(sample["final"] and sample["client_ms"] > 1000 for sample in retried)


def test_a_foreign_server_is_measured_and_its_state_is_unknown(load: Load, tmp_path: Path, out: Path) -> None:
    with answering(plain) as url:
        done = load(WARM.replace('expect = "warm"\n', ""), url)
    assert done.returncode == 0, done.stderr
    assert "unknown" in done.stdout
    assert "Ways to tell" in done.stdout
    assert "Init Duration" in done.stdout
    page = tmp_path / "page.html"
    assert preheat("report", out, "-o", page).returncode == 0
    assert "does not say whether it was cold" in page.read_text()


def test_headers_are_sent_and_never_recorded(load: Load, out: Path) -> None:
    seen: list[Mapping[str, str]] = []

    def noting(_method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        seen.append({**headers, "path": path})
        return 200, {}, b"{}"

    with answering(noting) as url:
        done = load(
            '[[steps]]\narrivals = "burst"\ncount = 2\n',
            f"{url}/v1/",
            "--header",
            "Authorization: Bearer s3cret",
        )
    assert done.returncode == 0, done.stderr
    assert {one["path"] for one in seen} == {"/v1/predict"}
    assert {one["authorization"] for one in seen} == {"Bearer s3cret"}
    assert "s3cret" not in out.read_text() + done.stdout + done.stderr


def test_requests_are_signed_for_aws(load: Load) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    seen: list[tuple[Mapping[str, str], bytes]] = []

    def noting(_method: str, _path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        seen.append((headers, body))
        return 200, {}, b"{}"

    with answering(noting) as url:
        done = load(
            *('[[steps]]\narrivals = "burst"\ncount = 1\n', url, "--sign", "lambda:eu-west-1"),
            AWS_ACCESS_KEY_ID="AKIATEST",
            AWS_SECRET_ACCESS_KEY="secret",
            AWS_SESSION_TOKEN="",
        )
    assert done.returncode == 0, done.stderr
    ((headers, body),) = seen
    signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(
        "POST", f"{url}/predict", headers={name: headers[name] for name in signed}, data=body
    )
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials("AKIATEST", "secret"), "lambda", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert headers["authorization"].endswith(f"Signature={signer.signature(text, request)}")


def test_workers_are_started_elsewhere(load: Load, out: Path, tmp_path: Path) -> None:
    port = str(free_port())
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--worker"]
    worker = subprocess.Popen(
        [*command, "--master-host", "127.0.0.1", "--master-port", port],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        with answering(plain) as url:
            steps = '[[steps]]\narrivals = "constant"\nrate = 20\nduration_s = 1\n'
            done = load(steps, url, "--workers", "1", "--bind", f"127.0.0.1:{port}")
            assert done.returncode == 0, done.stderr
            assert "waiting for 1 workers" in done.stderr
            worker.wait(30)  # it ends with its master
    finally:
        worker.kill()
        worker.wait()
    assert len(lines(out)[1]) == 20


def test_a_worker_that_goes_ends_the_run_and_keeps_it(begun: Begun, out: Path) -> None:
    with begun("--workers", "2") as process:
        workers = [pid for pid in children(process.pid) if b"--worker\0" in _command(pid)]
        os.kill(workers[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert "a worker has gone: 1 of 2 are left" in stdout.replace("\n", " ")
    _, samples, end = lines(out)
    assert len(samples) >= 18
    assert "a worker has gone" in end["cut"]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_is_read_as_one(begun: Begun, out: Path, ended_by: signal.Signals) -> None:
    with begun() as process:
        started = children(process.pid)
        process.send_signal(ended_by)
        process.communicate(timeout=30)
    assert gone(started, 30)
    found = runs.read(str(out))
    assert found.tail["cut"]
    assert summary(found)["latency"]["unknown"]["n"] == len(found.samples) >= 18


@pytest.mark.parametrize("workers", ["0", "2"])
def test_ctrl_c_keeps_and_reports_what_was_measured(
    begun: Begun, out: Path, workers: str, tmp_path: Path
) -> None:
    with begun("--workers", workers, COLUMNS="160", TMPDIR=str(tmp_path)) as process:
        started = children(process.pid)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "cut short: interrupted" in stdout
    assert "Traceback" not in stderr
    assert len(started) == 1 + int(workers)
    assert gone(started, 30)
    _, samples, end = lines(out)
    assert len(samples) >= 18
    assert end["cut"] == "interrupted"
    page = tmp_path / "page.html"
    assert preheat("report", out, "-o", page).returncode == 0
    assert "Cut short" in page.read_text()


def test_a_slower_server_is_a_regression_with_its_phase(load: Load, out: Path, tmp_path: Path) -> None:
    delay = [0.002]

    def telling(*_: object) -> Reply:
        time.sleep(delay[0])
        timing = f"wait;dur=0.1, run;dur={delay[0] * 1e3:.1f}"
        return 200, {"x-preheat-start": "warm", "x-preheat-outcome": "ok", "server-timing": timing}, b"{}"

    steps = '[[steps]]\narrivals = "constant"\nrate = 60\nduration_s = 3\n'
    base, same, slow = (tmp_path / f"{name}.jsonl" for name in ("base", "same", "slow"))
    with answering(telling) as url:
        for path in (base, same, slow):
            delay[0] = 0.06 if path is slow else 0.02
            assert load(steps, url, "--label", path.stem).returncode == 0
            out.rename(path)
    done = preheat("compare", base, same, "--fail-above", "100%")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("passes: ")
    done = preheat("compare", base, slow, "--fail-above", "10%", COLUMNS="160")
    assert done.returncode == 1, done.stdout
    assert "regression, by: run" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("fails: ")
    told = json.loads(preheat("compare", base, slow, "--json").stdout)
    assert told["regressions"] >= 1
    assert "figures got worse past the limit: warm p50" in told["verdict"]
    rows = {row["what"]: row for row in told["rows"]}
    assert rows["warm p50"]["phase"]["grew_ms"][0] == pytest.approx(40, abs=8)
    assert rows["failed"]["verdict"] != compare.WORSE
