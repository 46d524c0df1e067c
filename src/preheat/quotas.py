"""What each tenant has sent and used lately, of no more than so many tenants."""

from __future__ import annotations

import math
import time

from .errors import ThrottledError

LATELY_S = 1.0
"""What a tenant has used of the engine counts for half of it after 0.7 of this, and so on."""
MAX_TENANTS = 10_000
"""Tenants that are remembered; who was seen longest ago is forgotten first."""


class Buckets:
    """Of tokens, one for each tenant. ``rate``: requests a second that each may send, 0 for any number;
    ``burst``: how many of them at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = max(burst, 1) if burst else max(rate, 1.0)
        self._known: dict[str, tuple[float, float]] = {}
        """Tokens that a tenant had, and when."""

    def pay(self, tenant: str) -> None:
        """Take one token from the tenant's bucket. Raises ThrottledError."""
        if not self._rate:
            return
        now = time.perf_counter()
        tokens, seen = self._known.get(tenant, (float(self._burst), now))
        tokens = min(tokens + (now - seen) * self._rate, float(self._burst))
        _remember(self._known, tenant, (tokens - 1.0 if tokens >= 1.0 else tokens, now))
        if tokens < 1.0:
            seconds = (1.0 - tokens) / self._rate
            raise ThrottledError(
                f"more than {self._rate:g} requests a second; send it again in {seconds:.1f} s",
                retry_after=max(1, round(seconds + 0.5)),
            )


class Usage:
    """Of the engine, by each tenant: that of long ago counts for less."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}
        """Seconds that a tenant used, and when that was counted."""

    def add(self, tenant: str, seconds: float) -> None:
        """It has used so much just now."""
        now = time.perf_counter()
        _remember(self._known, tenant, (self._left(tenant, now) + seconds, now))

    def turns(self, tenant: str, since: list[float]) -> float:
        """Turns that a tenant had lately, on average, with those that it has had ``since`` then, each of
        ``time.perf_counter``."""
        now = time.perf_counter()
        return (self._left(tenant, now) + sum(faded(now - began) for began in since)) / LATELY_S

    def _left(self, tenant: str, now: float) -> float:
        seconds, counted = self._known.get(tenant, (0.0, now))
        return seconds * math.exp((counted - now) / LATELY_S)


def faded(seconds: float) -> float:
    """What use without a break that ends now counts for."""
    return LATELY_S * -math.expm1(-seconds / LATELY_S)


def _remember(known: dict[str, tuple[float, float]], tenant: str, what: tuple[float, float]) -> None:
    """Note it of a tenant; of too many, the one that was noted longest ago is forgotten."""
    known.pop(tenant, None)
    known[tenant] = what
    if len(known) > MAX_TENANTS:
        del known[next(iter(known))]
