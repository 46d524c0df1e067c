"""The phases of a cold start, the clock that marks them and the report they make.

Marks are ``time.perf_counter_ns`` (CLOCK_MONOTONIC: one clock for every process of a host, so that a parent
can hold its own marks against them). The process's start comes from ``/proc``, whose resolution is a tick.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple

FIRST_LINE_NS = time.perf_counter_ns()
"""When this module was imported; entry points import it before anything else."""


class Phase(StrEnum):
    PLATFORM = "platform"
    """Process start to the interpreter's first line of ours."""
    IMPORT = "import"
    """Modules and assets that the first answer needs."""
    DOWNLOAD = "download"
    """Manifest and files: found, fetched, verified."""
    COMPILE = "compile"
    """The session opened from the chosen variant."""
    WARMUP = "warmup"
    """First runs and the golden check."""
    RESTORE = "restore"
    """After-hooks of a restore from a snapshot."""
    FIRST_REQUEST = "first_request"
    """The first request's own work, from readiness or arrival, whichever is later, to its answer."""


class StartKind(StrEnum):
    FRESH = "fresh"
    """A process that did all of it."""
    RESTORED = "restored"
    """A snapshot or a clone of one that did."""


class Span(NamedTuple):
    """One phase as it happened. Phases may overlap: a download runs beside the imports."""

    phase: Phase
    begin_ns: int
    end_ns: int
    attributes: Mapping[str, Any]


class PhaseClock:
    """Takes the marks of one start, in one process. ``origin_ns``: ``perf_counter_ns`` at which a restore, or
    the load of a further model, began: no mark from before it means anything; 0 for a start of the process
    itself."""

    def __init__(self, origin_ns: int = 0) -> None:
        self.origin_ns = origin_ns or process_start_ns() or FIRST_LINE_NS
        self.spans: list[Span] = []
        if not origin_ns:
            self.spans.append(Span(Phase.PLATFORM, self.origin_ns, FIRST_LINE_NS, {}))

    @contextmanager
    def phase(self, phase: Phase, begin_ns: int | None = None) -> Iterator[dict[str, Any]]:
        """Time a block, from ``begin_ns`` if it began earlier; what is put into the yielded mapping becomes
        the phase's attributes."""
        attributes: dict[str, Any] = {}
        begin = time.perf_counter_ns() if begin_ns is None else begin_ns
        try:
            yield attributes
        finally:
            self.spans.append(Span(phase, begin, time.perf_counter_ns(), attributes))


class ColdStartReport:
    """What one start did and how long it took.

    It ends at readiness; ``first_request`` is added once, by the first request that is answered.
    """

    def __init__(
        self,
        clock: PhaseClock,
        *,
        instance: str,
        kind: StartKind = StartKind.FRESH,
        platform: str = "process",
        facts: Mapping[str, Any],
    ) -> None:
        self.id = os.urandom(8).hex()
        self.instance = instance
        self.kind = kind
        self.platform = platform
        self.facts = facts
        """artifact, version, variant, provider, fallback, cache, host, deployment."""
        self.origin_ns = clock.origin_ns
        self.spans = list(clock.spans)
        self.ready_ns = time.perf_counter_ns()
        self._server_timing: str | None = None

    def first_request(self, arrived_ns: int) -> None:
        """Close the report with the first answered request, which arrived at ``arrived_ns``."""
        self.spans.append(
            Span(Phase.FIRST_REQUEST, max(arrived_ns, self.ready_ns), time.perf_counter_ns(), {})
        )
        self._server_timing = None

    @property
    def total_ms(self) -> float:
        """Process start to readiness."""
        return (self.ready_ns - self.origin_ns) / 1e6

    @property
    def unaccounted_ms(self) -> float:
        """The part of the total that no phase covers."""
        covered, upto = 0, self.origin_ns
        for span in sorted(self.spans, key=lambda s: s.begin_ns):
            if span.phase is not Phase.FIRST_REQUEST and span.end_ns > upto:
                covered += span.end_ns - max(span.begin_ns, upto)
                upto = span.end_ns
        return (self.ready_ns - self.origin_ns - covered) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """As JSON: phases with start and duration in milliseconds from the process's start."""
        return {
            "id": self.id,
            "instance": self.instance,
            "kind": self.kind.value,
            "platform": self.platform,
            **self.facts,
            "origin_ns": self.origin_ns,
            "resolution_ms": 1e3 / os.sysconf("SC_CLK_TCK"),
            "total_ms": round(self.total_ms, 3),
            "unaccounted_ms": round(self.unaccounted_ms, 3),
            "phases": [
                {
                    "phase": span.phase.value,
                    "start_ms": round((span.begin_ns - self.origin_ns) / 1e6, 3),
                    "duration_ms": round((span.end_ns - span.begin_ns) / 1e6, 3),
                    "attributes": dict(span.attributes),
                }
                for span in sorted(self.spans, key=lambda s: s.begin_ns)
            ],
        }

    def server_timing(self) -> str:
        """The value of a ``Server-Timing`` header (W3C): each phase with its duration in milliseconds."""
        if self._server_timing is None:
            parts = [f"{s.phase.value};dur={(s.end_ns - s.begin_ns) / 1e6:.3f}" for s in self.spans]
            self._server_timing = ", ".join([*parts, f"total;dur={self.total_ms:.3f}"])
        return self._server_timing


def process_start_ns() -> int | None:
    """When this process started, on the clock of ``perf_counter_ns``; None where /proc does not tell.

    Field 22 of ``/proc/self/stat`` counts ticks since boot (proc(5)); suspended time is in it, hence
    CLOCK_BOOTTIME.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        ticks = int(fields[19])
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return time.perf_counter_ns() - age
