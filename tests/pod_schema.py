"""The published schema of a Kubernetes pod, for what Knative, Cloud Run and KServe put around one."""

from __future__ import annotations

from typing import Any

import kubernetes_validate

RELEASE = "1.37.0"
KNATIVE_OWN = ("containerConcurrency", "timeoutSeconds")
"""What stands beside a pod's own fields."""


def held_against_the_schema(metadata: Any, spec: Any) -> None:
    """As the pod that it becomes; Knative names its container, and takes its own fields out. Raises
    ``kubernetes_validate.ValidationError``."""
    plain = {key: value for key, value in spec.items() if key not in KNATIVE_OWN}
    plain["containers"] = [{"name": "user-container", **c} for c in plain["containers"]]
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": plain}
    kubernetes_validate.validate(document, RELEASE, strict=True)
