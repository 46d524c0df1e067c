"""Runs made by hand, for what is told of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preheat.load.runs import Run
from preheat.load.samples import Sample

HEAD: dict[str, Any] = {
    "preheat": "0",
    "label": "",
    "began": "2026-01-01T00:00:00+00:00",
    "target": "http://127.0.0.1:8080",
    "scenario": {"name": "by hand", "about": "", "digest": "d1", "objective_ms": 100.0, "steps": []},
    "generator": {"requests": 1, "median_ms": 0.4, "p99_ms": 1.0, "late_p99_ms": 0.2, "cpu_ms": 0.3},
    "host": {"arch": "x86_64", "cpus": 4, "python": "3.11"},
}


def sample(number: int, client_ms: float, **fields: Any) -> Sample:
    """A good, warm one, a second apart from the next."""
    given: dict[str, Any] = {
        "number": number,
        "step": "steady",
        "asked": "any",
        "closed": False,
        "at_s": float(number),
        "attempt": 0,
        "final": True,
        "worker": "local",
        "lag_ms": 0.0,
        "client_ms": client_ms,
        "head_ms": client_ms,
        "status": 200,
        "outcome": "ok",
        "start": "warm",
        "instance": "i1",
        "server_ms": client_ms * 0.9,
        "gateway_ms": None,
        "phases": {"wait": 0.0, "run": client_ms * 0.9},
        "key": "",
        "replayed": False,
        "digest": "x",
        "error": "",
    }
    return Sample(**{**given, **fields})


def run(samples: Sequence[Sample], name: str = "base", **tail: Any) -> Run:
    return Run({**HEAD, "label": name}, samples, {"seconds": 60.0, "forced": [], "cpu_s": 0.1, **tail})
