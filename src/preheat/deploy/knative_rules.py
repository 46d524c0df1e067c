"""A Knative Service held against the rules of Knative's webhook, each with where it is written.

Paths of sources are those of knative/serving. ``tests/unit/deploy/test_knative_rules.py`` has a Service that
breaks each.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import knative_fields as fields
from .container_tables import Knative
from .knative_fields import Needed, Wrong

MASK = "pkg/apis/serving/fieldmask.go"
POD = "pkg/apis/serving/k8s_validation.go"
SCALE = "pkg/apis/autoscaling/annotation_validation.go"
META = "pkg/apis/serving/metadata_validation.go"
REVISION = "pkg/apis/serving/v1/revision_validation.go"
ROUTE = "pkg/apis/serving/v1/route_validation.go"
CRD = "config/core/300-resources/service.yaml"

AUTOSCALING = "autoscaling.knative.dev/"
_DURATIONS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
IMAGE = re.compile(
    r"((localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)(:\d+)?/|[A-Za-z0-9-]+:\d+/)?"
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""An image's reference (distribution's ``reference`` grammar)."""
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def check(service: Mapping[str, Any], limits: Knative) -> list[Wrong | Needed]:
    """Everything in a Service that is refused or dropped, or that needs a feature flag, in its order."""
    return list(_service(service, limits))


def is_label(name: str) -> bool:
    """Whether a name is a DNS label of RFC 1035, as Services, tags and revisions are."""
    return _DNS_1035.fullmatch(name) is not None


def seconds(text: str) -> float | None:
    """A duration as Go writes it (``1h2m3s``), in seconds; None for what is none."""
    if text == "0":
        return 0.0
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _DURATIONS[unit] for number, unit in parts)


def _service(service: Mapping[str, Any], limits: Knative) -> Iterator[Wrong | Needed]:
    if (service.get("apiVersion"), service.get("kind")) != ("serving.knative.dev/v1", "Service"):
        yield Wrong("kind", "must be a Service of serving.knative.dev/v1", CRD)
        return
    yield from _unknown(service, fields.SERVICE, "", CRD)
    meta = _object(service, "metadata")
    if not is_label(str(meta.get("name", ""))):
        yield Wrong("metadata.name", "must be lower-case letters, digits and '-', at most 63", POD)
    for key in _object(meta, "annotations"):
        if key.startswith(AUTOSCALING):
            yield Wrong(
                f"metadata.annotations.{key}", "belongs under spec.template.metadata.annotations", META
            )
    spec = _object(service, "spec")
    yield from _unknown(spec, fields.SPEC, "spec.", CRD)
    template = _object(spec, "template")
    where = "spec.template."
    yield from _unknown(template, frozenset({"metadata", "spec"}), where, CRD)
    scale = _object(_object(template, "metadata"), "annotations")
    yield from _scale(scale, f"{where}metadata.annotations.", limits)
    yield from _revision(_object(template, "spec"), f"{where}spec.", limits)
    if "traffic" in spec:
        yield from _traffic(_objects(spec, "traffic"))


def _scale(annotations: Mapping[str, str], where: str, limits: Knative) -> Iterator[Wrong]:
    def whole(name: str, least: int) -> int | None:
        text = annotations.get(AUTOSCALING + name)
        return None if text is None or not text.isdigit() or int(text) < least else int(text)

    for name, least, said in (
        ("min-scale", 0, "must be a whole number of at least 0"),
        ("max-scale", 0, "must be a whole number of at least 0"),
        ("activation-scale", 2, "must be at least 2"),
        ("initial-scale", 1, "must be at least 1: 0 is off by default (config-autoscaler)"),
    ):
        if AUTOSCALING + name in annotations and whole(name, least) is None:
            setting = "config-autoscaler allow-zero-initial-scale" if least == 1 else ""
            yield Wrong(where + AUTOSCALING + name, said, SCALE, setting)
    low, high = whole("min-scale", 0), whole("max-scale", 0)
    if low and high and high < low:
        yield Wrong(f"{where}{AUTOSCALING}max-scale", "is less than min-scale", SCALE)
    for name, least_s, whole_s in (
        ("window", limits.window_s[0], True),
        ("scale-down-delay", 0, True),
        ("scale-to-zero-pod-retention-period", 0, False),
    ):
        text = annotations.get(AUTOSCALING + name)
        if text is None:
            continue
        value = seconds(text)
        if value is None or not least_s <= value <= limits.window_s[1] or (whole_s and value % 1):
            said = f"must lie between {least_s}s and {limits.window_s[1]}s{', in seconds' if whole_s else ''}"
            yield Wrong(where + AUTOSCALING + name, said, SCALE)
    if annotations.get(f"{AUTOSCALING}metric", "concurrency") not in ("concurrency", "rps"):
        yield Wrong(f"{where}{AUTOSCALING}metric", "must be concurrency or rps", SCALE)
    for name, least_f, most_f in (
        ("target", 0.01, float("inf")),
        ("target-utilization-percentage", 1.0, 100.0),
    ):
        text = annotations.get(AUTOSCALING + name)
        if text is not None and not least_f <= _number(text) <= most_f:
            yield Wrong(where + AUTOSCALING + name, f"must be a number of at least {least_f:g}", SCALE)


def _revision(spec: Mapping[str, Any], where: str, limits: Knative) -> Iterator[Wrong | Needed]:
    yield from _masked(spec, fields.POD, fields.POD_FLAGS, where)
    longest = limits.timeout_s[1]
    if not 0 <= spec.get("timeoutSeconds", 0) <= longest:
        setting = "config-defaults max-revision-timeout-seconds"
        yield Wrong(f"{where}timeoutSeconds", f"must lie between 0 and {longest}", REVISION, setting)
    most = limits.concurrency[1]
    if not 0 <= spec.get("containerConcurrency", 0) <= most:
        setting = "config-defaults container-concurrency-max-limit"
        yield Wrong(f"{where}containerConcurrency", f"must lie between 0 and {most}", META, setting)
    if spec.get("automountServiceAccountToken"):
        yield Wrong(f"{where}automountServiceAccountToken", "may only be set to false", MASK)
    containers = _objects(spec, "containers")
    if not containers:
        yield Wrong(f"{where}containers", "is missing", POD)
    ports = [port for container in containers for port in _objects(container, "ports")]
    if len(ports) > 1:
        yield Wrong(f"{where}containers", "more than one container port is set", POD)
    volumes = {str(volume.get("name", "")): volume for volume in _objects(spec, "volumes")}
    for i, volume in enumerate(volumes.values()):
        yield from _volume(volume, f"{where}volumes[{i}].")
    mounted = {mount.get("name") for c in containers for mount in _objects(c, "volumeMounts")}
    for name in volumes:
        if name not in mounted:
            yield Wrong(f"{where}volumes", f"{name!r} is not mounted", POD)
    for i, container in enumerate(containers):
        serves = len(containers) == 1 or bool(_objects(container, "ports"))
        yield from _container(container, f"{where}containers[{i}].", volumes, limits, serves=serves)


def _volume(volume: Mapping[str, Any], where: str) -> Iterator[Wrong | Needed]:
    sources = {key: value for key, value in volume.items() if key != "name"}
    free = fields.VOLUMES | {k for k, f in fields.VOLUME_FLAGS.items() if f in fields.DEFAULTS}
    yield from _masked(sources, free, fields.VOLUME_FLAGS, where)
    if len(sources) != 1:
        yield Wrong(f"{where}name", "must have exactly one source", POD)
    claim = _object(volume, "persistentVolumeClaim")
    if claim and not claim.get("readOnly"):
        yield Needed(f"{where}persistentVolumeClaim.readOnly", fields.PVC_WRITE)
    if _object(volume, "emptyDir").get("medium", "") not in ("", "Memory"):
        yield Wrong(f"{where}emptyDir.medium", "must be empty or Memory", POD)


def _container(
    container: Mapping[str, Any],
    where: str,
    volumes: Mapping[str, Mapping[str, Any]],
    limits: Knative,
    *,
    serves: bool,
) -> Iterator[Wrong | Needed]:
    yield from _unknown(container, fields.CONTAINER, where, MASK)
    if not IMAGE.fullmatch(str(container.get("image", ""))):
        yield Wrong(f"{where}image", "is missing, or no reference of an image", POD)
    yield from _unknown(_object(container, "resources"), fields.RESOURCES, f"{where}resources.", MASK)
    if container.get("name") == "queue-proxy":
        yield Wrong(f"{where}name", "queue-proxy is Knative's own", POD)
    for i, port in enumerate(_objects(container, "ports")):
        yield from _port(port, f"{where}ports[{i}].", limits)
    for i, entry in enumerate(_objects(container, "env")):
        if entry.get("name") in fields.RESERVED_ENV:
            yield Wrong(f"{where}env[{i}].name", f"{entry['name']} is set by Knative", POD)
        for source in _object(entry, "valueFrom"):
            if source not in fields.ENV_SOURCES:
                yield Needed(f"{where}env[{i}].valueFrom.{source}", fields.FIELD_REF)
    yield from _mounts(_objects(container, "volumeMounts"), f"{where}volumeMounts", volumes)
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if name not in container:
            continue
        if not serves:
            yield Needed(f"{where}{name}", "multi-container-probing")
        ports = [str(port.get("name", "http")) for port in _objects(container, "ports")] or ["http"]
        ready = name == "readinessProbe"
        yield from _probe(
            _object(container, name), f"{where}{name}.", ports[0] if serves else None, ready=ready
        )
    yield from _security(_object(container, "securityContext"), f"{where}securityContext.")


def _port(port: Mapping[str, Any], where: str, limits: Knative) -> Iterator[Wrong]:
    yield from _unknown(port, fields.PORT, where, MASK)
    if port.get("containerPort") in limits.reserved_ports:
        yield Wrong(f"{where}containerPort", f"{port['containerPort']} is reserved by queue-proxy", POD)
    if port.get("name", "") not in ("", *fields.PORT_NAMES):
        yield Wrong(f"{where}name", f"must be one of {', '.join(fields.PORT_NAMES)}", POD)
    if port.get("protocol", "TCP") != "TCP":
        yield Wrong(f"{where}protocol", "must be TCP", POD)


def _mounts(
    mounts: Sequence[Mapping[str, Any]], where: str, volumes: Mapping[str, Mapping[str, Any]]
) -> Iterator[Wrong | Needed]:
    for i, mount in enumerate(mounts):
        yield from _masked(mount, fields.MOUNT, fields.MOUNT_FLAGS, f"{where}[{i}].")
        path = posixpath.normpath(str(mount.get("mountPath", "")))
        if not path.startswith("/") or path in fields.RESERVED_PATHS:
            yield Wrong(f"{where}[{i}].mountPath", f"{path} must be absolute and none of the system's", POD)
        volume = volumes.get(str(mount.get("name")))
        if volume is None:
            yield Wrong(f"{where}[{i}].name", "there is no volume of that name", POD)
        elif not mount.get("readOnly") and (
            not (fields.WRITABLE | fields.VOLUMES) & set(volume)  # the latter are made read-only for you
            or _object(volume, "persistentVolumeClaim").get("readOnly")
        ):
            yield Wrong(f"{where}[{i}].readOnly", "must be true for this type of volume", POD)


def _probe(probe: Mapping[str, Any], where: str, port: str | None, *, ready: bool) -> Iterator[Wrong]:
    """``port``: the name of the one that requests come to; None for a container beside it, whose probes have
    no port by default."""
    yield from _unknown(probe, fields.PROBE, where, MASK)
    handlers = [handler for handler in fields.HANDLERS if handler in probe]
    if len(handlers) > 1 or not (handlers or ready):  # readiness is asked by tcpSocket where nothing is said
        yield Wrong(where + "httpGet", f"must be exactly one of {', '.join(fields.HANDLERS)}", POD)
    for handler in handlers:
        named = _object(probe, handler).get("port")
        if port is not None and isinstance(named, str) and named not in ("", port):
            yield Wrong(f"{where}{handler}.port", "must be the container's port", POD)
        if port is None and handler in ("httpGet", "tcpSocket") and not named:
            yield Wrong(f"{where}{handler}.port", "must be given: requests come to another container", POD)
    if ready and not probe.get("periodSeconds"):
        # Without a period queue-proxy probes every 50 ms, and knows no other numbers.
        for name in ("failureThreshold", "timeoutSeconds"):
            if probe.get(name):
                yield Wrong(where + name, "is not allowed where periodSeconds is not set", POD)


def _security(context: Mapping[str, Any], where: str) -> Iterator[Wrong | Needed]:
    yield from _unknown(context, fields.SECURITY, where, MASK)
    if context.get("privileged"):
        yield Wrong(f"{where}privileged", "may only be false", MASK)
    if _object(context, "capabilities").get("add"):
        yield Needed(f"{where}capabilities.add", fields.ADDED_CAPABILITIES)


def _traffic(traffic: Sequence[Mapping[str, Any]]) -> Iterator[Wrong]:
    tags = [target["tag"] for target in traffic if target.get("tag")]
    for i, target in enumerate(traffic):
        where = f"spec.traffic[{i}]."
        yield from _unknown(target, fields.TRAFFIC, where, CRD)
        latest = target.get("latestRevision", not target.get("revisionName"))
        if bool(latest) == bool(target.get("revisionName")):
            yield Wrong(f"{where}revisionName", "name a revision, or say latestRevision: true", ROUTE)
        if target.get("tag") and (not is_label(target["tag"]) or tags.count(target["tag"]) > 1):
            yield Wrong(f"{where}tag", "must be a DNS label that no other target has", ROUTE)
        if not 0 <= target.get("percent", 0) <= 100:
            yield Wrong(f"{where}percent", "must lie between 0 and 100", ROUTE)
    total = sum(target.get("percent", 0) for target in traffic)
    if total != 100:
        yield Wrong("spec.traffic", f"the percentages sum to {total}, not 100", ROUTE)


def _masked(
    document: Mapping[str, Any], free: frozenset[str], flags: Mapping[str, str], where: str
) -> Iterator[Wrong | Needed]:
    for key in document:
        if key in free:
            continue
        if key in flags:
            yield Needed(where + key, flags[key])
        else:
            yield Wrong(where + key, "is no field that Knative takes", MASK)


def _unknown(document: Mapping[str, Any], known: frozenset[str], where: str, source: str) -> Iterator[Wrong]:
    for key in document:
        if key not in known:
            yield Wrong(where + key, "is no field that Knative takes", source)


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def _objects(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = document.get(key)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
