"""W3C Trace Context: where a request's trace comes from, and what is passed on of it.

Source: https://www.w3.org/TR/trace-context-2/, with ``traceresponse`` from its draft of 2023.
"""

from __future__ import annotations

import os
from typing import NamedTuple

_HEX = frozenset("0123456789abcdef")
_LENGTHS = (2, 32, 16, 2)


class Trace(NamedTuple):
    """A request's place in a trace. Ids are lower-case hexadecimal digits."""

    trace_id: str
    """32 digits."""
    span_id: str
    """16 digits; empty where this process records no span of the request."""
    parent_id: str = ""
    """The span that the client named; empty for none."""
    parent_sampled: bool = False
    sampled: bool = True
    state: str = ""
    """``tracestate``, as it came."""

    @property
    def header(self) -> str:
        """The value of ``traceparent`` for whatever follows from this request."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(traceparent: str, state: str = "") -> Trace | None:
    """The client's context, without a span of our own; None where the header is missing or malformed, which
    means that a new trace begins (section 3.2.2.5)."""
    parts = traceparent.split("-")
    if len(parts) < 4 or (parts[0] == "00" and len(parts) != 4) or parts[0] == "ff":
        return None
    for part, length in zip(parts, _LENGTHS, strict=False):
        if len(part) != length or not _HEX.issuperset(part):
            return None
    _, trace_id, parent_id, flags = parts[:4]
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    sampled = bool(int(flags, 16) & 1)
    return Trace(trace_id, "", parent_id, sampled, sampled, state)


def child_of(parent: Trace | None) -> Trace:
    """A span of our own: the client's child, or the root of a new trace. Sampled if the client's is."""
    if parent is None:
        return Trace(_id(16), _id(8))
    return parent._replace(span_id=_id(8))


def _id(size: int) -> str:
    while True:
        found = os.urandom(size)
        if any(found):  # all zeros mean: none
            return found.hex()
