"""Knative: the service's pods deleted, or waited for until the autoscaler has taken them; confirmed by there
being none that is not on its way out, and none that has come anew."""

from __future__ import annotations

import time
from typing import Any

from ...errors import UsageError
from . import NotColdError

LABEL = "serving.knative.dev/service"
GONE_S = 900.0
"""Past a stable window and its drain (600 s at most, and 300)."""
POLL_S = 0.5


class Knative:
    """``core``: the `kubernetes` client's CoreV1Api. ``delete``: or wait for the autoscaler."""

    def __init__(self, namespace: str, service: str, core: Any, *, delete: bool) -> None:
        self._namespace, self._service, self._core, self._delete = namespace, service, core, delete

    def force(self) -> str:
        """Raises NotColdError with the cluster's own words, or where pods are left in the end."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        selector = f"{LABEL}={self._service}"
        try:
            if self._delete:
                self._core.delete_collection_namespaced_pod(self._namespace, label_selector=selector)
            deadline = time.monotonic() + GONE_S
            while pods := self._core.list_namespaced_pod(self._namespace, label_selector=selector).items:
                if time.monotonic() > deadline:
                    names = ", ".join(pod.metadata.name for pod in pods)
                    hint = (
                        "a deleted pod comes back while requests or min-scale hold the revision up: stop them"
                        if self._delete
                        else "is min-scale above zero?"
                    )
                    raise NotColdError(f"{self._namespace}/{self._service} still has pods: {names}; {hint}")
                time.sleep(POLL_S)
        except ApiException as error:
            raise NotColdError(f"{self._namespace}/{self._service}: {error.status} {error.reason}") from None
        except (HTTPError, OSError) as error:
            raise NotColdError(f"the cluster cannot be reached: {error}") from None
        return f"no pod of {self._namespace}/{self._service} is left"


def force_cold(name: str, what: str, url: str) -> Knative:  # noqa: ARG001 - what every plug-in is given
    namespace, _, service = what.rpartition("/")
    if not service:
        raise UsageError(f"--cold {name}:NAMESPACE/SERVICE must name the service")
    try:
        import kubernetes
    except ImportError:
        raise UsageError(
            f"--cold {name} needs the kubernetes client; install it with `pip install 'preheat[knative]'`"
        ) from None
    from kubernetes.config.config_exception import ConfigException

    try:
        kubernetes.config.load_config()
    except (ConfigException, OSError) as error:
        raise UsageError(f"--cold knative: no cluster is configured here (KUBECONFIG): {error}") from None
    core = kubernetes.client.CoreV1Api()
    return Knative(namespace or "default", service, core, delete=name == "knative")
