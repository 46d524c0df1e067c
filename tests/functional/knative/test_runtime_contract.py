"""Knative's runtime contract, held against the running server.

https://github.com/knative/specs/blob/main/specs/serving/runtime-contract.md. Its MUSTs bind the container or
the platform; these are the container's, and what it may rely on of the platform's. In their order there:

- "Lifecycle": SIGTERM, then a grace period, then SIGKILL; failures are logged
- "Protocols and Ports": HTTP/1.1 on the one port that PORT names; h2c is offered by an upgrade. The server
  speaks HTTP/1.1 alone: it ignores the upgrade, as HTTP allows (RFC 9110, 7.8); the port's name is ``http1``
- "Headers": Host and Forwarded are set on requests
- "Meta Requests": probes go to the same port, by HTTP or a bare connection
- "Root", "Default Filesystems": /tmp is the writable place, and working files and caches go there
- "Process": PORT is set, and K_SERVICE, K_CONFIGURATION, K_REVISION may be
- "User": any user may run it (test_image.py does so, on a read-only root)
- What a developer MUST NOT set: a port's name of one's own ("Protocols and Ports"), properties of the
  process, namespaces, devices, mount propagation, masked paths; probes go to the one inbound port

Beyond the contract: containerConcurrency, and readiness as early as the golden check allows.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat.deploy import container_tables, knative
from preheat.deploy.container_spec import Options
from preheat.settings import Settings

from ...conftest import Answer, Server, serving
from ...unit.deploy.artifacts import facts
from ..test_server import REQUEST, exchange

KNATIVE = {
    "K_SERVICE": "filetype",
    "K_CONFIGURATION": "filetype",
    "K_REVISION": "filetype-00007",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
GRACE_S = 30
"""Knative's and Kubernetes' default."""

COUNTING_APP = """
import threading, time
from preheat import Function

function = Function(__file__)
start, lock, running = function.start, threading.Lock(), []


def counted(clock=None):
    start(clock)
    infer = function.service.current.engine.infer

    def run(*arguments):
        with lock:
            running.append(len(running) - 2 * running.count(None) + 1)
            print("running", running[-1], flush=True)
        time.sleep(0.3)
        try:
            return infer(*arguments)
        finally:
            with lock:
                running.append(None)

    function.service.current.engine.infer = run


function.start = counted
"""


@pytest.fixture(scope="module")
def server(filetype_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environ = KNATIVE | {"PREHEAT_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with serving(filetype_artifact, **environ) as started:
        started.wait_ready()
        yield started


@pytest.fixture
def counting(tmp_path: Path, filetype_artifact: Path) -> Path:
    """A function whose runs take 0.3 s, and that says how many of them there are."""
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(COUNTING_APP)
    return tmp_path / "app.py"


def ask_all(server: Server, count: int) -> tuple[list[threading.Thread], list[Answer]]:
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(server.request("POST", "/predict", REQUEST))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def listening(pid: int) -> list[int]:
    """The TCP ports that a process listens on."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(entry))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.append(int(fields[1].rpartition(":")[2], 16))
    return ports


def test_it_listens_on_the_one_port_that_PORT_names_on_every_address(server: Server) -> None:
    assert listening(server.process.pid) == [server.port]
    settings = Settings.from_environ(KNATIVE | {"PORT": "9000"})
    assert (settings.host, settings.port) == ("0.0.0.0", 9000)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_http_1(server: Server, version: bytes) -> None:
    raw = (
        b"GET /v2/health/ready %s\r\nHost: filetype.default.example.com\r\nConnection: close\r\n\r\n"
        % version
    )
    assert exchange(server, raw).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "line", [b"GET /v2/health/ready", b"OPTIONS /", b"OPTIONS *", b"HEAD /v2/health/ready"]
)
def test_an_upgrade_to_h2c_is_ignored(server: Server, line: bytes) -> None:
    """On any request, as a platform may try it: the answer is HTTP/1.1's, never a 101."""
    upgrade = (
        b"Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    )
    received = exchange(server, b"%s HTTP/1.1\r\nHost: x\r\n%s\r\n" % (line, upgrade))
    assert received.startswith(b"HTTP/1.1 ")
    assert int(received.split()[1]) in (200, 307, 400, 404, 405)
    assert b"upgrade" not in received.lower()


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_body_comes_whole_with_an_upgrade(server: Server, pieces: int) -> None:
    """And the connection lives on: the next request is answered too."""
    body = json.dumps(REQUEST).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    head += b"HTTP2-Settings: AAMAAABk\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    raw = head + body + last
    size = -(-len(raw) // pieces)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for begin in range(0, len(raw), size):
            client.sendall(raw[begin : begin + size])
            time.sleep(0.02)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert b'"python"' in received
    assert b'"live": true' in received


@pytest.mark.parametrize("wish", [b"Upgrade: websocket", b"Upgrade: h2c"])
def test_an_upgrade_with_a_wrong_length_is_refused_all_the_same(server: Server, wish: bytes) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" + wish
    received = exchange(server, head + b"\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
    assert received.startswith(b"HTTP/1.1 400 ")


def test_a_tunnel_is_refused(server: Server) -> None:
    received = exchange(
        server, b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 4")
    assert received.count(b"HTTP/1.1 ") == 1


def test_http_2_without_an_upgrade_is_refused_in_words(server: Server) -> None:
    """The port is named http1, so no platform tries; a client that does is told, and nobody hangs."""
    received = exchange(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"not HTTP/1.1" in received


@pytest.mark.parametrize(
    "headers",
    [
        {"forwarded": 'for=10.1.2.3;host="filetype.example.com";proto=https', "x-forwarded-proto": "https"},
        {"k-proxy-request": "activator", "x-forwarded-for": "10.1.2.3, 10.4.5.6", "via": "1.1 envoy"},
        {"x-request-id": "b9", "x-b3-traceid": "a" * 32, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        {"ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-specversion": "1.0"},
        {"k-network-hash": "override", "user-agent": "Knative-Ingress-Probe"},
    ],
)
def test_the_platforms_headers_change_no_answer(server: Server, headers: dict[str, str]) -> None:
    plain = server.request("POST", "/predict", REQUEST)
    answer = server.request("POST", "/predict", REQUEST, headers)
    assert (answer.status, answer.json()) == (200, plain.json())


def test_the_report_says_which_revision_it_is(server: Server) -> None:
    report = server.request("GET", "/coldstart").json()
    assert report["platform"] == "knative"
    named = {"service": "filetype", "configuration": "filetype", "revision": "filetype-00007"}
    assert report["deployment"] == named
    assert (
        "filetype-00007" in server.request("GET", "/coldstart", headers={"accept": "text/html"}).body.decode()
    )


def test_caches_go_to_tmp() -> None:
    assert Settings().cache_dir(KNATIVE | {"HOME": "/"}) == "/tmp/preheat"


# Probes


@pytest.mark.parametrize(
    "headers",
    [{"user-agent": "kube-probe/1.36"}, {"k-network-probe": "queue"}, {"k-kubelet-probe": "true"}],
)
def test_probes_by_http(server: Server, headers: dict[str, str]) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert server.request("GET", path, headers=headers).status == 200


def test_a_bare_connection_is_a_probe_too(server: Server) -> None:
    for _ in range(50):
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    assert server.request("GET", "/v2/health/ready").status == 200


@pytest.mark.alone
def test_probes_are_cheap(server: Server) -> None:
    took = []
    for _ in range(100):
        began = time.perf_counter()
        assert server.request("GET", "/v2/health/ready").status == 200
        took.append((time.perf_counter() - began) * 1e3)
    assert statistics.median(took) < 10


@pytest.mark.alone
def test_probes_are_answered_while_every_place_is_taken(counting: Path, cache: Path) -> None:
    environ = KNATIVE | {"PREHEAT_CONCURRENCY": "1", "PREHEAT_QUEUE": "3", "PREHEAT_BATCH_MS": "0"}
    with serving(counting, PREHEAT_CACHE=str(cache), **environ) as server:
        server.wait_ready()
        threads, answers = ask_all(server, 12)
        time.sleep(0.1)
        for path in ("/v2/health/live", "/v2/health/ready"):
            began = time.perf_counter()
            assert server.request("GET", path).status == 200
            assert time.perf_counter() - began < 0.25
        for thread in threads:
            thread.join(20)
        assert {answer.status for answer in answers} == {200, 503}


@pytest.mark.alone
def test_readiness_follows_the_golden_check_at_once(filetype_artifact: Path, cache: Path) -> None:
    with serving(filetype_artifact, PREHEAT_CACHE=str(cache), **KNATIVE) as server:
        seen = []
        deadline = time.monotonic() + 30
        while not seen or seen[-1] != 200:
            assert time.monotonic() < deadline
            seen.append(server.request("GET", "/v2/health/ready").status)
            ready_ns = time.perf_counter_ns()
            time.sleep(0.002)
        report = server.request("GET", "/coldstart").json()
        (warmed,) = [phase for phase in report["phases"] if phase["phase"] == "warmup"]
        checked_ns = report["origin_ns"] + (warmed["start_ms"] + warmed["duration_ms"]) * 1e6
        assert warmed["attributes"]["runs"] > 0
        assert set(seen) == {200, 503}
        assert 0 < (ready_ns - checked_ns) / 1e6 < 50


# The manifest


@pytest.mark.parametrize("options", [{}, {"gpu": 1, "pvc": "models", "runtime_class": "nvidia"}])
def test_what_is_rendered_sets_nothing_that_the_contract_forbids(options: dict[str, Any]) -> None:
    unit = knative.unit(facts(), Options("r/x:1", **options), container_tables.load())
    spec = knative.service(unit)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (port,) = container["ports"]
    assert set(port) == {"name", "containerPort"}
    assert port["name"] in ("http1", "h2c")
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        for handler in container.get(probe, {}).values():
            if isinstance(handler, dict):
                assert handler["port"] in (port["containerPort"], port["name"])
        assert not {"exec", "grpc"} & set(container.get(probe, {}))
    assert not {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"} & {e["name"] for e in container["env"]}
    assert not {"devices", "volumeDevices", "lifecycle", "stdin", "tty", "terminal"} & set(container)
    assert not {"procMount", "seLinuxOptions"} & set(container["securityContext"])
    assert not {"hostPID", "hostIPC", "hostNetwork", "hostUsers", "securityContext"} & set(spec)
    assert not [mount for mount in container["volumeMounts"] if "mountPropagation" in mount]
    (written,) = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert written["mountPath"] == "/tmp"


# containerConcurrency


@pytest.mark.alone
@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_run_at_once_than_the_containers_concurrency(counting: Path, cache: Path, limit: int) -> None:
    """As queue-proxy hands them on: it holds the limit itself, and the server is told the same one."""
    environ = KNATIVE | {"PREHEAT_CONCURRENCY": str(limit), "PREHEAT_BATCH_MS": "0"}
    with serving(counting, PREHEAT_CACHE=str(cache), **environ) as server:
        server.wait_ready()
        threads, answers = ask_all(server, 2 * limit)
        for thread in threads:
            thread.join(20)
        _, out, _ = server.stop()
    assert [answer.status for answer in answers] == [200] * (2 * limit)
    running = [int(line.split()[1]) for line in out.splitlines() if line.startswith("running")]
    assert max(running) == limit


# The end


@pytest.mark.alone
def test_sigterm_finishes_what_runs_refuses_what_is_new_and_exits_0(counting: Path, cache: Path) -> None:
    environ = KNATIVE | {"PREHEAT_CONCURRENCY": "1", "PREHEAT_BATCH_MS": "0"}
    with serving(counting, PREHEAT_CACHE=str(cache), **environ) as server:
        server.wait_ready()
        threads, answers = ask_all(server, 3)
        time.sleep(0.2)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        status, _, err = server.finish(GRACE_S)
        took = time.monotonic() - began
        for thread in threads:
            thread.join(10)
    assert (status, err) == (0, "")
    assert [answer.status for answer in answers] == [200] * 3
    assert took < 10


def test_it_ends_as_the_first_process_of_its_namespace(filetype_artifact: Path, cache: Path) -> None:
    """As in a container, where signals without a handler are not delivered."""
    identity = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *identity, "--pid", "--fork", "--kill-child"]
    tried = subprocess.run([*unshare, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no process namespaces for this user: {tried.stderr.strip()}")
    command = [*unshare, sys.executable, "-m", "preheat.server"]
    with serving(filetype_artifact, command=command, PREHEAT_CACHE=str(cache), **KNATIVE) as server:
        server.wait_ready()
        outer = server.process.pid
        (inner,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        assert "\nNSpid:\t" + f"{inner}\t1\n" in Path(f"/proc/{inner}/status").read_text()
        os.kill(int(inner), signal.SIGTERM)
        assert server.finish(GRACE_S)[0] == 0


def test_failures_are_logged_and_the_process_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "nothing", **KNATIVE) as server:
        status, _, err = server.finish()
    assert status != 0
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_the_log_is_lines_of_json_on_standard_output(
    server: Server, filetype_artifact: Path, cache: Path
) -> None:
    with serving(filetype_artifact, PREHEAT_CACHE=str(cache), PREHEAT_ACCESS_LOG="on", **KNATIVE) as logged:
        logged.wait_ready()
        logged.request("POST", "/predict", REQUEST)
        _, out, _ = logged.stop()
    lines: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert [line["message"] for line in lines] == ["cold start", "request"]
    assert lines[0]["deployment"]["revision"] == "filetype-00007"
