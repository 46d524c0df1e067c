"""The figures of one or more rounds, as JSON and in words."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .checker import Rule, Verdict
from .history import Event, Kind


@dataclass
class Report:
    store: str
    seed: int
    keys: int = 0
    requests: int = 0
    """Acknowledged ones."""
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    """By step."""
    freezes: int = 0
    restarts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """Requests to the store that the proxy cut or delayed, by fault."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Calls that failed though the store's client repeated them: whether they were done is unknown."""
    executions: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """Executions beyond the first of their key, by what ended the one before."""
    takeovers: int = 0
    recoveries: list[float] = field(default_factory=list)
    unclear: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    """The first violations."""

    def add(self, events: list[Event], verdict: Verdict, seconds: float) -> None:
        kinds = Counter(event.kind for event in events)
        self.seconds += seconds
        self.keys += verdict.keys
        self.requests += kinds[Kind.ACKNOWLEDGED]
        self.kills.update(event.value for event in events if event.kind is Kind.KILLED)
        self.faults.update(event.value for event in events if event.kind is Kind.FAULT)
        self.freezes += kinds[Kind.FROZEN]
        self.restarts += kinds[Kind.DOWN]
        for kind in (Kind.CLAIM_FAILED, Kind.RENEWAL_FAILED, Kind.COMMIT_FAILED, Kind.RELEASE_FAILED):
            self.unknown[kind] += kinds[kind]
        self.executions += verdict.executions
        self.repeated.update(verdict.repeated)
        self.takeovers += verdict.takeovers
        self.recoveries += verdict.recoveries
        self.unclear += verdict.unclear
        self.violations.update(violation.rule for violation in verdict.violations)
        room = 20 - len(self.details)
        self.details += [f"{v.rule}: {v.key}: {v.detail}" for v in verdict.violations[: max(room, 0)]]

    @property
    def killed(self) -> int:
        return sum(self.kills.values())

    def as_json(self) -> dict[str, Any]:
        record = dict(vars(self))
        record["violations"] = {rule: self.violations[rule] for rule in Rule}
        record["recoveries"] = {
            "count": len(self.recoveries),
            "median_s": round(statistics.median(self.recoveries), 3) if self.recoveries else None,
            "max_s": round(max(self.recoveries), 3) if self.recoveries else None,
        }
        record["seconds"] = round(self.seconds, 1)
        return record

    def __str__(self) -> str:
        record = self.as_json()
        recovery = record["recoveries"]
        rows = [
            ("keys", f"{self.keys}, {self.requests} requests acknowledged, in {self.seconds:.0f} s"),
            ("kills", f"{self.killed}: {_listed(self.kills)}"),
            ("freezes", f"{self.freezes}; restarts of the store {self.restarts}"),
            ("faults", _listed(self.faults)),
            ("unknown fate", _listed(self.unknown)),
            ("executions", f"{self.executions}, of them repeated {_listed(self.repeated)}"),
            ("takeovers", f"{self.takeovers}"),
            (
                "recovery",
                f"{recovery['count']}, median {recovery['median_s']} s, longest {recovery['max_s']} s;"
                f" {self.unclear} unclear",
            ),
            ("violations", f"{sum(self.violations.values())}: {_listed(record['violations'])}"),
        ]
        lines = [f"{self.store}, seed {self.seed}", *(f"  {name:<14}{text}" for name, text in rows)]
        return "\n".join([*lines, *(f"  {detail}" for detail in self.details)])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"
