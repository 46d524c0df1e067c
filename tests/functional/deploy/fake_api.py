"""A Kubernetes API server as far as Knative Services need one: real sockets, the real API's rules.

Rules are from https://kubernetes.io/docs/reference/using-api/ ("Server-Side Apply", "API Concepts") and from
the OpenAPI document of Kubernetes 1.37; a pod template is held against its published schema. Whatever breaks
one is answered as the real server answers it, and kept in ``refused`` with its reason.
"""

from __future__ import annotations

import copy
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import yaml

from ...pod_schema import held_against_the_schema

GROUP = "serving.knative.dev/v1"
PARAMETERS = {"dryRun", "fieldManager", "fieldValidation", "force", "pretty"}


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Failure(NamedTuple):
    """What the server does instead of answering: a status, or nothing for a while."""

    method: str
    status: int = 0
    message: str = ""
    hang_s: float = 0.0
    apply_first: bool = False
    """Do what was asked, and lose the answer."""
    headers: tuple[tuple[str, str], ...] = ()
    traffic: int | None = None
    """Only for an apply whose first target has as many per cent of the traffic."""

    def meets(self, request: Request) -> bool:
        if request.method != self.method or self.traffic is None:
            return request.method == self.method
        traffic = request.body["spec"].get("traffic", [{}])
        return bool(traffic[0].get("percent") == self.traffic)


class RefusedError(Exception):
    def __init__(self, status: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status, self.reason, self.details = status, reason, details


class FakeApi:
    """``changed`` is called with each Service that was written; ``status`` gives an object's status."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refused: list[str] = []
        self.failures: list[Failure] = []
        self.features: dict[str, str] = {}
        self.features_readable = True
        self.installed = True
        self.objects: dict[tuple[str, str, str], Any] = {}
        self.changed: Callable[[Any, bool], None] = lambda service, new_template: None
        self.status: Callable[[str, Any], Any] = lambda plural, found: {}
        self.deleted: Callable[[Any], None] = lambda service: None
        self.lock = threading.RLock()
        self._version = 100
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api._serve(self)

            do_PATCH = do_DELETE = do_POST = do_PUT = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, folder: Path, namespace: str = "models") -> Path:
        path = folder / "kubeconfig"
        cluster = {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": "secret"}}],
            "contexts": [
                {"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": namespace}}
            ],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def put(self, plural: str, document: Any) -> Any:
        """Write an object as a controller does: a new resourceVersion, the same generation."""
        with self.lock:
            meta = document["metadata"]
            self._version += 1
            meta["resourceVersion"] = str(self._version)
            self.objects[plural, meta["namespace"], meta["name"]] = document
            return document

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        url = urllib.parse.urlsplit(handler.path)
        request = Request(
            handler.command,
            url.path,
            dict(urllib.parse.parse_qsl(url.query)),
            {name.lower(): value for name, value in handler.headers.items()},
            json.loads(raw) if raw else None,
        )
        self.requests.append(request)
        failure = next((f for f in self.failures if f.meets(request)), None)
        if failure is not None:
            self.failures.remove(failure)
            if failure.apply_first:
                self._answer(request)
            time.sleep(failure.hang_s)
            status, body = failure.status, _refusal(failure.status, "Failure", failure.message, {})
            if not status:
                handler.close_connection = True
                return
        else:
            status, body = self._answer(request)
        headers = dict(failure.headers) if failure else {}
        text = json.dumps(body).encode() if isinstance(body, dict) else str(body).encode()
        try:
            handler.send_response(status)
            kind = "application/json" if isinstance(body, dict) else "text/plain"
            for name, value in {"content-type": kind, "content-length": str(len(text)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(text)
        except OSError:
            handler.close_connection = True  # the client had no patience

    def _answer(self, request: Request) -> tuple[int, Any]:
        try:
            with self.lock:
                return 200, self._do(request)
        except RefusedError as error:
            if error.status != 404:
                self.refused.append(f"{request.method} {request.path}: {error}")
            if error.status == 404 and error.reason == "NoRoute":
                return 404, "404 page not found\n"
            return error.status, _refusal(error.status, error.reason, str(error), error.details)

    def _do(self, request: Request) -> Any:
        if request.headers.get("authorization") != "Bearer secret":
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        parts = request.path.strip("/").split("/")
        match parts:
            case ["api", "v1", "namespaces", "knative-serving", "configmaps", "config-features"]:
                return self._features()
            case ["apis", "serving.knative.dev", "v1", "namespaces", space, plural, name] if self.installed:
                return self._object(request, space, plural, name)
        raise RefusedError(404, "NoRoute", "404 page not found")

    def _features(self) -> Any:
        if not self.features_readable:
            raise RefusedError(
                403,
                "Forbidden",
                'configmaps "config-features" is forbidden: User "me" cannot get resource "configmaps" in '
                'API group "" in the namespace "knative-serving"',
                name="config-features",
                kind="configmaps",
            )
        meta = {"name": "config-features", "namespace": "knative-serving"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": self.features}

    def _object(self, request: Request, space: str, plural: str, name: str) -> Any:
        key = (plural, space, name)
        found = self.objects.get(key)
        if request.method == "PATCH" and plural == "services":
            return self._apply(request, space, name, found)
        if found is None:
            raise RefusedError(
                404, "NotFound", f'{plural}.serving.knative.dev "{name}" not found', name=name, kind=plural
            )
        if request.method == "DELETE":
            del self.objects[key]
            self.deleted(found)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        shown = {k: v for k, v in found.items() if k != "owners"}
        return {**shown, "status": self.status(plural, found)}

    def _apply(self, request: Request, space: str, name: str, found: Any) -> Any:
        manager = _checked(request, space, name)
        body = copy.deepcopy(request.body)
        version = body["metadata"].pop("resourceVersion", None)
        if version is not None and (found is None or found["metadata"]["resourceVersion"] != version):
            raise RefusedError(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on services.serving.knative.dev "{name}": the object has '
                "been modified; please apply your changes to the latest version and try again",
                name=name,
                kind="services",
            )
        _held_against_the_crd(body)
        self._webhook(body)
        merged, owners = _merged(body, found, manager, force=request.query.get("force") == "true")
        old = found["spec"] if found else None
        generation = found["metadata"]["generation"] if found else 0
        if merged["spec"] != old:
            generation += 1
        merged["metadata"] |= {"namespace": space, "generation": generation, "uid": f"uid-{name}"}
        merged["owners"] = owners
        if request.query.get("dryRun") != "All":
            self.put("services", merged)
            self.changed(merged, old is None or old["template"] != merged["spec"]["template"])
        shown = {k: v for k, v in merged.items() if k != "owners"}
        return {**shown, "status": self.status("services", merged)}

    def _webhook(self, body: Any) -> None:
        """A few of the rules of Knative's validating webhook, in its words."""
        spec = body["spec"]["template"]["spec"]
        for field, flag in (
            ("nodeSelector", "kubernetes.podspec-nodeselector"),
            ("runtimeClassName", "kubernetes.podspec-runtimeclassname"),
        ):
            if field in spec and self.features.get(flag, "disabled").lower() != "enabled":
                raise _denied(f"must not set the field(s): spec.template.spec.{field}")
        if spec.get("timeoutSeconds", 0) > 600:
            raise _denied("expected 0 <= 601 <= 600: spec.template.spec.timeoutSeconds")
        total = sum(t.get("percent", 0) for t in body["spec"].get("traffic", [{"percent": 100}]))
        if total != 100:
            raise _denied(f"Traffic targets sum to {total}, want 100: spec.traffic")


def _checked(request: Request, space: str, name: str) -> str:
    """The field manager of an apply request. Raises RefusedError for what the real server refuses."""
    kind = request.headers.get("content-type", "")
    if kind != "application/apply-patch+yaml":
        raise RefusedError(415, "UnsupportedMediaType", f"the body is in an unknown format: {kind}")
    query, body = request.query, request.body
    unknown = set(query) - PARAMETERS
    if unknown:
        raise RefusedError(400, "BadRequest", f"unknown query parameters: {unknown}")
    manager = query.get("fieldManager", "")
    if not manager or len(manager) > 128 or not manager.isprintable():
        raise RefusedError(422, "Invalid", "fieldManager: Required value: is required for apply patch")
    if query.get("dryRun", "All") != "All" or query.get("force", "true") not in ("true", "false"):
        raise RefusedError(422, "Invalid", "dryRun: Unsupported value")
    meta = body.get("metadata", {})
    if (body.get("apiVersion"), body.get("kind")) != (GROUP, "Service"):
        raise RefusedError(400, "BadRequest", "the object's kind does not match the one of the request")
    if meta.get("name") != name or meta.get("namespace", space) != space:
        raise RefusedError(400, "BadRequest", "the name of the object does not match the name on the URL")
    if "managedFields" in meta:
        raise RefusedError(400, "BadRequest", "metadata.managedFields must be nil")
    return manager


def _held_against_the_crd(body: Any) -> None:
    """Knative's CRD (``config/core/300-resources/service.yaml``) around the published schema of a pod."""
    spec = body.get("spec", {})
    for where, found, known in (
        ("", body, {"apiVersion", "kind", "metadata", "spec"}),
        ("spec.", spec, {"template", "traffic"}),
        ("spec.template.", spec.get("template", {}), {"metadata", "spec"}),
        *(
            (f"spec.traffic[{i}].", t, {"revisionName", "latestRevision", "percent", "tag"})
            for i, t in enumerate(spec.get("traffic", []))
        ),
    ):
        for key in set(found) - known:
            raise RefusedError(400, "BadRequest", f'strict decoding error: unknown field "{where}{key}"')
    for notes in (body["metadata"], spec["template"].get("metadata", {})):
        for key, value in {**notes.get("annotations", {}), **notes.get("labels", {})}.items():
            if not isinstance(value, str):
                raise RefusedError(400, "BadRequest", f"{key}: a string was expected")
    try:
        held_against_the_schema({"name": "x"}, spec["template"]["spec"])
    except kubernetes_validate.ValidationError as error:
        raise RefusedError(422, "Invalid", f"Service is invalid: spec.template.{error}") from None


def _merged(body: Any, found: Any, manager: str, *, force: bool) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Server-side apply: who wrote which field, what is taken away again, what belongs to somebody else."""
    fields = _leaves(body)
    owners = copy.deepcopy(found["owners"]) if found else {}
    causes = []
    for other, theirs in owners.items():
        if other == manager:
            continue
        for path in [p for p in theirs if p in fields and theirs[p] != fields[p]]:
            if force:
                del theirs[path]
            else:
                causes.append(
                    {
                        "reason": "FieldManagerConflict",
                        "message": f'conflict with "{other}" using {GROUP}',
                        "field": "." + ".".join(path),
                    }
                )
    if causes:
        raise RefusedError(409, "Conflict", f"Apply failed with {len(causes)} conflicts", causes=causes)
    owners[manager] = fields
    merged: Any = {"metadata": {}, "spec": {}}
    for theirs in owners.values():
        for path, value in theirs.items():
            at = merged
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[path[-1]] = value
    kept = {k: v for k, v in (found or {}).get("metadata", {}).items() if k not in merged["metadata"]}
    merged["metadata"] = {**kept, **merged["metadata"]}
    return merged, owners


def _leaves(document: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value by its path. Lists are one value, as the CRD has them (no list-type: atomic)."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value:
            found |= _leaves(value, (*at, key))
        else:
            found[*at, key] = value
    return found


def _denied(message: str) -> RefusedError:
    return RefusedError(
        400,
        "BadRequest",
        'admission webhook "validation.webhook.serving.knative.dev" denied the request: validation failed: '
        + message,
    )


def _refusal(status: int, reason: str, message: str, details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": status,
    }
