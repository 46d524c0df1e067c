"""Leases that lapsed while somebody watched: told without any clock but the watcher's own stopwatch.

A lease is renewed by changing it. Whoever has seen one unchanged for as long as it holds knows that it has
lapsed, whatever time its owner, the store or the watcher believe it to be.
"""

from __future__ import annotations

import time
from threading import Lock

MOST = 4096
"""Keys that are watched; the one that was first seen longest ago is forgotten first."""
SLACK = 1.001
"""Two stopwatches may differ."""


class Watch:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[str, tuple[str, float, float]] = {}

    def left(self, key: str, fence: str, lease: float, held: float, asked: float) -> float:
        """Seconds until this lease has surely lapsed if it stays as it is; 0 where it has.

        ``fence``, ``lease``: as a request of ``time.monotonic`` time ``asked`` found them; ``held``: how many
        seconds its owner may go without renewing it.
        """
        with self._lock:
            known = self._seen.get(key)
            if known is None or known[:2] != (fence, lease):
                known = (fence, lease, time.monotonic())
                self._seen.pop(key, None)
                self._seen[key] = known
                if len(self._seen) > MOST:
                    del self._seen[next(iter(self._seen))]
            return max(known[2] + held * SLACK - asked, 0.0)

    def forget(self, key: str) -> None:
        """The key is somebody else's by now, or done."""
        with self._lock:
            self._seen.pop(key, None)
