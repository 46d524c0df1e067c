"""Which fields of a pod Knative takes, which it takes only with a feature flag, and which never.

From ``pkg/apis/serving/fieldmask.go`` and ``pkg/apis/config/features.go`` of knative/serving, August 2026.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

POD = frozenset(
    {
        *("containers", "volumes", "serviceAccountName", "imagePullSecrets", "enableServiceLinks"),
        *("automountServiceAccountToken", "containerConcurrency", "timeoutSeconds"),
        *("responseStartTimeoutSeconds", "idleTimeoutSeconds"),
    }
)
"""PodSpecMask, and RevisionSpec's own."""

POD_FLAGS = {
    "affinity": "kubernetes.podspec-affinity",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostPID": "kubernetes.podspec-hostpid",
    "initContainers": "kubernetes.podspec-init-containers",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
}
"""PodSpecMask: dropped, or refused, without the flag in ``config-features``."""

CONTAINER = frozenset(
    {
        *("name", "args", "command", "env", "envFrom", "workingDir", "image", "imagePullPolicy", "ports"),
        *("livenessProbe", "readinessProbe", "startupProbe", "resources", "securityContext"),
        *("terminationMessagePath", "terminationMessagePolicy", "volumeMounts"),
    }
)
"""ContainerMask: no ``lifecycle``, ``stdin``, ``tty``, ``volumeDevices``."""

VOLUMES = frozenset({"secret", "configMap", "projected"})
VOLUME_FLAGS = {
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "csi": "kubernetes.podspec-volumes-csi",
    "ephemeral": "kubernetes.podspec-volumes-ephemeral",
    "image": "kubernetes.podspec-volumes-image",
    "emptyDir": "kubernetes.podspec-volumes-emptydir",
}
"""VolumeSourceMask."""
PVC_WRITE = "kubernetes.podspec-persistent-volume-write"
MOUNT = frozenset({"name", "readOnly", "mountPath", "subPath"})
MOUNT_FLAGS = {"mountPropagation": "kubernetes.podspec-volumes-mount-propagation"}
WRITABLE = frozenset({"emptyDir", "persistentVolumeClaim", "ephemeral"})
"""Volumes that may be mounted otherwise than read-only (validateVolumeMounts)."""

SECURITY = frozenset(
    {
        *("capabilities", "readOnlyRootFilesystem", "runAsUser", "runAsGroup", "runAsNonRoot"),
        *("allowPrivilegeEscalation", "seccompProfile", "privileged"),
    }
)
"""SecurityContextMask; ``privileged`` only as false."""
ADDED_CAPABILITIES = "kubernetes.containerspec-addcapabilities"

RESOURCES = frozenset({"limits", "requests"})
PROBE = frozenset(
    {
        *("httpGet", "tcpSocket", "exec", "grpc", "initialDelaySeconds", "timeoutSeconds", "periodSeconds"),
        *("successThreshold", "failureThreshold", "terminationGracePeriodSeconds"),
    }
)
HANDLERS = ("httpGet", "tcpSocket", "exec", "grpc")
PORT = frozenset({"containerPort", "name", "protocol"})
PORT_NAMES = ("http1", "h2c")
ENV_SOURCES = frozenset({"configMapKeyRef", "secretKeyRef"})
FIELD_REF = "kubernetes.podspec-fieldref"
RESERVED_ENV = frozenset({"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"})
RESERVED_PATHS = frozenset({"/", "/dev", "/dev/log"})

SERVICE = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
SPEC = frozenset({"template", "traffic"})
TRAFFIC = frozenset({"revisionName", "latestRevision", "percent", "tag"})
"""``config/core/300-resources/service.yaml``."""

DEFAULTS: dict[str, Literal["enabled", "disabled"]] = {
    VOLUME_FLAGS["emptyDir"]: "enabled",
    "multi-container": "enabled",
}
"""defaultFeaturesConfig, as far as it is not ``disabled``."""


class Wrong(NamedTuple):
    """What the webhook would refuse, or drop without a word."""

    path: str
    said: str
    source: str
    """Where Knative says so."""
    setting: str = ""
    """The ConfigMap and key that move this limit; empty where nothing does."""


class Needed(NamedTuple):
    """A field that is taken with a feature flag only."""

    path: str
    flag: str


def flag_on(flags: dict[str, str], flag: str) -> bool:
    """Whether a cluster's ``config-features`` lets a field through: only ``enabled`` passes every check."""
    return flags.get(flag, DEFAULTS.get(flag, "disabled")).lower() == "enabled"
