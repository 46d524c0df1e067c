"""The container that serves an artifact, as Knative, Cloud Run and KServe write it down."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import UsageError
from ..settings import Settings
from . import knative_fields
from .container_size import QUEUE, ContainerSize
from .facts import Facts
from .knative_rules import IMAGE, is_label

PORT = 8080
TMP = "/tmp"  # noqa: S108 - the container's own, an emptyDir
MODEL = "/mnt/models"
"""Where a volume with the artifact is mounted; KServe's own place for it."""
SAMPLE = "preheat-sample"
"""Annotation: the recorded request, which a deployment sends to a new revision."""
COLD_START_LIMIT = "preheat-cold-start-p99-ms"
"""Annotation: milliseconds above which a new revision's cold starts send it back."""
LARGEST_SAMPLE = 16 * 1024
SECRET_KEY = "url"  # noqa: S105 - the name of a key, not one
KEYS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Section = dict[str, Any]
TMP_MOUNT: Section = {"name": "tmp", "mountPath": TMP}


class Options(NamedTuple):
    """What a person asks for; where a size is None, it comes from the measurements."""

    image: str
    name: str = ""
    namespace: str = ""
    cpu: int = 1
    memory_mb: int | None = None
    concurrency: int | None = None
    timeout_s: int | None = None
    min_scale: int = 0
    max_scale: int = 10
    target: int | None = None
    """Requests at once in an instance that the autoscaler aims at, before its utilisation of 70 %."""
    initial_scale: int = 1
    scale_down_delay_s: int = 0
    retention_s: int = 0
    """Seconds for which the last instance is kept."""
    service_account: str = ""
    ledger: str = ""
    ledger_secret: str = ""
    """NAME or NAME/KEY."""
    store_secret: str = ""
    env: tuple[str, ...] = ()
    """NAME=VALUE, each."""
    gpu: int = 0
    node_selector: tuple[str, ...] = ()
    """LABEL=VALUE, each."""
    pvc: str = ""
    """CLAIM or CLAIM/PATH."""
    runtime_class: str = ""
    wait_ms: float = 100.0
    """How long a request may wait behind others in an instance."""
    tcp_probe: bool = False


class Unit(NamedTuple):
    """One service: what is known of its artifact, what was asked for, how large it is."""

    facts: Facts
    options: Options
    size: ContainerSize
    name: str


def sized(facts: Facts, options: Options, found: ContainerSize) -> Unit:
    """The service with the sizes that were reckoned, but for those that were asked for. Raises UsageError."""
    size = found._replace(
        memory_mib=options.memory_mb or found.memory_mib,
        concurrency=options.concurrency or found.concurrency,
        timeout_s=options.timeout_s or found.timeout_s,
    )
    return Unit(facts, options, size, service_name(facts, options))


def service_name(facts: Facts, options: Options) -> str:
    """A DNS label: the one asked for, or the model's name made into one. Raises UsageError for another."""
    name = options.name or re.sub("[^a-z0-9]+", "-", facts.manifest.name.lower()).strip("-")
    if not is_label(name):
        raise UsageError(
            f"{name!r} cannot name a service: at most 63 lower-case letters, digits and '-', a letter first; "
            "say --name"
        )
    return name


def check(options: Options) -> None:
    """Raises UsageError for what no platform knows such a value of."""
    if not IMAGE.fullmatch(options.image):
        raise UsageError(f"--image must name the image that holds Preheat, not {options.image!r}")
    for flag, value, least in (
        ("--cpu", options.cpu, 1),
        ("--memory", options.memory_mb, 1),
        ("--concurrency", options.concurrency, 1),
        ("--timeout", options.timeout_s, 1),
        ("--min-scale", options.min_scale, 0),
        ("--max-scale", options.max_scale, 0),
        ("--target", options.target, 1),
        ("--initial-scale", options.initial_scale, 1),
        ("--scale-down-delay", options.scale_down_delay_s, 0),
        ("--retention", options.retention_s, 0),
        ("--gpu", options.gpu, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{flag} must be at least {least}, not {value}")
    if options.max_scale and options.max_scale < options.min_scale:
        raise UsageError(f"--max-scale {options.max_scale} is less than --min-scale {options.min_scale}")
    if not options.wait_ms > 0:
        raise UsageError("--wait-ms must be more than 0")
    if options.ledger and options.ledger_secret:
        raise UsageError("--ledger and --ledger-secret exclude each other")
    if urllib.parse.urlsplit(options.ledger).password:
        raise UsageError("--ledger holds a password: put the URL into a secret, named by --ledger-secret")


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """``NAME=VALUE`` of an option that is repeatable. Raises UsageError for anything else."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{flag} takes NAME=VALUE, not {text!r}")
        found[name] = value
    return found


def environment(unit: Unit, secret_key: str) -> list[Section]:
    """The container's variables. ``secret_key``: which key of a secret holds the ledger's URL, unless said.

    Raises UsageError, and SettingsError for a ``PREHEAT_`` variable that no server would take.
    """
    facts, options, size = unit.facts, unit.options, unit.size
    found = {
        "PREHEAT_CACHE": f"{TMP}/preheat",
        "PREHEAT_THREADS": str(size.cpu),
        "PREHEAT_CONCURRENCY": str(size.cpu),
        # Before the platform does: its answer would be plain text, without an outcome.
        "PREHEAT_TIMEOUT": str(max(size.timeout_s - 1, 1)),
    }
    if size.concurrency > QUEUE + size.cpu:
        found["PREHEAT_QUEUE"] = str(size.concurrency)  # what is let in finds a place
    if options.pvc:
        found["PREHEAT_ARTIFACT"] = MODEL
    elif facts.stored:
        found["PREHEAT_ARTIFACT"] = facts.location
    if options.ledger:
        found["PREHEAT_LEDGER"] = options.ledger
    given = pairs(options.env, "--env")
    for name in given:
        if not KEYS.fullmatch(name) or name in knative_fields.RESERVED_ENV:
            raise UsageError(f"--env cannot set {name!r}: it is the platform's, or no variable's name")
    found |= given
    Settings.from_environ(found)
    if "PREHEAT_PORT" in found and found["PREHEAT_PORT"] != str(PORT):
        raise UsageError(f"--env cannot set PREHEAT_PORT: the platform names the port, and here it is {PORT}")
    listed: list[Section] = [{"name": name, "value": value} for name, value in found.items()]
    if options.ledger_secret:
        secret, _, key = options.ledger_secret.partition("/")
        reference = {"name": secret, "key": key or secret_key}
        listed.append({"name": "PREHEAT_LEDGER", "valueFrom": {"secretKeyRef": reference}})
    return listed


def container(unit: Unit, mounts: Sequence[Section] = (), **port: str) -> Section:
    """The container of a pod; ``mounts``: beside ``/tmp``, ``port``: what a platform wants to
    know of its port. Raises UsageError."""
    found: Section = {
        "image": unit.options.image,
        "ports": [{"name": "http1", "containerPort": PORT, **port}],
        "env": environment(unit, SECRET_KEY),
    }
    if unit.options.store_secret:
        found["envFrom"] = [{"secretRef": {"name": unit.options.store_secret}}]
    requests = amounts(unit)
    # No limit on CPU: it would slow the start down, and threads and turns are bounded by their settings.
    limits = {name: amount for name, amount in requests.items() if name != "cpu"}
    return {
        **found,
        "resources": {"requests": requests, "limits": limits},
        # Without periodSeconds queue-proxy asks every 50 ms; a startup or exec probe would turn off the
        # activator's own probing, and the first answer would come up to a second later.
        "readinessProbe": ready(),
        "livenessProbe": live(),
        "securityContext": restricted(),
        "volumeMounts": [TMP_MOUNT, *mounts],
    }


def amounts(unit: Unit) -> Section:
    """Its CPUs, memory and GPUs."""
    found = {"cpu": str(unit.size.cpu), "memory": memory(unit.size.memory_mib)}
    if unit.options.gpu:
        found["nvidia.com/gpu"] = str(unit.options.gpu)
    return found


def restricted() -> Section:
    """What the restricted Pod Security Standard asks of a container, and a root that cannot be written to."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def ready(**numbers: int) -> Section:
    return {"httpGet": {"path": "/v2/health/ready", "port": PORT}, **numbers}


def live() -> Section:
    """Liveness is answered from the first millisecond on, so a long start is not taken for a hang."""
    return {"httpGet": {"path": "/v2/health/live", "port": PORT}, "periodSeconds": 10, "timeoutSeconds": 5}


def memory(mib: int) -> str:
    return f"{mib}Mi"


def tmp_volume(size: ContainerSize, *, medium: str = "") -> Section:
    """The one folder that can be written to."""
    kind: Section = {"medium": medium} if medium else {}
    return {"name": "tmp", "emptyDir": {**kind, "sizeLimit": memory(size.tmp_mib)}}


def judged_by(unit: Unit) -> dict[str, str]:
    """What a deployment judges the new revision by."""
    limit = max(-(-int(2 * unit.size.init_ms) // 500) * 500, 1000)
    found = {COLD_START_LIMIT: str(limit)}
    sample = unit.facts.manifest.sample
    if sample and "request" in sample:
        text = json.dumps(sample["request"], separators=(",", ":"))
        if len(text) <= LARGEST_SAMPLE:
            found[SAMPLE] = text
    return found
