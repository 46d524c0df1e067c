"""What the gateway knows, as one JSON document."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

from .instance import Instance, State
from .limits import anonymous_mib

if TYPE_CHECKING:
    from .gateway import Gateway
    from .pool import Pool
    from .served import Served


def status(gateway: Gateway) -> dict[str, Any]:
    """Functions by name with their instances, queues and outcomes; times in milliseconds or as their names
    say."""
    policy, options = gateway.options.policy, gateway.options
    return {
        "gateway": {
            "pid": os.getpid(),
            "address": gateway.address,
            "state": "draining" if gateway.draining else "serving",
            "up_s": round(time.time() - gateway.began, 1),
            "start": options.kind,
            "policy": {
                "target": round(policy.target, 2),
                "min": policy.least,
                "max": policy.most,
                "stable_window_s": policy.stable_s,
                "panic_window_percentage": policy.panic_percentage,
                "panic_threshold_percentage": policy.panic_threshold,
                "scale_to_zero_grace_s": policy.grace_s,
                "concurrency": options.concurrency,
                "queue": options.queue,
                "start_timeout_s": options.start_timeout_s,
            },
            "limits": gateway.limits.told(),
            "ended_of_an_earlier_gateway": gateway.records.ended,
        },
        "functions": {name: _function(served) for name, served in gateway.functions.items()},
    }


def _function(served: Served) -> dict[str, Any]:
    now = time.monotonic()
    pools = list(served.pools.values())
    failing = next((pool for pool in pools if pool.error is not None), None)
    instances = [one for pool in pools for one in pool.instances]
    ended = sorted((one for pool in pools for one in pool.ended), key=lambda one: one.born, reverse=True)
    return {
        "target": served.found.location,
        "state": _state(pools, instances),
        "start": served.starter.kind,
        "not_restored": served.starter.refused,
        "desired": sum(pool.desired for pool in pools),
        "panicking": any(pool.scaler.panicking for pool in pools),
        "concurrency": round(sum(pool.scaler.average(now, pool.scaler.policy.stable_s) for pool in pools), 2),
        "queue": {
            "waiting": sum(len(pool.waiting) for pool in pools),
            "most": served.most_waiting,
            "places": served.options.queue,
        },
        "outcomes": dict(sorted(served.outcomes.items())),
        "failures": failing.failures if failing else 0,
        "retry_in_s": math.ceil(10 * max(failing.retry_at - now, 0.0)) / 10 if failing else 0.0,
        "error": {"code": failing.error.code, "message": str(failing.error)}
        if failing and failing.error
        else None,
        "instances": [_instance(one) for one in instances],
        "ended": [_instance(one) for one in ended],
        "problems": [problem._asdict() for problem in served.problems],
    }


def _state(pools: list[Pool], instances: list[Instance]) -> str:
    states = {one.state for one in instances}
    if State.READY in states:
        return "ready"
    if State.STARTING in states:
        return "starting"
    if any(pool.error is not None for pool in pools):
        return "failing"
    return "draining" if State.DRAINING in states else "at zero"


def _instance(one: Instance) -> dict[str, Any]:
    memory = anonymous_mib(one.process.pid) if one.process.running else None
    return {
        "name": one.name,
        "id": one.id or (one.report["instance"] if one.report else ""),
        "tenant": one.tenant,
        "pid": one.process.pid,
        "port": one.port,
        "kind": one.kind,
        "not_restored": (one.report or {}).get("not_restored", ""),
        "state": one.state.value,
        "born": round(one.born, 3),
        "ready_ms": round(one.ready_ms, 1) if one.ready_ms is not None else None,
        "in_flight": one.in_flight,
        "answered": one.answered,
        "memory_mib": round(memory, 1) if memory is not None else None,
        "ended": {"code": one.code, "message": one.said} if one.code else None,
        "start": one.report,
    }
