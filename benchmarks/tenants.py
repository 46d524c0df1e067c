"""Two tenants of one server: their keys, and the open loop of the quiet one."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from preheat.errors import UsageError

from . import load
from .serving import Counted, Warm

OTHER, QUIET = "other", "quiet"
DEADLINE_S = 2.0
QUIET_SHARE = 0.05
"""Load of the quiet tenant over capacity, which is that of joined runs: its own, which are not, take three or
four times as much of the server's time."""
PEAK_S = 8.0
AT_ONCE = 32
"""Connections of the closed loop that gives the peak."""


def halves() -> tuple[list[int], list[int]]:
    """The server's CPUs and its clients'. Raises UsageError where there are not two."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise UsageError("the benchmark needs two CPUs: one for the server and one for its clients")
    return cpus[: len(cpus) // 2], cpus[len(cpus) // 2 :]


def keys(folder: Path) -> Path:
    """A file for PREHEAT_API_KEYS: a tenant's key is its name."""
    digests = {name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in (OTHER, QUIET)}
    path = folder / "keys.json"
    path.write_text(json.dumps(digests))
    return path


def headers(tenant: str, deadline_s: float = DEADLINE_S) -> dict[str, str]:
    return {"x-api-key": tenant, "x-preheat-timeout": f"{deadline_s:g}"}


def closed(
    server: Counted | Warm, requests: Sequence[str], cpus: Sequence[int], seconds: float, connections: int
) -> load.Plan:
    """Each connection sends when it was answered."""
    begin = time.monotonic() + 0.5
    return load.Plan(server.port, requests, begin, begin + seconds, connections, cpus=cpus)


def peak(server: Counted | Warm, request: object, cpus: Sequence[int]) -> float:
    """Good answers a second to a closed loop."""
    body = [load.post("/predict", request, headers(OTHER))]
    return load.run(closed(server, body, cpus, PEAK_S, AT_ONCE))[0].goodput


def quiet(
    server: Counted | Warm, request: object, cpus: Sequence[int], seconds: float, peak: float, seed: int = 1
) -> load.Plan:
    """An open loop at QUIET_SHARE of the peak."""
    begin = time.monotonic() + 0.5
    body = [load.post("/predict", request, headers(QUIET))]
    rate = QUIET_SHARE * peak
    return load.Plan(server.port, body, begin, begin + seconds, 64, rate=rate, cpus=cpus, seed=seed)


def p99s(rounds: Sequence[load.Load]) -> list[float]:
    """The p99 of each round, in milliseconds."""
    return [one.percentile(99) for one in rounds]
