"""One soak: a gateway, its load, its kills, and what is asked of it at the end."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from preheat.local.records import started

from ..conftest import ROOT, gone
from ..functional.local.conftest import Up
from .load import FUNCTIONS, OWN_TIME_S, TENANTS, Load, ranks
from .watch import Watch, held_at_zero, trend

GROWTH_PERCENT = 10.0
GROWTH_MIB = 16.0
"""Both have to be exceeded by a process's resident memory to be a leak."""
JUDGED_S = 900.0
"""A shorter run says nothing of memory: large bodies in flight take the gateway up and down by 100 MiB."""
CLIENTS = 8
KEPT_WRONG = 50


class Soak(NamedTuple):
    seconds: float
    start: str = "fork"
    seed: int = 1
    kill_every_s: float = 3.0
    pause_s: float = 0.08


def soak(asked: Soak, folder: Path) -> dict[str, Any]:
    """The report of a run, all of it JSON; what must not be is in ``wrong``. Raises AssertionError where the
    gateway never answered."""
    keys = folder / "keys.json"
    digests = {name: "sha256:" + hashlib.sha256(key.encode()).hexdigest() for name, key in TENANTS.items()}
    keys.write_text(json.dumps(digests))
    targets = [str(ROOT / "functions" / name / "app.py") for name in FUNCTIONS]
    scaled = ("--start", asked.start, "--max", "3", "--concurrency", "4", "--stable-window", "6")
    gateway = Up(
        folder,
        *(*targets, *scaled),
        PREHEAT_API_KEYS=str(keys),
        PREHEAT_TIMEOUT=f"{OWN_TIME_S:g}",
        PREHEAT_LEASE="2",
    )
    try:
        return _soak(asked, gateway)
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(30)


def _soak(asked: Soak, gateway: Up) -> dict[str, Any]:
    load = Load(gateway, clients=CLIENTS, pause_s=asked.pause_s, seed=asked.seed)
    watch = Watch(gateway, kill_every_s=asked.kill_every_s, seed=asked.seed)
    wrong: list[str] = []
    answered(gateway)  # what is made once is there from here on
    before = held_at_zero(gateway, FUNCTIONS)
    began = time.monotonic()
    load.start()
    watch.start()
    time.sleep(asked.seconds)
    load.stop()
    watch.stop()
    seconds = time.monotonic() - began
    answered(gateway)
    replayed = load.replay(CLIENTS)
    after = held_at_zero(gateway, FUNCTIONS, before)
    for name, then, now in zip(before._fields, before, after, strict=True):
        if now > then:
            wrong.append(f"leak: {name}: {then} before, {now} after")
    memory = {what: trend(watch.samples, what) for what in ("gateway_mib", "largest_mib")}
    for what, found in memory.items():
        if seconds < JUDGED_S:
            continue
        if found["growth_percent"] > GROWTH_PERCENT and found["late"] - found["early"] > GROWTH_MIB:
            wrong.append(f"leak: {what}: {found['early']} MiB early, {found['late']} MiB late")
    counted = {name: one["outcomes"] for name, one in gateway.status()["functions"].items()}
    wrong += _ended(gateway, watch)
    wrong += load.wrong + watch.wrong
    return {
        "seconds": round(seconds, 1),
        "start": asked.start,
        "seed": asked.seed,
        "cpus": len(os.sched_getaffinity(0)),
        "requests": sum(sum(found.values()) for found in load.statuses.values()),
        "statuses": {kind: dict(sorted(found.items())) for kind, found in sorted(load.statuses.items())},
        "latencies": {kind: ranks(found) for kind, found in sorted(load.latencies.items())},
        "outcomes": counted,
        "kills": dict(sorted(watch.kills.items())),
        "kept": len(load.kept),
        "replayed": replayed,
        "processes": len(watch.pids),
        "held": {"before": before._asdict(), "after": after._asdict()},
        "memory": memory,
        "wrong": wrong[:KEPT_WRONG],
        "wrong_in_all": len(wrong),
        "samples": [list(sample) for sample in watch.samples[:: max(len(watch.samples) // 300, 1)]],
    }


def answered(gateway: Up, timeout_s: float = 60.0) -> None:
    """Wait until each function answers. Raises AssertionError."""
    until = time.monotonic() + timeout_s
    for name in FUNCTIONS:
        headers = {"x-api-key": TENANTS["acme"]}
        path = f"/{name}/v2/models/{name}"
        while (answer := gateway.request("GET", path, None, headers)).status != 200:
            assert time.monotonic() < until, f"{name} does not answer: {answer.status} {answer.body[:300]!r}"
            time.sleep(0.2)


def _ended(gateway: Up, watch: Watch) -> list[str]:
    """End the gateway; what is wrong with how it ended, and what it left."""
    wrong = []
    status = gateway.end()
    if status != 0:
        wrong.append(f"the gateway exited with {status}")
    if "Traceback" in gateway.log.read_text(errors="replace"):
        wrong.append("a traceback is in the gateway's log")
    if not gone([pid for pid, then in watch.pids.items() if then and started(pid) == then]):
        wrong.append("leak: processes that it had started are still there")
    files = sorted(path for path in watch.mapped if os.path.exists(path))
    if files:
        wrong.append(f"leak: shared memory: {', '.join(files[:5])}")
    if list(gateway.state.glob("up-*")):
        wrong.append("leak: its folder of records is still there")
    return wrong


def told(report: dict[str, Any]) -> str:
    """The report in words."""
    statuses: Counter[str] = Counter()
    for found in report["statuses"].values():
        statuses.update(found)
    memory, held = report["memory"]["gateway_mib"], report["held"]
    slowest = max((one["max_ms"] for one in report["latencies"].values()), default=0.0)
    rows = [
        ("requests", f"{report['requests']} in {report['seconds']:.0f} s: {_listed(statuses)}"),
        ("slowest", f"{slowest:.0f} ms"),
        ("kills", f"{sum(report['kills'].values())}: {_listed(report['kills'])}"),
        ("processes", f"{report['processes']} came and went"),
        ("with keys", f"{report['kept']} outcomes, {report['replayed']} replayed byte for byte"),
        ("held at zero", f"before {held['before']}, after {held['after']}"),
        (
            "memory",
            f"gateway {memory['early']} MiB early, {memory['late']} MiB late, {memory['most']} at most",
        ),
        ("wrong", f"{report['wrong_in_all']}"),
    ]
    lines = [f"soak, start {report['start']}, seed {report['seed']}"]
    lines += [f"  {name:<14}{text}" for name, text in rows]
    return "\n".join([*lines, *(f"  {what}" for what in report["wrong"])])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"
