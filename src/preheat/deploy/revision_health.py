"""What a new revision does to requests: asked at its tag's own URL, and read from what it counts.

Three sources, no agent in the cluster: the answers to requests sent here (status, ``x-preheat-start``,
``x-preheat-instance``); ``GET /coldstart`` of the instance that answers, which is its own start; and
``preheat_requests_total`` of ``GET /metrics``, which counts everybody's requests. A tag's URL leads to any
instance, so instances that no request met are not in it.
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import urllib3

from ..errors import DeploymentError
from ..measure.summary import rank

FAILED = frozenset({"failed", "unavailable", "timed_out", "shed"})
"""Outcomes (``x-preheat-outcome``) that are the server's fault."""
_COUNTED = re.compile(r"preheat_requests_total\{([^}]*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_QUIET = ("/v2/health", "/metrics", "/coldstart")
MOST_SCRAPES = 20


class Probe(NamedTuple):
    """The request that is sent: the recorded one, or one that only waits for the model."""

    method: str
    path: str
    body: bytes


WAITING = Probe("GET", "/coldstart", b"")


def recorded(sample: str) -> Probe:
    """A request in the task's natural JSON."""
    return Probe("POST", "/predict", sample.encode())


class Limits(NamedTuple):
    error_rate: float
    cold_ms: float | None
    """None: cold starts are not judged."""


class Health(NamedTuple):
    """What was seen at one step."""

    percent: int
    sent: int
    failed: int
    counted: int
    """Everybody's requests, by the instances' own counters."""
    counted_failed: int
    instances: int
    cold_starts: int
    cold_p99_ms: float | None
    """Nearest rank over all instances so far: the longer of an instance's own start and of what a request
    that met it waited; None where none was seen."""
    problem: str
    """Why the revision is sent back; empty where it is not."""

    @property
    def error_rate(self) -> float:
        return max(_share(self.failed, self.sent), _share(self.counted_failed, self.counted))


class Watch:
    """The requests to one revision. ``ingress``: where to connect to, if not where the URL's name leads."""

    def __init__(
        self,
        url: str,
        probe: Probe,
        limits: Limits,
        *,
        ingress: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base = (ingress or url).rstrip("/")
        self._probe, self._limits, self._sleep = probe, limits, sleep
        self._headers = dict(headers or {})
        if ingress:
            self._headers["host"] = urllib.parse.urlsplit(url).netloc
        self._pool = urllib3.PoolManager(timeout=timeout_s, retries=False)
        self._starts: dict[str, float] = {}
        self._cold: set[str] = set()
        self._before: dict[str, tuple[int, int]] = {}

    def step(self, percent: int, requests: int, hold_s: float) -> Health:
        """Send requests over a time, and judge. Raises DeploymentError where the request is refused."""
        before = self._scrape()
        failed = sent = 0
        allowed = self._limits.error_rate * requests
        for i in range(requests):
            if i:
                self._sleep(hold_s / requests)
            sent += 1
            failed += not self._ask()
            if failed > allowed:
                break  # it will not get better
        after = self._scrape()
        self._before |= before
        counted = [_since(after[name], self._before.get(name, (0, 0))) for name in after]
        self._before |= after
        p99 = percentile(list(self._starts.values()), 0.99)
        found = Health(
            percent=percent,
            sent=sent,
            failed=failed,
            counted=sum(total for total, _ in counted),
            counted_failed=sum(bad for _, bad in counted),
            instances=len(self._starts),
            cold_starts=len(self._cold),
            cold_p99_ms=p99,
            problem="",
        )
        return found._replace(problem=self._problem(found))

    def cold_start(self) -> None:
        """One request, which meets no instance if the revision has none."""
        self._ask()

    def _problem(self, found: Health) -> str:
        limit = self._limits.cold_ms
        if found.error_rate > self._limits.error_rate:
            return (
                f"{found.error_rate:.1%} of requests failed, {self._limits.error_rate:.1%} may: "
                f"{found.failed} of {found.sent} sent, {found.counted_failed} of {found.counted} counted"
            )
        if limit is not None and found.cold_p99_ms is not None and found.cold_p99_ms > limit:
            return f"cold starts take {found.cold_p99_ms:.0f} ms at p99, {limit:.0f} ms may be taken"
        return ""

    def _ask(self) -> bool:
        """Send the request; whether it was answered well."""
        began = time.perf_counter()
        try:
            answer = self._request(self._probe)
        except urllib3.exceptions.HTTPError:
            return False
        took = (time.perf_counter() - began) * 1e3
        if 400 <= answer.status < 500 and answer.status not in (409, 429):
            raise DeploymentError(
                f"the new revision answers {answer.status} to the request it is judged by: "
                f"{answer.data[:200].decode(errors='replace')}; name another by --request, or credentials by "
                "--header",
                code="request",
            )
        instance = answer.headers.get("x-preheat-instance", "")
        if answer.status == 200 and instance:
            if answer.headers.get("x-preheat-start", "warm") != "warm":
                self._cold.add(instance)
                self._starts[instance] = max(took, self._starts.get(instance, 0.0))
            self._own_start()
        return answer.status == 200

    def _own_start(self) -> None:
        """The start of the instance that answers, as it measured itself."""
        try:
            answer = self._request(WAITING)
            report = json.loads(answer.data)
            instance, total = str(report["instance"]), float(report["total_ms"])
        except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
            return
        if math.isfinite(total):
            self._starts[instance] = max(total, self._starts.get(instance, 0.0))

    def _scrape(self) -> dict[str, tuple[int, int]]:
        """Requests and failures by instance, for as many as answer before three in a row are known."""
        found: dict[str, tuple[int, int]] = {}
        known = 0
        for _ in range(MOST_SCRAPES):
            try:
                answer = self._request(Probe("GET", "/metrics", b""))
            except urllib3.exceptions.HTTPError:
                break
            instance = answer.headers.get("x-preheat-instance", "")
            if answer.status != 200 or not instance:
                break  # prometheus_client is not installed there
            known = known + 1 if instance in found else 0
            found[instance] = counted(answer.data.decode(errors="replace"))
            if known == 3:
                break
        return found

    def _request(self, probe: Probe) -> urllib3.BaseHTTPResponse:
        kind = {"content-type": "application/json"} if probe.body else {}
        return self._pool.request(
            probe.method,
            self._base + probe.path,
            body=probe.body or None,
            headers={**kind, **self._headers},
            redirect=False,
        )


def counted(exposition: str) -> tuple[int, int]:
    """Requests and failures in an instance's metrics, without those of probes and scrapes."""
    total = failed = 0
    for labels, value in _COUNTED.findall(exposition):
        named = dict(_LABEL.findall(labels))
        if named.get("route", "").startswith(_QUIET):
            continue
        number = int(float(value))
        total += number
        failed += number if named.get("outcome") in FAILED else 0
    return total, failed


def percentile(values: list[float], share: float) -> float | None:
    """By nearest rank; None of nothing."""
    if not values:
        return None
    return sorted(values)[rank(len(values), share) - 1]


def _since(now: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
