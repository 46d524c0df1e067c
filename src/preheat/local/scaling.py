"""How many instances a function needs, by its concurrency: Knative's autoscaler (KPA), for one machine.

Names, defaults and arithmetic are those of "Configuring autoscaling"
(https://knative.dev/docs/serving/autoscaling/) and of ``pkg/autoscaler/scaling/autoscaler.go`` in
knative/serving. Pure: the time is handed in.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

UTILIZATION = 0.7
"""``container-concurrency-target-percentage``: what of an instance's hard limit is aimed at."""
_BUCKETS = 60
"""Into how many parts the stable window is cut; Knative's are of one second, in a window of sixty."""


@dataclass(frozen=True)
class Policy:
    target: float
    """``autoscaling.knative.dev/target`` after its utilization: requests in flight that one instance is meant
    to have."""
    least: int = 0
    """``min-scale``."""
    most: int = 8
    """``max-scale``."""
    stable_s: float = 60.0
    """``stable-window``: seconds over which the concurrency is averaged."""
    panic_percentage: float = 10.0
    """``panic-window-percentage``: the panic window, as a part of the stable one."""
    panic_threshold: float = 200.0
    """``panic-threshold-percentage``: panic begins where the panic window wants this part of what is
    ready."""
    grace_s: float = 30.0
    """``scale-to-zero-grace-period``: seconds that the last instance stays after nothing was asked of it for
    a stable window. In Knative a bound on how long the network takes to bring the activator in; here the
    gateway is always in, so it is what ``scale-to-zero-pod-retention-period`` is there."""
    up_rate: float = 1000.0
    """``max-scale-up-rate``: times the ready instances, in one decision."""
    down_rate: float = 2.0
    """``max-scale-down-rate``: one in so many of the ready instances stays, at least, in one decision."""

    @property
    def panic_s(self) -> float:
        return self.stable_s * self.panic_percentage / 100


class Scaler:
    """One function's. ``now`` is ``time.monotonic``, never going back."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.panicking = False
        self._bucket_s = policy.stable_s / _BUCKETS
        self._areas: deque[tuple[int, float]] = deque()
        """Request-seconds by bucket, the latest last."""
        self._level = 0
        self._at = 0.0
        self._first: float | None = None
        """When the concurrency was noted first, after nothing for a whole window."""
        self._panic_until = 0.0
        self._panic_most = 0
        self._last_busy = -math.inf

    def record(self, now: float, concurrency: int) -> None:
        """Note how many requests are in flight, waiting ones included, from now on."""
        self._add_up(now)
        self._level = concurrency

    def desired(self, now: float, ready: int) -> int:
        """Instances that there should be; ``ready``: those that are."""
        policy = self.policy
        self._add_up(now)
        stable, panic = self.average(now, policy.stable_s), self.average(now, policy.panic_s)
        up, down = math.ceil(max(ready, 1) * policy.up_rate), math.floor(ready / policy.down_rate)
        wanted = min(max(math.ceil(stable / policy.target), down), up)
        at_once = min(max(math.ceil(panic / policy.target), down), up)
        if at_once / max(ready, 1) >= policy.panic_threshold / 100:
            self.panicking, self._panic_until = True, now + policy.stable_s
        elif now > self._panic_until:
            self.panicking, self._panic_most = False, 0
        if self.panicking:
            self._panic_most = wanted = max(wanted, at_once, self._panic_most)
        idle_s = now - self._last_busy
        if not self._level and idle_s >= policy.stable_s:
            wanted = 0 if idle_s >= policy.stable_s + policy.grace_s else min(ready, 1)
        return min(max(wanted, policy.least), policy.most)

    def average(self, now: float, window_s: float) -> float:
        """Mean concurrency of the last ``window_s`` seconds, or of those since the first request where they
        are fewer. In the first bucket after silence it is at least what is in flight: as Knative's activator,
        which tells the autoscaler of the first requests at once."""
        if self._first is None:
            return 0.0
        begin = max(self._first, now - window_s)
        oldest = math.floor(begin / self._bucket_s)
        area = sum(area for bucket, area in self._areas if bucket >= oldest)
        span = now - max(self._first, oldest * self._bucket_s)
        if span < self._bucket_s:
            return max(float(self._level), area / span if span > 0 else 0.0)
        return area / span

    def forget(self) -> None:
        """Begin as after a long silence: somebody has said how many instances there are to be."""
        self._areas.clear()
        self._first, self._last_busy = None, -math.inf
        self.panicking, self._panic_most, self._panic_until = False, 0, 0.0

    def _add_up(self, now: float) -> None:
        """Bring the level that held until now into the buckets."""
        since, self._at = self._at, now
        horizon = now - self.policy.stable_s - self._bucket_s
        while self._areas and (self._areas[0][0] + 1) * self._bucket_s < horizon:
            self._areas.popleft()
        if not self._level:
            if not self._areas:
                self._first = None
            return
        self._last_busy = now
        since = max(since, horizon)
        if self._first is None:
            self._first = since
        while since < now:
            bucket = math.floor(since / self._bucket_s)
            until = min((bucket + 1) * self._bucket_s, now)
            if until <= since:  # rounding, at a bucket's very end
                until = now
            area = self._level * (until - since)
            if self._areas and self._areas[-1][0] == bucket:
                area += self._areas.pop()[1]
            self._areas.append((bucket, area))
            since = until
