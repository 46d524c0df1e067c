"""A Knative Service rolled out: applied beside what serves, judged, given traffic in steps, or taken back.

The revision that serves is pinned first, so that a new one gets nothing until it is asked for. Whatever ends
a roll early, an error or Ctrl-C, gives the traffic back before it is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import DeploymentError, PreheatError
from .cluster import Cluster, Object, holds
from .revision_health import Health, Watch

TAG = "candidate"
POLL_S = 0.5
FAILED_S = 20.0
"""A revision that says it failed gets as long to think better of it: Kubernetes tries again by itself."""


class Plan(NamedTuple):
    steps: tuple[int, ...] = (10, 50, 100)
    """Percentages of the traffic, rising, the last one 100."""
    requests: int = 20
    """Sent to the new revision at each step, and before the first."""
    hold_s: float = 30.0
    """How long a step lasts at least."""
    from_zero: int = 0
    """Starts from no instance to wait for, before the first step."""
    timeout_s: float = 600.0
    """For a revision to get ready, and for each change of the traffic."""
    force: bool = False


class Result(NamedTuple):
    outcome: str
    """``deployed``, ``unchanged``, ``rolled back``, ``failed``."""
    revision: str
    previous: str
    """The revision that served before; empty where none did."""
    url: str
    steps: tuple[Health, ...]
    reason: str
    """Why it was not deployed."""


class Rollout:
    """One Service on its way. ``say`` gets a line for each thing that happens."""

    def __init__(
        self,
        cluster: Cluster,
        document: Object,
        plan: Plan,
        watch: Callable[[str], Watch],
        say: Callable[[str], None],
    ) -> None:
        self._cluster, self._document, self._plan = cluster, document, plan
        self._watch, self._say = watch, say
        self._name = str(document["metadata"]["name"])

    def run(self) -> Result:
        """The whole path. Raises DeploymentError where the cluster refuses or nothing gets ready."""
        before = self._cluster.service(self._name)
        old = serving(before)
        self._apply(_beside(old) if old else [{"latestRevision": True, "percent": 100, "tag": TAG}], before)
        try:
            new = self._created()
            if new == old:
                return self._finish("unchanged", new, old, ())
            self._say(f"revision {new}")
            self._ready(new)
            return self._judged(new, old)
        except BaseException as error:
            if old:
                self._give_back(old, error)
            raise

    def _judged(self, new: str, old: str) -> Result:
        target = self._routed(new, 0 if old else 100)
        watch = self._watch(str(target["url"]))
        seen: list[Health] = []
        for _ in range(self._plan.from_zero):
            self._empty(new)
            watch.cold_start()
        for percent in (0, *self._plan.steps) if old else (100,):
            if percent and old:
                self._apply(_split(old, new, percent), self._cluster.service(self._name))
                self._routed(new, percent)
            found = watch.step(percent, self._plan.requests, self._plan.hold_s if percent else 0.0)
            seen.append(found)
            self._say(told(found))
            if found.problem and old:
                self._back(old, found.problem)
                return Result("rolled back", new, old, self._url(), tuple(seen), found.problem)
            if found.problem:
                reason = f"{found.problem}; there is no earlier revision to go back to"
                return Result("failed", new, "", self._url(), tuple(seen), reason)
        return self._finish("deployed", new, old, seen)

    def _finish(self, outcome: str, new: str, old: str, seen: Sequence[Health]) -> Result:
        """All of the traffic to the newest revision, by that name, as a Service has it that nobody rolls."""
        self._apply([{"latestRevision": True, "percent": 100}], self._cluster.service(self._name))
        self._routed(new, 100)
        return Result(outcome, new, old, self._url(), tuple(seen), "")

    def _back(self, old: str, reason: str) -> None:
        self._say(f"back to {old}: {reason}")
        self._apply([{"revisionName": old, "percent": 100}], self._cluster.service(self._name))
        self._routed(old, 100)

    def _give_back(self, old: str, error: BaseException) -> None:
        """After an error, which stays the one that is told."""
        try:
            self._back(old, str(error) or type(error).__name__)
        except PreheatError as another:
            self._say(f"the traffic stays where it is: {another}")

    def _apply(self, traffic: list[Object], before: Object | None) -> None:
        spec = {**self._document["spec"], "traffic": traffic}
        self._cluster.apply({**self._document, "spec": spec}, before, force=self._plan.force)

    def _url(self) -> str:
        return str(_status(self._cluster.service(self._name)).get("url", ""))

    # What is waited for

    def _created(self) -> str:
        """The revision of what was applied last. The Service's own status may still name the one before when
        its generation was taken up: its Configuration, once it has the same template, does not."""

        def look() -> str | None:
            found, made = self._cluster.service(self._name), self._cluster.configuration(self._name)
            if found is None or made is None or not _observed(made):
                return None
            if not holds(made["spec"]["template"], found["spec"]["template"]):
                return None
            return _status(made).get("latestCreatedRevisionName") or None

        return str(self._wait(f"the Service {self._name} to be taken up by Knative", look, self._why))

    def _ready(self, revision: str) -> None:
        failing = 0.0

        def look() -> bool | None:
            nonlocal failing
            ready = condition(self._cluster.revision(revision), "Ready")
            if ready.get("status") != "False":
                failing = 0.0
            elif not failing:
                failing = time.monotonic()
            elif time.monotonic() - failing > min(FAILED_S, self._plan.timeout_s / 2):
                raise DeploymentError(
                    f"revision {revision} does not get ready: {_told(ready)}", code="not_ready"
                )
            return True if ready.get("status") == "True" else None

        self._wait(
            f"revision {revision} to get ready",
            look,
            lambda: _told(condition(self._cluster.revision(revision), "Ready")),
        )

    def _empty(self, revision: str) -> None:
        """Wait until it has no instance left."""

        def look() -> bool | None:
            active = condition(self._cluster.revision(revision), "Active")
            return True if active.get("status") == "False" else None

        self._wait(f"revision {revision} to scale to zero", look, lambda: "idle ones are kept for a while")

    def _routed(self, revision: str, percent: int) -> Object:
        """The revision's entry in the traffic, once it has as much of it, and its tag has a URL."""

        def look() -> Object | None:
            found = self._cluster.service(self._name)
            if not _observed(found) or condition(found, "RoutesReady").get("status") != "True":
                return None
            entries = [t for t in _status(found).get("traffic", []) if t.get("revisionName") == revision]
            if sum(int(t.get("percent") or 0) for t in entries) != percent:
                return None
            return next((t for t in entries if t.get("tag") == TAG), entries[0] if entries else None)

        found: Object = self._wait(f"{percent} % of the traffic to reach {revision}", look, self._why)
        return found

    def _why(self) -> str:
        return _told(condition(self._cluster.service(self._name), "Ready"))

    def _wait(self, what: str, look: Callable[[], Any], why: Callable[[], str]) -> Any:
        """What ``look`` gives when it is not None; says why it waits whenever that changes."""
        deadline = time.monotonic() + self._plan.timeout_s
        said = ""
        while True:
            found = look()
            if found is not None:
                return found
            reason = why()
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"waited {self._plan.timeout_s:g} s for {what}: {reason}", code="not_ready"
                )
            if reason != said:
                self._say(f"waiting for {what}: {reason}")
                said = reason
            time.sleep(POLL_S)


def serving(service: Object | None) -> str:
    """The revision that has most of the traffic; empty where none has any."""
    traffic = [t for t in _status(service).get("traffic", []) if t.get("percent")]
    most: Mapping[str, Any] = max(traffic, key=lambda t: int(t["percent"]), default={})
    return str(most.get("revisionName", ""))


def condition(found: Object | None, kind: str) -> Mapping[str, Any]:
    """A condition of an object; empty where it has none of that kind."""
    conditions = _status(found).get("conditions") or []
    return next((c for c in conditions if c.get("type") == kind), {})


def told(found: Health) -> str:
    """A step in one line."""
    cold = "no cold start seen" if found.cold_p99_ms is None else f"cold start p99 {found.cold_p99_ms:.0f} ms"
    counted = f", {found.counted_failed} of {found.counted} counted" if found.counted else ""
    instances = "1 instance" if found.instances == 1 else f"{found.instances} instances"
    return (
        f"{found.percent:3d} %: {found.failed} of {found.sent} requests failed{counted}; {cold} ({instances})"
    )


def _beside(old: str) -> list[Object]:
    return [
        {"revisionName": old, "percent": 100},
        {"latestRevision": True, "percent": 0, "tag": TAG},
    ]


def _split(old: str, new: str, percent: int) -> list[Object]:
    candidate = {"revisionName": new, "percent": percent, "tag": TAG}
    return [{"revisionName": old, "percent": 100 - percent}, candidate] if percent < 100 else [candidate]


def _status(found: Object | None) -> dict[str, Any]:
    status = (found or {}).get("status")
    return status if isinstance(status, dict) else {}


def _observed(found: Object | None) -> bool:
    """Whether Knative has taken up what was written last."""
    if found is None:
        return False
    return int(_status(found).get("observedGeneration", 0)) >= int(found["metadata"].get("generation", 0))


def _told(ready: Mapping[str, Any]) -> str:
    parts = [str(ready[key]) for key in ("reason", "message") if ready.get(key)]
    return ": ".join(parts) or "no reason given yet"
