"""What a plan has to reach: latencies that a share of all requests must not exceed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import UsageError

_SHAPE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)=(\d{1,9}(?:\.\d{1,6})?)(ms|s)")


class Bound(NamedTuple):
    percent: float
    """Of all requests; those without an answer count as endless."""
    seconds: float

    @property
    def name(self) -> str:
        return f"p{self.percent:g}"

    def __str__(self) -> str:
        return f"{self.name} of at most {milliseconds(self.seconds)}"


def parse(texts: Sequence[str]) -> list[Bound]:
    """``p99=500ms``, ``p50=0.1s``, several parted by commas. Raises UsageError."""
    found: dict[float, Bound] = {}
    for text in (part.strip() for joined in texts for part in joined.split(",")):
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise UsageError(f"--objective must be as p99=500ms or p50=0.1s, not {text!r}")
        percent, value = float(shape[1]), float(shape[2]) * (1e-3 if shape[3] == "ms" else 1.0)
        if percent <= 0 or value <= 0:
            raise UsageError(f"--objective {text!r}: the percentile and the time must be above 0")
        if percent in found:
            raise UsageError(f"--objective names p{percent:g} twice")
        found[percent] = Bound(percent, value)
    return [found[percent] for percent in sorted(found)]


def milliseconds(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "no answer"
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"
