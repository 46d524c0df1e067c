"""Knative's objects in a cluster, by the ``kubernetes`` client's custom objects; its errors in words.

Objects are written by server-side apply, which is idempotent: a try whose answer was lost is made again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from ..errors import DeploymentError, UsageError

GROUP, VERSION = "serving.knative.dev", "v1"
FIELD_MANAGER = "preheat"
APPLY = "application/apply-patch+yaml"
SYSTEM_NAMESPACE, FEATURES = "knative-serving", "config-features"
TRIES = 4
PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed; a webhook that cannot be reached answers 500."""
MODIFIED_TRIES = 10

Object = dict[str, Any]


class Cluster:
    """One namespace of a cluster. Every method raises DeploymentError that says what to do."""

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        namespace: str = "",
        timeout_s: float = 30.0,
        pause_s: float = 1.0,
    ) -> None:
        """``timeout_s``: for each request; ``pause_s``: before the second try, more before later ones.

        Raises UsageError where no cluster is named.
        """
        configuration, named = _configuration(kubeconfig, context)
        # A try is repeated here, where the answer says whether that makes sense.
        configuration.retries = urllib3.Retry(0, redirect=0)
        api = client.ApiClient(configuration)
        self.namespace = namespace or named
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._timeout = timeout_s
        self._pause = pause_s
        self.address = str(configuration.host)

    def features(self) -> dict[str, str] | None:
        """Knative's feature flags; None where they may not be read, or there is no such ConfigMap."""

        def read() -> Any:
            return self._core.read_namespaced_config_map(
                FEATURES, SYSTEM_NAMESPACE, _request_timeout=self._timeout
            )

        try:
            found = self._try("read Knative's feature flags", read)
        except DeploymentError as error:
            if error.code in ("forbidden", "not_found"):
                return None
            raise
        return dict(found.data or {})

    def service(self, name: str) -> Object | None:
        """A Service as it stands; None where there is none."""
        return self._get("services", name)

    def configuration(self, name: str) -> Object | None:
        """What makes a Service's revisions; it has the Service's name."""
        return self._get("configurations", name)

    def revision(self, name: str) -> Object | None:
        return self._get("revisions", name)

    def apply(
        self, document: Object, before: Object | None, *, force: bool = False, dry_run: bool = False
    ) -> Object:
        """Apply a Service over the one that was read, if there was one; gives it as it is now.

        The controller writes its status all the time, so a changed ``resourceVersion`` alone is nothing; a
        changed specification is somebody else's work, and raises.
        """
        name = document["metadata"]["name"]
        for _ in range(MODIFIED_TRIES):
            try:
                return self._apply(name, _over(document, before), force=force, dry_run=dry_run)
            except DeploymentError as error:
                if error.code != "modified":
                    raise
            now = self.service(name)
            if now is not None and holds(now["spec"], document["spec"]):
                return now  # an earlier try arrived, and its answer did not
            if before is None or now is None or _generation(now) != _generation(before):
                break
            before = now
        raise DeploymentError(
            f"the Service {name} was changed by somebody else meanwhile: look at it, then deploy again",
            code="conflict",
        )

    def _apply(self, name: str, body: Object, *, force: bool, dry_run: bool) -> Object:
        def patch() -> Any:
            return self._objects.patch_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                "services",
                name,
                body,
                field_manager=FIELD_MANAGER,
                field_validation="Strict",
                force=force,
                dry_run="All" if dry_run else None,
                _content_type=APPLY,
                _request_timeout=self._timeout,
            )

        found: Object = self._try(f"apply the Service {name}", patch)
        return found

    def _get(self, plural: str, name: str) -> Object | None:
        def read() -> Any:
            return self._objects.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, plural, name, _request_timeout=self._timeout
            )

        try:
            found: Object = self._try(f"read {plural} {name}", read)
        except DeploymentError as error:
            if error.code == "not_found":
                return None
            raise
        return found

    def _try(self, doing: str, call: Callable[[], Any]) -> Any:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                return call()
            except ApiException as error:
                if last or error.status not in PASSING:
                    self._refused(doing, error)
                wait = _retry_after(error)
            except urllib3.exceptions.HTTPError as error:
                if last:
                    raise DeploymentError(
                        f"cannot {doing}: {self.address} does not answer ({_reason(error)}), "
                        f"{TRIES} tries of {self._timeout:g} s",
                        code="unreachable",
                    ) from None
                wait = 0.0
            time.sleep(max(wait, self._pause * (attempt + 1)))
        raise AssertionError("the last try returns or raises")

    def _refused(self, doing: str, error: ApiException) -> NoReturn:
        status = _status(error)
        said = str(status.get("message") or error.reason or "no reason given")
        where = f"in the namespace {self.namespace}"
        if error.status == 401:
            text, code = f"{self.address} does not know these credentials ({said})", "unauthenticated"
        elif error.status == 404 and status.get("details", {}).get("name") is None:
            text = f"Knative Serving is not there, or an old one: {said}"
            code = "not_installed"
        elif error.status == 404:
            text, code = said, "not_found"
        elif error.status == 409 and (managers := _managers(status)):
            text = f"{managers}; --force takes these fields over"
            code = "conflict"
        elif error.status == 409:
            text, code = said, "modified"
        elif "admission webhook" in said:
            # admission webhook "validation.webhook.serving.knative.dev" denied the request: …
            text = f"Knative's webhook refuses it: {said.partition('denied the request: ')[2] or said}"
            code = "refused"
        elif error.status == 403:
            text, code = f"these credentials may not, {where}: {said}", "forbidden"
        elif error.status in (400, 422):
            text, code = f"the cluster finds it malformed: {said}", "invalid"
        else:
            text, code = f"{self.address} answers {error.status}: {said}", "unreachable"
        raise DeploymentError(f"cannot {doing}: {text}", code=code) from None


def _configuration(kubeconfig: str | None, context: str | None) -> tuple[Any, str]:
    """The client's configuration, and the namespace that the context names."""
    configuration = client.Configuration()
    try:
        config.load_kube_config(kubeconfig, context, client_configuration=configuration, persist_config=False)
        contexts, active = config.list_kube_config_contexts(kubeconfig)
        if context is not None:
            active = next(c for c in contexts if c["name"] == context)
        return configuration, active["context"].get("namespace") or "default"
    except (ConfigException, OSError, TypeError, KeyError) as error:
        if kubeconfig is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
            return configuration, "default"
        raise UsageError(
            f"no cluster is named: {error}; set KUBECONFIG, or say --kubeconfig and --context"
        ) from None


def _over(document: Object, before: Object | None) -> Object:
    if before is None:
        return document
    version = before["metadata"]["resourceVersion"]
    return {**document, "metadata": {**document["metadata"], "resourceVersion": version}}


def _generation(found: Object) -> int:
    return int(found["metadata"].get("generation", 0))


def holds(found: Any, wanted: Any) -> bool:
    """Whether every value that is wanted is there."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(holds(found.get(key), wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(holds(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def _status(error: ApiException) -> dict[str, Any]:
    """The ``Status`` object of a refusal; empty where the answer is none."""
    try:
        found = json.loads(error.body or "")
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _managers(status: dict[str, Any]) -> str:
    """Which fields belong to whom, where that is what the conflict is about."""
    causes = (status.get("details") or {}).get("causes") or []
    found = [c for c in causes if c.get("reason") == "FieldManagerConflict"]
    return ", ".join(f"{c.get('field', '?')}: {c.get('message', 'conflict')}" for c in found)


def _retry_after(error: ApiException) -> float:
    text = str((error.headers or {}).get("Retry-After", ""))
    return min(float(text), 30.0) if text.isdigit() else 0.0


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).rpartition(": ")[2] or type(error).__name__
