"""Records as DynamoDB's items."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .dynamodb_table import TTL
from .server_clock import Bounds

KNOWN = "(expires > :now OR lease > :now)"
_TTL_MARGIN_S = 3600


class Item(NamedTuple):
    fingerprint: str
    fence: str
    attempt: int
    lease: float
    held: float
    """Seconds for which the lease was taken, last time; 0 where that is not known."""
    expires: float
    outcome: bytes | None
    request: bytes

    def known(self, now: Bounds) -> bool:
        return self.expires > now.low or self.lease > now.low


def read_item(found: dict[str, Any]) -> Item:
    return Item(
        found["fingerprint"]["S"],
        found["fence"]["S"],
        int(found["attempt"]["N"]),
        float(found["lease"]["N"]),
        float(found["held"]["N"]) if "held" in found else 0.0,
        float(found["expires"]["N"]),
        found["outcome"]["B"] if "outcome" in found else None,
        found["request"]["B"] if "request" in found else b"",
    )


def number(value: float) -> dict[str, str]:
    return {"N": f"{value:.6f}".rstrip("0").rstrip(".")}


def kept(now: Bounds, keep: float) -> dict[str, Any]:
    """When the record is forgotten, and when its space may be freed: whole seconds, well after."""
    return {
        "expires": number(now.high + keep),
        TTL: {"N": str(math.ceil(now.high + keep) + _TTL_MARGIN_S)},
    }
