"""More than the server can do, for a few seconds: what must hold on any machine.

The figures are the benchmark's (`python -m benchmarks overload`); here ratios have much room.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from benchmarks import load
from benchmarks.serving import counted, sample

QUEUE = 32
DEADLINE_S = 0.5
SECONDS = 3.0


@pytest.mark.alone
def test_a_flood(filetype_artifact: Path, tmp_path: Path) -> None:
    keys = {
        name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        for name in ("flood", "quiet", "impatient")
    }
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    body = sample(filetype_artifact)
    environ = {"PREHEAT_QUEUE": str(QUEUE), "PREHEAT_API_KEYS": str(tmp_path / "keys.json")}
    with counted(filetype_artifact, tmp_path, key="flood", **environ) as server:

        def plan(tenant: str, timeout: float, connections: int, rate: float, seed: int) -> load.Plan:
            headers = {"x-api-key": tenant, "x-preheat-timeout": f"{timeout:g}"}
            return load.Plan(
                server.port,
                [load.post("/predict", body, headers)],
                begin,
                begin + SECONDS,
                connections,
                rate=rate,
                seed=seed,
            )

        begin = time.monotonic() + 0.5
        (capacity,) = load.run(plan("flood", 30, 16, 0, 0))
        begin = time.monotonic() + 0.5
        (solo,) = load.run(plan("quiet", 30, 4, 0.1 * capacity.goodput, 1))
        before = server.outcomes()
        begin = time.monotonic() + 0.5
        many = 5 * capacity.goodput
        *floods, beside = load.run(
            plan("flood", DEADLINE_S, 64, many, 2),
            plan("flood", DEADLINE_S, 64, many, 3),
            plan("impatient", 0.02, 8, 0.1 * capacity.goodput, 4),
            plan("quiet", 30, 4, 0.1 * capacity.goodput, 5),
        )
        after = server.outcomes()
    everything = load.together([*floods, beside])
    sent = [one for one in everything.seen if one.outcome != load.UNSENT]
    counts = load.Load(sent, SECONDS).counts
    known = {"ok", "shed", "timed_out"}
    assert set(counts) <= known, counts
    assert {name: after.get(name, 0) - before.get(name, 0) for name in known} == {
        name: counts.get(name, 0) for name in known
    }
    assert after["most"] <= QUEUE + (os.cpu_count() or 1)
    assert not [one for one in sent if one.wrong]
    assert counts["shed"] > counts["ok"]
    assert set(beside.counts) == {"ok"}
    flood = load.together(floods[:2])
    assert flood.goodput > capacity.goodput / 5
    late = [one.ms for one in flood.seen if one.outcome == "ok" and one.ms > DEADLINE_S * 1e3 + 500]
    assert not late
    # Behind the flood's own queue it would wait for 32 runs.
    assert beside.percentile(50) < max(8 * solo.percentile(50), 100)
