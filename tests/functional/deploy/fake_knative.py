"""Knative on one machine: the fake API server, a controller, and an ingress before real Preheat servers.

A revision's instance is `python -m preheat.server` with the container's own variables; an image is an
artifact folder. It is started for the revision's first readiness and by a request that meets none, and
stopped after ``idle_s`` without one, as Knative does. What a real cluster does beside that is not played.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ...conftest import Server
from .fake_api import GROUP, FakeApi

DOMAIN = "example.com"
LAG_S = 0.2


class Revision:
    """One revision, and the one instance that it may have."""

    def __init__(self, name: str, artifact: Path | None, environ: Mapping[str, str]) -> None:
        self.name, self.artifact, self.environ = name, artifact, environ
        self.server: Server | None = None
        self.ready = False
        self.reason = "Deploying"
        self.used = time.monotonic()
        self.busy = 0
        self.answered = 0
        self.fail_every = 0
        """Let the ingress answer 503 to every n-th POST; 0: to none."""
        self.lock = threading.Lock()

    def instance(self) -> Server:
        with self.lock:
            if self.server is None or self.server.process.poll() is not None:
                assert self.artifact is not None
                self.server = Server(self.artifact, **self.environ)
            return self.server

    def stop(self) -> None:
        with self.lock:
            server, self.server = self.server, None
        if server is not None:
            server.stop()


class FakeKnative:
    def __init__(self, images: Mapping[str, Path], cache: Path, *, idle_s: float = 3600.0) -> None:
        self.api = FakeApi()
        self.api.changed, self.api.status, self.api.deleted = self._changed, self._status, self._deleted
        self.revisions: dict[str, Revision] = {}
        self.hosts: list[str] = []
        self._images, self._cache, self._idle = dict(images), cache, idle_s
        self._ended = threading.Event()
        self._turn = 0
        knative = self

        class Ingress(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                knative._route(self)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._ingress = ThreadingHTTPServer(("127.0.0.1", 0), Ingress)
        self._ingress.daemon_threads = True
        self.ingress = f"http://127.0.0.1:{self._ingress.server_address[1]}"
        self._threads = [
            threading.Thread(target=self._ingress.serve_forever, args=(0.05,), daemon=True),
            threading.Thread(target=self._reap, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ended.set()
        self._ingress.shutdown()
        self._ingress.server_close()
        self.api.close()
        for revision in self.revisions.values():
            revision.stop()

    # The controller

    def _changed(self, service: Any, new_template: bool) -> None:
        """The Service is taken up at once, its Configuration a little later."""
        if new_template:
            timer = threading.Timer(LAG_S, self._configure, (copy.deepcopy(service),))
            timer.daemon = True
            timer.start()

    def _configure(self, service: Any) -> None:
        with self.api.lock:
            name, count = service["metadata"]["name"], len(self.revisions) + 1
            space = service["metadata"]["namespace"]
            template = service["spec"]["template"]
            (container,) = template["spec"]["containers"]
            environ = {e["name"]: e["value"] for e in container["env"] if "value" in e}
            environ |= {"PREHEAT_CACHE": str(self._cache), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
            environ |= {"K_SERVICE": name, "K_REVISION": f"{name}-{count:05}"}
            revision = Revision(f"{name}-{count:05}", self._images.get(container["image"]), environ)
            self.revisions[revision.name] = revision
            for plural, kind, own, spec in (
                ("revisions", "Revision", revision.name, {}),
                ("configurations", "Configuration", name, {"template": template}),
            ):
                meta = {"name": own, "namespace": space, "generation": count}
                self.api.put(plural, {"apiVersion": GROUP, "kind": kind, "metadata": meta, "spec": spec})
        threading.Thread(target=self._bring_up, args=(revision,), daemon=True).start()

    def _bring_up(self, revision: Revision) -> None:
        if revision.artifact is None:
            revision.reason = "ContainerMissing"
            return
        server = revision.instance()
        while not self._ended.is_set():
            if server.process.poll() is not None:
                revision.reason = f"ExitCode{server.process.returncode}"
                return
            # AssertionError: it has ended since it was looked at, and is looked at again.
            with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
                if server.request("GET", "/v2/health/ready").status == 200:
                    revision.ready, revision.reason = True, ""
                    revision.used = time.monotonic()
                    return
            time.sleep(0.05)

    def _status(self, plural: str, found: Any) -> Any:
        if plural == "revisions":
            revision = self.revisions[found["metadata"]["name"]]
            return {"conditions": [_ready(revision), _active(revision)]}
        if plural == "configurations":
            generation = found["metadata"]["generation"]
            latest = self._latest(found["metadata"]["name"], ready=False)
            return {"observedGeneration": generation, "latestCreatedRevisionName": latest}
        name, space = found["metadata"]["name"], found["metadata"]["namespace"]
        host = f"{name}.{space}.{DOMAIN}"
        targets = self._targets(found)
        ready = bool(targets) and all(self.revisions[r].ready for r, _, _ in targets)
        traffic = []
        for revision, percent, tag in targets:
            entry: dict[str, Any] = {"revisionName": revision, "percent": percent}
            if tag:
                entry |= {"tag": tag, "url": f"http://{tag}-{host}"}
            traffic.append(entry)
        state = {"status": "True"} if ready else {"status": "Unknown", "reason": "RevisionMissing"}
        return {
            "observedGeneration": found["metadata"]["generation"],
            "latestCreatedRevisionName": self._latest(name, ready=False),
            "url": f"http://{host}",
            "conditions": [{"type": kind, **state} for kind in ("Ready", "RoutesReady")],
            "traffic": traffic if ready else [],
        }

    def _deleted(self, service: Any) -> None:
        prefix = service["metadata"]["name"] + "-"
        for revision in self.revisions.values():
            if revision.name.startswith(prefix):
                threading.Thread(target=revision.stop, daemon=True).start()

    def _latest(self, name: str, *, ready: bool = True) -> str:
        """The newest revision; of those that are ready, as ``latestRevision`` in the traffic means it."""
        own = [
            r.name
            for r in self.revisions.values()
            if r.name.startswith(f"{name}-") and (r.ready or not ready)
        ]
        return max(own, default="")

    def _targets(self, service: Any) -> list[tuple[str, int, str]]:
        default = [{"latestRevision": True, "percent": 100}]
        latest = self._latest(service["metadata"]["name"])
        found = [
            (t.get("revisionName") or latest, t.get("percent", 0), t.get("tag", ""))
            for t in service["spec"].get("traffic", default)
        ]
        return found if all(name for name, _, _ in found) else []

    # The ingress and the activator

    def _route(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        host = handler.headers["host"].partition(":")[0]
        self.hosts.append(host)
        revision = self._revision(host)
        status, headers, answer = 404, [("content-length", "0")], b""
        if revision is not None:
            revision.answered += handler.command == "POST"
            failing = revision.fail_every and revision.answered % revision.fail_every == 0
            if failing and handler.command == "POST":
                status, answer = 503, b"upstream connect error"
                headers = [("content-length", str(len(answer)))]
            else:
                status, headers, answer = _forward(revision, handler, body)
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer)

    def _revision(self, host: str) -> Revision | None:
        with self.api.lock:
            for (plural, _, _), service in self.api.objects.items():
                if plural != "services":
                    continue
                meta = service["metadata"]
                own = f"{meta['name']}.{meta['namespace']}.{DOMAIN}"
                for name, _, tag in self._targets(service):
                    if tag and host == f"{tag}-{own}":
                        return self.revisions[name]
                if host == own:
                    return self.revisions[self._by_share(service)]
        return None

    def _by_share(self, service: Any) -> str:
        self._turn = (self._turn + 37) % 100
        reached = 0
        for name, percent, _ in self._targets(service):
            reached += percent
            if self._turn < reached:
                return name
        raise AssertionError("percentages sum to 100")

    def _reap(self) -> None:
        while not self._ended.wait(0.05):
            for revision in list(self.revisions.values()):
                idle = time.monotonic() - revision.used
                if revision.server is not None and revision.ready and not revision.busy and idle > self._idle:
                    revision.stop()


def _forward(
    revision: Revision, handler: BaseHTTPRequestHandler, body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    revision.busy += 1
    try:
        with contextlib.closing(revision.instance().connect()) as connection:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("connection",)}
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        hop = ("connection", "transfer-encoding", "content-length", "keep-alive")
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in hop]
        return answer.status, [*kept, ("content-length", str(len(data)))], data
    finally:
        revision.busy -= 1
        revision.used = time.monotonic()


def _ready(revision: Revision) -> Any:
    if revision.ready:
        return {"type": "Ready", "status": "True"}
    failed = revision.reason not in ("", "Deploying")
    said = f"{revision.name} has {revision.reason}"
    return {
        "type": "Ready",
        "status": "False" if failed else "Unknown",
        "reason": revision.reason,
        "message": said,
    }


def _active(revision: Revision) -> Any:
    if revision.server is None:
        return {"type": "Active", "status": "False", "reason": "NoTraffic"}
    return {"type": "Active", "status": "True"}


@contextlib.contextmanager
def knative(images: Mapping[str, Path], cache: Path, *, idle_s: float = 3600.0) -> Iterator[FakeKnative]:
    """A fake cluster for the length of a block."""
    fake = FakeKnative(images, cache, idle_s=idle_s)
    try:
        yield fake
    finally:
        fake.close()
