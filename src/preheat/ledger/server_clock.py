"""A server's clock, known from the ``Date`` of its responses alone, within bounds.

The header was written between a request's start and its response's arrival, and says the second. So each
response bounds the difference between the server's clock and this process's monotonic one; responses at
different parts of a second narrow the bounds. The worker's own wall clock is never believed: it only betrays
that the process was frozen, when it jumps against the monotonic clock.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from threading import Lock

DRIFT = 2e-4
"""How far two clocks may part, in seconds a second; disciplined clocks stay below 1e-4."""
JUMP_S = 0.25
APART_S = 0.02
"""How far the clocks of a service's own hosts may be apart; the bounds allow for it."""
CONTRADICTION_S = 0.1


class Bounds:
    """``low`` <= the server's now <= ``high``, in seconds since the epoch."""

    __slots__ = ("high", "low")

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    @property
    def width(self) -> float:
        return self.high - self.low


class ServerClock:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: Bounds | None = None
        """Of the difference: the server's clock less ``time.monotonic``, at the moment ``_at``."""
        self._at = 0.0
        self._wall = 0.0
        self.contradictions = 0
        """How often a response showed that what was believed was wrong, and so what was written by it."""

    def now(self) -> Bounds | None:
        """None where nothing is known, or what was known may have become wrong."""
        with self._lock:
            moment = time.monotonic()
            known = self._aged(moment)
            return None if known is None else Bounds(moment + known.low, moment + known.high)

    def learn(self, date: str, asked: float) -> None:
        """Take in the ``Date`` of a response to a request of ``time.monotonic`` time ``asked``."""
        try:
            second = parsedate_to_datetime(date).timestamp()
        except (TypeError, ValueError):
            return
        with self._lock:
            moment = time.monotonic()
            fresh = Bounds(second - moment - APART_S, second + 1.0 - asked + APART_S)
            known = self._aged(moment) or self._known
            if known is None:
                pass
            elif known.low > fresh.high + CONTRADICTION_S or fresh.low > known.high + CONTRADICTION_S:
                self.contradictions += 1
            elif self._aged(moment) is not None:
                ends = sorted((known.low, known.high, fresh.low, fresh.high))
                fresh = Bounds(ends[1], ends[2])  # what both allow, or the gap between them
            self._known, self._at, self._wall = fresh, moment, time.time() - moment

    def _aged(self, moment: float) -> Bounds | None:
        if self._known is None or abs(time.time() - moment - self._wall) > JUMP_S:
            return None
        drift = DRIFT * (moment - self._at)
        return Bounds(self._known.low - drift, self._known.high + drift)
