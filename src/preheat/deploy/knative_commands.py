"""`preheat deploy knative`, as the command line calls it."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import DeploymentError, UsageError
from ..measure.client import named
from . import container_tables, knative_rules
from .container_spec import COLD_START_LIMIT, SAMPLE
from .knative_fields import Needed, Wrong, flag_on


class Where(NamedTuple):
    """Which cluster, and how its revisions are reached."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str = ""
    ingress: str = ""
    headers: tuple[str, ...] = ()
    request_timeout_s: float = 30.0


class Judge(NamedTuple):
    """What a new revision is held against; None: what the file says."""

    request: str | None = None
    """A file with a request."""
    max_error_rate: float = 0.01
    max_cold_start_ms: float | None = None


def deploy(
    path: str,
    where: Where,
    judge: Judge,
    *,
    steps: Sequence[int],
    requests: int,
    hold_s: float,
    from_zero: int,
    timeout_s: float,
    force: bool,
    dry_run: str | None,
    as_json: bool,
) -> int:
    """Deploy a file; gives the exit status: 0 it serves, 1 it was rolled back.

    Raises UsageError for a file or an option that is wrong, DeploymentError where the cluster says no.
    """
    try:
        from .cluster import Cluster
        from .revision_health import WAITING, Limits, Watch, recorded
        from .rollout import Plan, Rollout
    except ImportError as missing:
        raise UsageError(
            f"deploying needs the package {missing.name}: pip install 'preheat[knative]'", code="unsupported"
        ) from missing

    check_steps(steps)
    _check(requests, hold_s, from_zero, timeout_s, judge, dry_run)
    document = read(path)
    needed = _held_against_the_rules(path, document)
    notes = document["metadata"].get("annotations") or {}
    template = (document["spec"]["template"].get("metadata") or {}).get("annotations") or {}
    if from_zero and template.get(f"{knative_rules.AUTOSCALING}min-scale", "0") != "0":
        raise UsageError("--from-zero waits for ever where min-scale is not 0")
    sample = _sample(judge.request, notes)
    limit = judge.max_cold_start_ms
    if limit is None and COLD_START_LIMIT in notes:
        limit = _milliseconds(str(notes[COLD_START_LIMIT]))
    headers = named(where.headers)
    cluster = Cluster(
        kubeconfig=where.kubeconfig,
        context=where.context,
        namespace=where.namespace or str(document["metadata"].get("namespace", "")),
        timeout_s=where.request_timeout_s,
    )
    document["metadata"]["namespace"] = cluster.namespace
    if needed:
        _flags(cluster.features(), needed)
    name = document["metadata"]["name"]
    if dry_run is not None:
        cluster.apply(document, cluster.service(name), force=force, dry_run=True)
        _print({"outcome": "accepted", "service": name, "namespace": cluster.namespace}, as_json=as_json)
        return 0
    if sample is None:
        _say("no request is recorded: only starts are judged; --request FILE names one")
    if limit is None:
        _say("no limit for cold starts: they are shown and not judged; --max-cold-start-ms sets one")
    limits = Limits(judge.max_error_rate, limit)
    probe = WAITING if sample is None else recorded(sample)
    plan = Plan(tuple(steps), requests, hold_s, from_zero, timeout_s, force)

    def watch(url: str) -> Watch:
        return Watch(url, probe, limits, ingress=where.ingress, headers=headers)

    result = Rollout(cluster, document, plan, watch, _say).run()
    found = {
        **result._asdict(),
        "service": name,
        "namespace": cluster.namespace,
        "steps": [{**step._asdict(), "error_rate": step.error_rate} for step in result.steps],
    }
    _print(found, as_json=as_json)
    return int(result.outcome in ("rolled back", "failed"))


def read(path: str) -> dict[str, Any]:
    """The one Service of a file. Raises UsageError for anything else."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if document is not None]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise UsageError(f"{path} must hold one Knative Service; `preheat render knative` writes one")
    document: dict[str, Any] = documents[0]
    for part in (("metadata",), ("spec",), ("spec", "template"), ("spec", "template", "spec")):
        inner: Any = document
        for key in part:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise UsageError(f"{path} has no {'.'.join(part)}: it is no Knative Service")
    if "traffic" in document["spec"]:
        raise UsageError(f"{path} sets spec.traffic, which a deployment writes itself: take it out")
    return document


def check_steps(steps: Sequence[int]) -> None:
    """Raises UsageError for anything but rising percentages that end with 100."""
    rising = all(a < b for a, b in itertools.pairwise(steps))
    if not steps or steps[-1] != 100 or steps[0] < 1 or not rising:
        raise UsageError("--steps takes rising percentages that end with 100, such as 10,50,100")


def _check(
    requests: int, hold_s: float, from_zero: int, timeout_s: float, judge: Judge, dry_run: str | None
) -> None:
    if requests < 1 or from_zero < 0:
        raise UsageError("--requests must be at least 1, and --from-zero not negative")
    if not (0 <= hold_s < 1e6 and 0 < timeout_s < 1e6):
        raise UsageError("--hold and --timeout are seconds, and not negative")
    if not 0 <= judge.max_error_rate <= 1:
        raise UsageError("--max-error-rate is a share between 0 and 1, such as 0.01")
    if judge.max_cold_start_ms is not None and not judge.max_cold_start_ms > 0:
        raise UsageError("--max-cold-start-ms must be more than 0")
    if dry_run not in (None, "server"):
        raise UsageError("--dry-run takes server: the cluster looks at it and keeps nothing")


def _held_against_the_rules(path: str, document: dict[str, Any]) -> list[Needed]:
    """The flags that are needed. Raises UsageError for what no cluster takes; limits that a cluster may have
    moved are left to its webhook."""
    found = knative_rules.check(document, container_tables.load().knative)
    wrong = [item for item in found if isinstance(item, Wrong) and not item.setting]
    if wrong:
        listed = "; ".join(f"{item.path} {item.said} ({item.source})" for item in wrong)
        raise UsageError(f"{path}: Knative would refuse or drop {listed}")
    return [item for item in found if isinstance(item, Needed)]


def _flags(features: dict[str, str] | None, needed: Sequence[Needed]) -> None:
    if features is None:
        _say("config-features cannot be read: whether its flags allow these fields is for the webhook to say")
        return
    missing = {item.flag: item.path for item in needed if not flag_on(features, item.flag)}
    if missing:
        listed = ", ".join(f"{flag} (for {path})" for flag, path in missing.items())
        raise DeploymentError(
            f"the cluster does not have {listed}: set each to enabled in the ConfigMap config-features of "
            "knative-serving, or leave the field out",
            code="feature_flag",
        )


def _sample(path: str | None, notes: Mapping[str, Any]) -> str | None:
    if path is None:
        found = notes.get(SAMPLE)
        return None if found is None else str(found)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        json.loads(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not JSON: the request is what POST /predict takes") from None
    return text


def _milliseconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"the annotation {COLD_START_LIMIT} must be milliseconds, not {text!r}")
    return value


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _print(document: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    name = f"{document['service']} in {document['namespace']}"
    if document["outcome"] == "accepted":
        sys.stdout.write(f"{name}: the cluster accepts it; nothing was changed\n")
    elif document["reason"]:
        sys.stdout.write(f"{name}: {document['outcome']}, {document['reason']}\n")
    else:
        sys.stdout.write(f"{name}: {document['outcome']}, {document['revision']} at {document['url']}\n")
