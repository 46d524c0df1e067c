"""A server's own phases, held against the clock of the process that started it and asked it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

NETWORK = "network"
"""From readiness to the request's arrival (the client's polling), and from the server's last mark to the
client's: the response's way."""
UNACCOUNTED = "unaccounted"
"""What no phase covers."""


class Bar(NamedTuple):
    """One phase of one start, in nanoseconds from the spawn."""

    phase: str
    begin: int
    end: int
    attributes: Mapping[str, Any]


def bars(coldstart: Mapping[str, Any], begin_ns: int, end_ns: int) -> list[Bar]:
    """The phases of a /coldstart report between the client's own marks, in order of their beginning.

    A process that CRIU restored has a clock of its own, and says by how much it differs
    (``clock_offset_ns``). ``platform`` begins at the spawn: the child knows its own start to a tick of 10 ms
    only. What lies outside the two marks is cut off.
    """
    origin = int(coldstart["origin_ns"]) - int(coldstart.get("clock_offset_ns", 0))
    ready = origin + round(coldstart["total_ms"] * 1e6)
    raw: list[Bar] = []
    for phase in coldstart["phases"]:
        begin = origin + round(phase["start_ms"] * 1e6)
        end = begin + round(phase["duration_ms"] * 1e6)
        if phase["phase"] == "platform":
            begin = begin_ns
        raw.append(Bar(phase["phase"], begin, end, phase["attributes"]))
        if phase["phase"] == "first_request":
            raw.append(Bar(NETWORK, ready, begin, {"of": "request"}))
            raw.append(Bar(NETWORK, end, end_ns, {"of": "response"}))
    found = []
    for bar in raw:
        begin, end = max(bar.begin, begin_ns), min(bar.end, end_ns)
        if end > begin:
            found.append(bar._replace(begin=begin - begin_ns, end=end - begin_ns))
    return sorted(found, key=lambda bar: (bar.begin, bar.end))


def covered(spans: Iterable[Bar]) -> int:
    """Nanoseconds of the union: what two phases cover at once counts once."""
    total, upto = 0, 0
    for span in sorted(spans, key=lambda bar: bar.begin):
        if span.end > upto:
            total += span.end - max(span.begin, upto)
            upto = span.end
    return total


def durations_ms(spans: list[Bar], total_ns: int) -> dict[str, float]:
    """Milliseconds of each phase, and what no phase covers as one of its own."""
    names = dict.fromkeys(bar.phase for bar in spans)
    found = {name: covered(bar for bar in spans if bar.phase == name) / 1e6 for name in names}
    found[UNACCOUNTED] = (total_ns - covered(spans)) / 1e6
    return found
