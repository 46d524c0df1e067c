"""Sends what a schedule says, when it says it, and tells what came back. Speaks HTTP and locust, nothing
else.

Started by `preheat load` as a process of its own (gevent patches the whole process), or by hand as a worker
on another machine: ``locust -f loadtests/locustfile.py --worker --master-host HOST``.

Arrivals are open-loop: each request has its own greenlet and its own intended moment, and waits for nobody.
Times are seconds on this process's clock from the moment at which it was given its work; no clock of another
process or host is ever part of one. What an answer means is not judged here.

Lines on stdin, each a JSON object: ``{"segment": …}`` runs one, the end of input ends the process. Lines on
stdout: ``{"ready": workers}``, ``{"samples": […], "worker": id}``, ``{"done": segment, "cpu_s": …}``,
``{"error": text}``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.pool
import gevent.queue
import locust
from gevent.fileobject import FileObjectThread
from gevent.ssl import SSLError
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPConnectionClosed, HTTPParseError
from locust.env import Environment
from locust.runners import MasterRunner

KEPT = ("content-type", "location", "retry-after", "server", "server-timing", "x-envoy-upstream-service-time")
"""Headers of an answer that are handed on, besides all that begin with ``x-preheat-``."""
LEAD_S = 0.05
"""From being given the work to the schedule's zero."""
TELL_S = 0.25
"""Samples are handed on in this rhythm: what a run that is cut off has seen is not lost."""
WORKERS_S = 60.0
"""How long the workers may take to come."""


class Sender(locust.User):
    """One a process. ``work`` is what it was given, one segment after the other."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._clients: dict[Any, HTTPClient] = {}

    @locust.task
    def follow(self) -> None:
        for work in _WORK:
            self._run(work)

    def _run(self, work: dict[str, Any]) -> None:
        seen: list[dict[str, Any]] = []
        tell = self.environment.runner.send_message
        for payload in work["payloads"]:
            payload["body"] = payload["body"].encode("latin-1")
        cpu, zero = time.process_time(), time.perf_counter() + LEAD_S
        sending = gevent.spawn(self._send_all, work, zero, seen)
        while not sending.ready():
            sending.join(TELL_S)
            if seen:
                tell("samples", {"samples": seen[:]})
                seen.clear()
        failed = "" if sending.successful() else repr(sending.exception)
        cpu = time.process_time() - cpu
        tell("samples", {"samples": seen, "cpu_s": cpu, "done": True, "failed": failed})

    def _send_all(self, work: dict[str, Any], zero: float, seen: list[dict[str, Any]]) -> None:
        group = gevent.pool.Group()
        if work["closed"]:
            ends = zero + work["duration_s"]
            for index in range(work["concurrency"]):
                group.spawn(self._in_turn, work, index, zero, ends, seen)
        for number, at, payload, key in work["requests"]:
            gevent.sleep(max(zero + at - time.perf_counter(), 0.0))
            group.spawn(self._one, work, number, at, payload, key, zero, seen)
        group.join(raise_error=True)

    def _in_turn(
        self, work: dict[str, Any], index: int, zero: float, ends: float, seen: list[dict[str, Any]]
    ) -> None:
        """A closed loop: the next request when the last one is answered."""
        count, order = index, work["order"]
        gevent.sleep(max(zero - time.perf_counter(), 0.0))
        while (now := time.perf_counter()) < ends:
            number, payload = work["first"] + count, order[count % len(order)]
            answered = self._one(work, number, now - zero, payload, "", zero, seen)
            count += work["concurrency"]
            if not answered:
                gevent.sleep(0.1)  # nobody there: no use in asking as fast as this process can

    def _one(
        self,
        work: dict[str, Any],
        number: int,
        at: float,
        payload: int,
        key: str,
        zero: float,
        seen: list[dict[str, Any]],
    ) -> bool:
        """Send one request, again where the scenario retries; gives whether it was answered at all."""
        target, retry, attempt = work["target"], work["retry"], 0
        while True:
            sample = self._try(target, work["payloads"][payload], at, key, zero)
            sample |= {"number": number, "at": at, "key": key, "attempt": attempt}
            wait = _wait_s(sample, retry, attempt, key)
            late = time.perf_counter() - zero - at + wait >= target["timeout_s"]
            sample["final"] = wait < 0 or late
            seen.append(sample)
            if sample["final"]:
                return bool(sample["status"])
            attempt += 1
            gevent.sleep(wait)

    def _try(
        self, target: dict[str, Any], payload: dict[str, Any], at: float, key: str, zero: float
    ) -> dict[str, Any]:
        begun = time.perf_counter()
        sample: dict[str, Any] = {"sent": begun - zero, "status": 0, "error": "", "detail": "", "headers": {}}
        left = target["timeout_s"] - (begun - zero - at)
        if left <= 0:
            return {**sample, "end": begun - zero, "error": "unsent", "detail": "its time was over before"}
        headers = {**payload["headers"], **({"idempotency-key": key} if key else {})}
        body = payload["body"]
        if target["sign"]:
            headers = _signed(target, payload, headers, body)
        try:
            with gevent.Timeout(left, _OutOfTimeError):
                response = self._client(target).request(payload["method"], payload["path"], body, headers)
                sample["head"] = time.perf_counter() - zero
                content = bytes(response.read())
        except (Exception, _OutOfTimeError) as error:
            name, detail = _class_of(error)
            return {**sample, "end": time.perf_counter() - zero, "error": name, "detail": detail}
        sample["end"] = time.perf_counter() - zero
        found = {name.lower(): str(value) for name, value in response.headers}
        kept = {k: v for k, v in found.items() if k in KEPT or k.startswith("x-preheat-")}
        sample["digest"] = hashlib.sha256(content).hexdigest()[:16]
        if response.status_code >= 400:
            sample["detail"] = content[:300].decode(errors="replace")
        return {**sample, "status": response.status_code, "headers": kept}

    def _client(self, target: dict[str, Any]) -> HTTPClient:
        """One pool of connections a target: as many at once as the scenario allows, kept open."""
        known = (target["url"], target["timeout_s"], target["connections"])
        if known not in self._clients:
            parts = urlsplit(target["url"])
            self._clients[known] = HTTPClient(
                parts.hostname or "",
                parts.port or (443 if parts.scheme == "https" else 80),
                ssl=parts.scheme == "https",
                concurrency=target["connections"],
                connection_timeout=min(target["timeout_s"], 10.0),
                network_timeout=target["timeout_s"],
            )
        return self._clients[known]


def _signed(
    target: dict[str, Any], payload: dict[str, Any], headers: dict[str, str], body: bytes
) -> dict[str, str]:
    """With AWS's Signature Version 4, at the moment of sending: it holds for five minutes. ``sign``:
    ``SERVICE:REGION``; the credentials are those of this process."""
    import botocore.session
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    if not _CREDENTIALS:
        _CREDENTIALS.append(botocore.session.Session().get_credentials())
    service, _, region = target["sign"].partition(":")
    parts = urlsplit(target["url"])
    url = f"{parts.scheme}://{parts.netloc}{payload['path']}"
    request = AWSRequest(payload["method"], url, headers={**headers, "host": parts.netloc}, data=body)
    SigV4Auth(_CREDENTIALS[0].get_frozen_credentials(), service, region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


_CREDENTIALS: list[Any] = []
_WORK: gevent.queue.Queue = gevent.queue.Queue()


class _OutOfTimeError(BaseException):
    """Not an Exception: the client library must not take it for an error of its own and go on."""


def _class_of(error: BaseException) -> tuple[str, str]:
    detail = str(error)[:300] or type(error).__name__
    if isinstance(error, _OutOfTimeError | TimeoutError):
        return "unanswered", "no answer in time"
    if isinstance(error, SSLError):
        return "tls", detail
    if isinstance(error, ConnectionRefusedError):
        return "refused", detail
    if isinstance(error, gevent.socket.gaierror):
        return "unresolved", detail
    if isinstance(error, HTTPConnectionClosed | ConnectionError):
        return "closed", detail
    return ("broken" if isinstance(error, HTTPParseError) else "failed_to_send"), detail


def _wait_s(sample: dict[str, Any], retry: dict[str, Any], attempt: int, key: str) -> float:
    """Seconds before another try; negative for none. What may have run is sent again only under a key."""
    if attempt >= retry["most"]:
        return -1.0
    if sample["status"] in (429, 503):
        told = sample["headers"].get("retry-after", "")
        wait = float(told) if told.isdigit() else retry["wait_s"]
        return float(min(wait, retry["most_wait_s"]))
    if sample["error"] == "refused" or (key and sample["error"] == "closed"):
        return float(retry["wait_s"])
    return -1.0


def _take(msg: Any, **_kwargs: object) -> None:
    _WORK.put(msg.data)


def listen(environment: Any, **_kwargs: object) -> None:
    """Take work where this process sends; a master only hands it on."""
    if not isinstance(environment.runner, MasterRunner):
        environment.runner.register_message("work", _take)
    if "LOADTEST_PARENT" in os.environ:
        gevent.spawn(_end_with, int(os.environ["LOADTEST_PARENT"]))


locust.events.init.add_listener(listen)  # type: ignore[no-untyped-call]  # locust's own, in a worker


def _end_with(parent: int) -> None:
    """What `preheat load` started ends with it, however that ends."""
    while os.getppid() == parent:
        gevent.sleep(1)
    os._exit(0)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Generator:
    """The process that `preheat load` talks to: locust's runner, alone or with workers."""

    def __init__(self, workers: int, host: str, port: int) -> None:
        self._workers = max(workers, 1)
        environment = Environment(user_classes=[Sender], events=locust.events)
        if workers:
            self._runner: Any = environment.create_master_runner(host, port)
        else:
            self._runner = environment.create_local_runner()
        self._runner.register_message("samples", self._samples)
        listen(environment)
        self._finished: gevent.queue.Queue = gevent.queue.Queue()
        gevent.signal_handler(signal.SIGTERM, self._quit)

    def run(self) -> int:
        master = isinstance(self._runner, MasterRunner)
        with gevent.Timeout(WORKERS_S, False):
            while master and len(self._runner.clients.ready) < self._workers:
                gevent.sleep(0.05)
        if master and len(self._runner.clients.ready) < self._workers:
            found = len(self._runner.clients.ready)
            _say({"error": f"{found} of {self._workers} workers came within {WORKERS_S:g} s"})
            return 1
        self._runner.start(self._workers, spawn_rate=self._workers)
        with gevent.Timeout(WORKERS_S, False):
            while self._runner.user_count < self._workers:
                gevent.sleep(0.02)
        _say({"ready": self._workers})
        lines = FileObjectThread(sys.stdin.buffer, "rb", close=False)
        for line in lines:
            self._segment(json.loads(line)["segment"])
        self._quit()
        return 0

    def _quit(self) -> None:
        """Workers elsewhere are told, and end too."""
        self._runner.quit()
        sys.stdout.flush()
        os._exit(0)

    def _segment(self, segment: dict[str, Any]) -> None:
        clients = [client.id for client in self._runner.clients.running] if self._is_master() else [None]
        every = len(clients)
        for index, client in enumerate(clients):
            part = {**segment, "requests": segment["requests"][index::every]}
            if segment["closed"]:
                part["concurrency"] = len(range(index, segment["concurrency"], every))
                part["first"] = segment["first"] + index * 10**7
            self._runner.send_message("work", part, client)
        cpu = sum(self._next_done(every) for _ in clients)
        _say({"done": segment["number"], "cpu_s": cpu})

    def _next_done(self, workers: int) -> float:
        while True:
            with gevent.Timeout(2.0, False):
                return float(self._finished.get())
            if self._is_master() and len(self._runner.clients.running) < workers:
                left = len(self._runner.clients.running)
                _say({"error": f"a worker has gone: {left} of {workers} are left"})
                sys.exit(1)

    def _is_master(self) -> bool:
        return isinstance(self._runner, MasterRunner)

    def _samples(self, msg: Any, **_kwargs: object) -> None:
        worker = getattr(msg, "node_id", None) or "local"
        if msg.data["samples"]:
            _say({"samples": msg.data["samples"], "worker": str(worker)})
        if msg.data.get("failed"):
            _say({"error": f"a defect of the load generator: {msg.data['failed']}"})
        if msg.data.get("done"):
            self._finished.put(msg.data["cpu_s"])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5557)
    options = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    run: Callable[[], int] = Generator(options.workers, options.host, options.port).run
    return run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
