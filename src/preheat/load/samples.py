"""One request as it was seen: labelled by what the server says of itself, never by how long it took."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

UNKNOWN = "unknown"
STARTS = ("cold", "restored", "warm", UNKNOWN)
"""What ``x-preheat-start`` says, and what a server is that says nothing."""
OUTSIDE = "outside the server"
LATE = "generator late"
GOOD = "ok"
TELL = (
    "a Preheat server says x-preheat-start; another one can be given that header, by a flag in the process "
    "that its first request clears",
    "AWS Lambda writes Init Duration (Restore Duration under SnapStart) into the REPORT line of a cold "
    "invocation's log",
    "Knative and Cloud Run count instances (autoscaler and container metrics): a start is where it rises",
    "force it: --cold makes the target cold before each repetition of a step that says cold = true",
)
"""The ways to tell cold from warm where the server does not say it."""
_TIMING = re.compile(r"^\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(.*)$", re.S)
_DURATION = re.compile(r";\s*dur\s*=\s*\"?([0-9.]+)")
_OWN = frozenset({"wait", "run"})
"""Of ``Server-Timing``: what the server did with this request. The rest is the start that it met."""


class Sample(NamedTuple):
    """Times in milliseconds on the sending process's clock; ``server_ms`` and ``phases`` on the server's own.
    Neither clock is ever subtracted from the other; only durations are."""

    number: int
    step: str
    asked: str
    """The state that the scenario asked for: any, cold or warm."""
    closed: bool
    """Sent by a closed loop, whose latencies leave out the wait of those who would have come meanwhile."""
    at_s: float
    """Intended moment, from the run's beginning."""
    attempt: int
    final: bool
    worker: str
    lag_ms: float
    """From the intended moment to sending: the generator's own lateness, or a retry's wait."""
    client_ms: float
    """From the intended moment to the last byte: what the client felt."""
    head_ms: float | None
    """From sending to the head of the answer."""
    status: int
    outcome: str
    start: str
    instance: str
    server_ms: float | None
    """From arrival at the server to its answer, by its own clock."""
    gateway_ms: float | None
    """What a gateway says that it waited for the server."""
    phases: Mapping[str, float]
    """Of the start that a cold request met, and wait and run; durations by the server's clock."""
    key: str
    replayed: bool
    digest: str
    """Of the answer's body."""
    error: str

    @property
    def good(self) -> bool:
        return self.outcome == GOOD

    @property
    def as_asked(self) -> bool:
        """A restore counts as cold: an instance was started."""
        if self.asked == "any":
            return True
        return self.start in (("cold", "restored") if self.asked == "cold" else ("warm",))

    @property
    def outside_ms(self) -> float | None:
        """What the server did not see: network, gateways, a start before the request reached the server."""
        if self.server_ms is None:
            return None
        return max(self.client_ms - self.lag_ms - self.server_ms, 0.0)


def sample(
    raw: Mapping[str, Any], step: str, asked: str, closed: bool, began_s: float, worker: str
) -> Sample:
    """From what the sending process tells; ``began_s``: when its segment began, in seconds of the run."""
    headers: Mapping[str, str] = raw["headers"]
    at, sent, end = raw["at"], raw["sent"], raw["end"]
    phases = timings(headers.get("server-timing", ""))
    own = [took for name, took in phases.items() if name in _OWN]
    start = headers.get("x-preheat-start", "")
    return Sample(
        number=raw["number"],
        step=step,
        asked=asked,
        closed=closed,
        at_s=round(began_s + at, 6),
        attempt=raw["attempt"],
        final=raw["final"],
        worker=worker,
        lag_ms=round((sent - at) * 1e3, 3),
        client_ms=round((end - at) * 1e3, 3),
        head_ms=round((raw["head"] - sent) * 1e3, 3) if "head" in raw else None,
        status=raw["status"],
        outcome=_outcome(raw),
        start=start if start in STARTS else UNKNOWN,
        instance=headers.get("x-preheat-instance", ""),
        server_ms=round(sum(own), 3) if own else None,
        gateway_ms=_number(headers.get("x-envoy-upstream-service-time", "")),
        phases=phases,
        key=raw["key"],
        replayed=headers.get("x-preheat-replayed", "") == "true",
        digest=raw.get("digest", ""),
        error=_told(raw),
    )


def timings(header: str) -> dict[str, float]:
    """Milliseconds by name of a ``Server-Timing`` header (W3C); one name twice is their sum. ``total`` is
    left out: it is the sum of the others and of what they leave over."""
    found: dict[str, float] = {}
    for part in header.split(","):
        name, duration = _TIMING.match(part), _DURATION.search(part)
        if name and duration and name[1] != "total" and (took := _number(duration[1])) is not None:
            found[name[1]] = round(found.get(name[1], 0.0) + took, 3)
    return found


def _outcome(raw: Mapping[str, Any]) -> str:
    """Its class: what the server says, what a status says, or how it failed on this side."""
    if raw["error"]:
        return str(raw["error"])
    status, headers = raw["status"], raw["headers"]
    if "x-preheat-outcome" in headers:
        return str(headers["x-preheat-outcome"])
    if 300 <= status < 400:
        return "redirected"
    if "text/html" in headers.get("content-type", "") and status < 400:
        return "html"
    known = {429: "throttled", 503: "unavailable", 504: "timed_out", 409: "in_progress"}
    if status in known:
        return known[status]
    return GOOD if status < 300 else "rejected" if status < 500 else "failed"


def _told(raw: Mapping[str, Any]) -> str:
    if raw["detail"]:
        return str(raw["detail"])
    return f"to {raw['headers'].get('location', '')[:200]}" if 300 <= raw["status"] < 400 else ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
