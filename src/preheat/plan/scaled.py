"""Platforms that scale on concurrency, simulated: Knative, Cloud Run, ``preheat up``.

The autoscaler is ``local/scaling.py``'s own, asked as each platform asks it; who gets which instance follows
``local/pool.py``. An instance answers ``turns`` requests at once and keeps the others that it has in line.
Discrete events: arrivals, ends of requests, instances that become ready, the autoscaler's ticks.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..local.scaling import Policy, Scaler
from .draws import Times
from .outcome import Outcome, Use


class Settings(NamedTuple):
    policy: Policy
    tick_s: float
    """Between two decisions of the autoscaler."""
    at_once: bool
    """Whether it decides too when a request has to wait, whatever is up; else only where nothing is."""
    concurrency: int
    """Requests that one instance gets at once."""
    turns: int = 1
    """Of these, how many it answers at once."""
    ahead: int = 0
    """Requests that an instance gets before it is ready."""
    starting: int = 0
    """Instances that start at once at most; 0: any."""
    queue: int = 0
    """Requests that may wait for an instance, past which they are shed; 0: any."""
    timeout_s: float = math.inf
    """Seconds that a request may wait for an instance."""
    drain_s: float = 0.0
    """Seconds for which an instance is still there, and paid, after it was given up."""
    paid_step_s: float = 0.0
    """To whole ones of what an instance's time at work is rounded up; 0: not at all."""


class _Instance:
    __slots__ = ("active_since", "ahead", "answered", "begun", "in_flight", "paid", "ready", "turns", "used")

    def __init__(self, now: float, turns: int) -> None:
        self.begun = self.active_since = self.paid = self.used = now
        # paid: up to when its time at work was rounded up.
        self.ready = self.answered = False
        self.in_flight = 0
        self.turns = [now] * turns
        """When each is free; a heap."""
        self.ahead: list[int] = []
        """Requests that it got before it was ready."""


def simulate(arrivals: NDArray[np.float64], span_s: float, times: Times, settings: Settings) -> Outcome:
    """``arrivals``: seconds from the beginning, in order. Begins with the least instances, ready and used."""
    return _Simulation(arrivals, span_s, times, settings).run()


class _Simulation:
    def __init__(
        self, arrivals: NDArray[np.float64], span_s: float, times: Times, settings: Settings
    ) -> None:
        self._settings = settings
        self._policy = settings.policy
        self._scaler = Scaler(settings.policy)
        self._span_s = span_s
        self._arrivals = arrivals.tolist()
        self._takes = times.request.tolist()
        self._carried = times.carried.tolist()
        self._starts = times.start.tolist()
        self._placed = times.placed.tolist()
        self._latency = [math.inf] * len(self._arrivals)
        self._cold = np.zeros(len(self._arrivals), np.bool_)
        self._events: list[tuple[float, int, _Instance, bool]] = []
        """When, a number that keeps the order, of which instance, whether it becomes ready."""
        self._numbers = itertools.count()
        self._instances: list[_Instance] = []
        self._waiting: deque[int] = deque()
        self._next = 0
        """The request that arrives next."""
        self._level = 0
        """Requests that wait or are at an instance."""
        self._starting = 0
        self._tick = settings.tick_s
        self._most = self._started = self._answered = 0
        self._run_s = self._active_s = self._alive_s = 0.0
        self._active = 0
        """Instances with a request."""
        self._active_changed = self._least_idle_s = 0.0
        for _ in range(self._policy.least):
            instance = _Instance(0.0, settings.turns)
            instance.ready = instance.answered = True
            self._instances.append(instance)
        self._most = len(self._instances)

    def run(self) -> Outcome:
        arrivals, count, span, now = self._arrivals, len(self._arrivals), self._span_s, 0.0
        while True:
            arrival = arrivals[self._next] if self._next < count else math.inf
            event = self._events[0][0] if self._events else math.inf
            if event <= arrival and event <= self._tick:
                if event == math.inf:
                    break
                now, _, instance, ready = heapq.heappop(self._events)
                if ready:
                    self._become_ready(now, instance)
                else:
                    self._end(now, instance)
            elif self._tick < arrival:
                if arrival == math.inf and not self._level and self._tick > span:
                    break
                now = self._tick
                self._decide(now)
                self._tick = self._tick_after(now)
            else:
                now = arrival
                self._next += 1
                self._arrive(now, self._next - 1)
        end = max(now, span)
        self._count_active(end, 0)
        self._alive_s += sum(end - one.begun for one in self._instances)
        use = Use(
            requests=self._answered,
            run_s=self._run_s,
            starts=self._started,
            active_s=self._active_s,
            alive_s=self._alive_s,
            least_idle_s=self._least_idle_s,
        )
        return Outcome(np.array(self._latency), self._cold, use, self._most)

    def _arrive(self, now: float, request: int) -> None:
        settings = self._settings
        if self._tick - now > settings.tick_s:  # ticks that could change nothing were left out
            self._tick = self._grid(now)
        free = None if self._waiting else self._free()
        if free is None and 0 < settings.queue <= len(self._waiting):
            return
        self._level += 1
        self._scaler.record(now, self._level)
        if free is not None:
            self._bind(now, free, request)
            return
        self._waiting.append(request)
        if settings.at_once or not self._instances:
            self._decide(now)

    def _free(self) -> _Instance | None:
        """The ready instance with the fewest requests, else one that starts and may have one."""
        found, fewest, coming = None, self._settings.concurrency, None
        for one in self._instances:
            if one.ready:
                if one.in_flight < fewest:
                    if not one.in_flight:
                        return one
                    found, fewest = one, one.in_flight
            elif coming is None and one.in_flight < self._settings.ahead:
                coming = one
        return coming if found is None else found

    def _bind(self, now: float, instance: _Instance, request: int) -> None:
        instance.used = now
        instance.in_flight += 1
        if instance.ready:
            if instance.in_flight == 1:
                instance.active_since = now
                self._count_active(now, 1)
            self._serve(now, instance, request)
        else:
            instance.ahead.append(request)

    def _serve(self, now: float, instance: _Instance, request: int) -> None:
        takes = self._takes[request]
        end = max(now, instance.turns[0]) + takes
        heapq.heapreplace(instance.turns, end)
        if not instance.answered:
            instance.answered = True
            self._cold[request] = True
        self._run_s += takes
        self._answered += 1
        self._latency[request] = end - self._arrivals[request] + self._carried[request]
        heapq.heappush(self._events, (end, next(self._numbers), instance, False))

    def _end(self, now: float, instance: _Instance) -> None:
        instance.in_flight -= 1
        instance.used = now
        self._level -= 1
        self._scaler.record(now, self._level)
        if not instance.in_flight:
            self._pay(now, instance)
            self._count_active(now, -1)
        if self._waiting:
            self._dispatch(now)

    def _become_ready(self, now: float, instance: _Instance) -> None:
        self._starting -= 1
        instance.ready = True
        instance.turns = [now] * self._settings.turns
        if instance.in_flight:
            instance.active_since = now
            self._count_active(now, 1)
        for request in instance.ahead:
            self._cold[request] = True
            self._serve(now, instance, request)
        instance.ahead.clear()
        self._dispatch(now)
        if self._settings.at_once:
            self._decide(now)

    def _pay(self, now: float, instance: _Instance) -> None:
        """Its time at work that ends now, less what was paid by rounding up before."""
        begin, step = max(instance.active_since, instance.paid), self._settings.paid_step_s
        took = now - begin
        if took > 0:
            took = math.ceil(took / step - 1e-9) * step if step else took
            self._active_s += took
            instance.paid = begin + took

    def _count_active(self, now: float, change: int) -> None:
        spare = self._policy.least - self._active
        if spare > 0:
            self._least_idle_s += spare * (now - self._active_changed)
        self._active_changed = now
        self._active += change

    def _dispatch(self, now: float) -> None:
        while self._waiting:
            if now - self._arrivals[self._waiting[0]] > self._settings.timeout_s:
                self._waiting.popleft()
                self._level -= 1
                self._scaler.record(now, self._level)
                continue
            free = self._free()
            if free is None:
                return
            self._bind(now, free, self._waiting.popleft())

    def _decide(self, now: float) -> None:
        """As ``Pool.scale``: start what is missing, end what is too much and has nothing to do."""
        settings, instances = self._settings, self._instances
        wanted = self._scaler.desired(now, len(instances) - self._starting)
        if self._waiting and not instances:
            wanted = max(wanted, 1)
        wanted = min(wanted, self._policy.most)
        while len(instances) < wanted:
            if instances and 0 < settings.starting <= self._starting:
                break
            self._start(now)
        surplus = len(instances) - wanted
        if surplus > 0:
            idle = sorted(
                (one for one in instances if one.ready and not one.in_flight), key=lambda one: one.used
            )
            for one in idle[:surplus]:
                instances.remove(one)
                self._alive_s += now - one.begun + settings.drain_s
        if self._waiting:
            self._dispatch(now)

    def _start(self, now: float) -> None:
        drawn = min(self._started, len(self._starts) - 1)
        instance = _Instance(now, self._settings.turns)
        self._instances.append(instance)
        self._most = max(self._most, len(self._instances))
        self._starting += 1
        self._started += 1
        self._active_s += self._starts[drawn]
        ready = now + self._placed[drawn] + self._starts[drawn]
        heapq.heappush(self._events, (ready, next(self._numbers), instance, True))

    def _tick_after(self, now: float) -> float:
        """The next tick that may change something. With nothing in flight the averages only fall, so that one
        instance stays until its grace is over, and the least stay for ever."""
        count = len(self._instances)
        if not self._level and not self._starting and count <= max(self._policy.least, 1):
            if count <= self._policy.least:
                return math.inf
            over = self._instances[0].used + self._policy.stable_s + self._policy.grace_s
            if over > now:
                return self._grid(over)
        return now + self._settings.tick_s

    def _grid(self, now: float) -> float:
        """The first tick after a time."""
        return (math.floor(now / self._settings.tick_s) + 1) * self._settings.tick_s
