"""The instances of one function, and the requests that wait for one of them; of one tenant, where tenants
have instances of their own.

A request is bound to an instance that is ready and has a place; or, one for each, to an instance that starts:
it lies in the backlog there, and is read the moment somebody reads. The others wait here, for whichever is
ready first.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

from ..errors import FailedStartError, PreheatError, ShedError, TimedOutError
from ..waterfall import milliseconds
from . import starts
from .instance import Instance, State
from .limits import Limits, anonymous_mib
from .records import Records
from .scaling import Policy, Scaler
from .starts import Starter

AHEAD = 1
"""Requests that are sent to an instance before it is ready."""
KINDS = ("fresh", "fork", "criu")
"""How instances may start: ``starts.py``, ``forking.py``, ``restoring.py``."""
BACK_OFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds until the next start after so many failures in a row; the first may have been an accident."""
SCALED_DOWN = "scaled down"
KEPT_ENDED = 30
"""Instances that have ended and are still told of."""


@dataclass(frozen=True)
class Options:
    """What holds for every function that is up."""

    policy: Policy
    kind: str = "fresh"
    concurrency: int = 32
    """Requests that one instance gets at once. It uses every CPU and joins what waits, so many are better off
    with few instances than few with many."""
    queue: int = 256
    """Requests that may wait in the gateway; one more is shed."""
    start_timeout_s: float = 60.0
    """Seconds that an instance has to become ready."""
    stop_s: float = 30.0
    """Seconds that an instance has to end after SIGTERM."""


class Starting:
    """How many instances may start at once on this machine: one for every two CPUs, as each start keeps a CPU
    busy, and those that are ready need the other half for what already waits. A pool that has none may always
    start one: a function that never becomes ready holds up no other."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0


class Pool:
    """``place``: whether the function may have one more instance; it may make room, and call ``scale`` later.
    ``changed``: called when an instance has started or ended, for whoever waits for a place or a turn to
    start."""

    def __init__(
        self,
        name: str,
        tenant: str,
        starter: Starter,
        environ: dict[str, str],
        options: Options,
        limits: Limits,
        records: Records,
        numbers: Iterator[int],
        starting: Starting,
        place: Callable[[Pool], bool],
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.options = options
        self.scaler = Scaler(options.policy)
        self.instances: list[Instance] = []
        self.waiting: deque[asyncio.Future[Instance]] = deque()
        self.ended: deque[Instance] = deque(maxlen=KEPT_ENDED)
        self.failures = 0
        """Failed starts and crashes since the last good answer."""
        self.retry_at = 0.0
        """``time.monotonic`` before which nothing is started."""
        self.error: PreheatError | None = None
        """What failed last, until an answer is good again."""
        self.desired = 0
        self.draining = False
        self._starter = starter
        self._environ = environ
        self._limits = limits
        self._records = records
        self._numbers = numbers
        self._starting = starting
        self._place = place
        self._changed = changed
        self._asked = 0
        self._asked_until = 0.0
        self._soon = False
        self._lives: set[asyncio.Task[None]] = set()

    @property
    def alive(self) -> list[Instance]:
        return [one for one in self.instances if one.alive]

    @property
    def idle(self) -> list[Instance]:
        """Those that are ready and have nothing to do, the longest idle first."""
        free = (one for one in self.instances if one.state is State.READY and one.in_flight == 0)
        return sorted(free, key=lambda one: one.used)

    @property
    def in_flight(self) -> int:
        return len(self.waiting) + sum(one.in_flight for one in self.instances)

    async def acquire(self, until: float) -> Instance:
        """A place at an instance, to be given back by ``release``. ``until``: of ``time.monotonic``.

        Raises ShedError where the queue is full, TimedOutError past ``until``, and the function's own error
        where its last start failed and the next one is not due.
        """
        if self.draining:
            raise ShedError("the gateway is shutting down")
        now = time.monotonic()
        if self.error is not None and now < self.retry_at and not self.alive:
            raise self._failing(now)
        if not self.waiting:
            free = self._free()
            if free is not None:
                return self._bind(free)
        if len(self.waiting) >= self.options.queue:
            raise ShedError(f"{len(self.waiting)} requests of {self.name} wait already")
        place: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        self._note()
        self.scale_soon()
        late = TimedOutError("no instance had a place before the request's time was up")
        timer = asyncio.get_running_loop().call_later(until - now, self._fail, place, late)
        try:
            return await place
        except BaseException:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.release(place.result())  # it came as the client left
            with contextlib.suppress(ValueError):
                self.waiting.remove(place)
            self._note()
            raise
        finally:
            timer.cancel()

    def release(self, instance: Instance, *, good: bool = False) -> None:
        """Give a place back. ``good``: there was an answer that is no failure of the function."""
        instance.in_flight -= 1
        instance.used = time.monotonic()
        if good:
            self.failures, self.error, self.retry_at = 0, None, 0.0
        self._note()
        self._dispatch()

    def scale_soon(self) -> None:
        """Decide anew, once for all that comes in this turn of the loop."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self.scale)

    def scale(self) -> None:
        """Start or drain what the autoscaler wants; called whenever requests wait, and a few times a
        second."""
        self._soon = False
        now = time.monotonic()
        alive = self.alive
        ready = sum(one.state is State.READY for one in alive)
        wanted = self.scaler.desired(now, ready)
        if self.waiting and not alive:
            wanted = max(wanted, 1)
        if now < self._asked_until:
            wanted = max(wanted, self._asked)
        self.desired = wanted = 0 if self.draining else min(wanted, self.options.policy.most)
        while len(alive) < wanted and now >= self.retry_at:
            if (alive and self._starting.now >= self._starting.most) or not self._place(self):
                break
            try:
                if not self._starter.ready():
                    break
                self._start()
            except PreheatError as error:
                self._failed(error)
                break
            alive = self.alive
        surplus = len(alive) - wanted
        if surplus > 0:
            for one in self.idle[:surplus]:
                self.drain_one(one, SCALED_DOWN)
        self._dispatch()

    def drain_one(self, instance: Instance, why: str) -> None:
        """Let an instance answer what it has, and end it. ``why``: in words, for the log and the page."""
        instance.state, instance.drained_for = State.DRAINING, why
        self._task(self._drain(instance))

    def make_room(self) -> None:
        """Give an idle instance up for another pool's sake, and want it back when somebody asks only."""
        self.drain_one(self.idle[0], "it made room for another tenant's")
        self.scaler.forget()

    def renew(self) -> None:
        """Let every instance that there is end, and have others made."""
        for one in self.alive:
            self.drain_one(one, "its artifact or its app.py is another one by now")
        self.scale_soon()

    async def scale_to(self, count: int, timeout_s: float) -> bool:
        """As many instances as somebody asks for, ready or ended; the autoscaler goes on from there. Whether
        it came so in time."""
        policy = self.options.policy
        self.scaler.forget()
        self._asked, self._asked_until = count, math.inf
        self.retry_at = 0.0
        leaving = self.alive[count:]
        for one in leaving:
            self.drain_one(one, SCALED_DOWN)
        until = time.monotonic() + timeout_s
        self.scale_soon()
        try:
            while time.monotonic() < until:
                ended = all(one.state is State.ENDED for one in leaving)
                if ended and sum(one.state is State.READY for one in self.instances) >= count:
                    return True
                await asyncio.sleep(0.005)
            return False
        finally:
            self._asked_until = time.monotonic() + policy.stable_s + policy.grace_s

    def watch_memory(self) -> None:
        """End instances that are past their limit, where no control group holds it."""
        for one in self.alive:
            took = anonymous_mib(one.process.pid)
            if took is not None and took > self._limits.memory_mib:
                one.lines.append(f"it had {took:.0f} MiB; its limit is {self._limits.memory_mib} MiB")
                one.end_for("memory_limit")

    def shed_waiting(self, error: PreheatError) -> None:
        """Answer all that wait with an error."""
        while self.waiting:
            self._fail(self.waiting.popleft(), error)
        self._note()

    async def stop(self) -> None:
        """Drain every instance; returns when all have ended."""
        self.draining = True
        for one in self.alive:
            self.drain_one(one, "the gateway ends")
        await asyncio.gather(*self._lives, return_exceptions=True)

    def kill(self) -> None:
        """End every instance at once."""
        for one in self.instances:
            one.process.kill()

    def _free(self) -> Instance | None:
        """The instance for the next request: the ready one with the fewest, else one that starts; None for
        none."""
        places = self.options.concurrency
        ready = [one for one in self.alive if one.state is State.READY and one.in_flight < places]
        if ready:
            return min(ready, key=lambda one: one.in_flight)
        starting = (one for one in self.alive if one.state is State.STARTING and one.in_flight < AHEAD)
        return next(starting, None)

    def _bind(self, instance: Instance) -> Instance:
        instance.in_flight += 1
        instance.used = time.monotonic()
        self._note()
        return instance

    def _dispatch(self) -> None:
        while self.waiting:
            free = self._free()
            if free is None:
                return
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(self._bind(free))

    @staticmethod
    def _fail(place: asyncio.Future[Instance], error: PreheatError) -> None:
        if not place.done():
            place.set_exception(error)

    def _note(self) -> None:
        self.scaler.record(time.monotonic(), self.in_flight)

    def _start(self) -> None:
        """Start one more. Raises PreheatError."""
        name = f"{self.name}-{next(self._numbers)}"
        process, asked_ns = None, time.perf_counter_ns()
        output, written = os.pipe()
        try:
            with starts.listener() as listener:
                port = listener.getsockname()[1]
                start = starts.Start(listener, written, self._environ, self._limits.room(name))
                process = self._starter.start(start)
            self._records.add(process.pid)
        except (OSError, PreheatError) as error:
            os.close(output)
            if process is not None:
                process.kill()  # what cannot be recorded could be orphaned
            if isinstance(error, PreheatError):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            said = f"{name} was not started: {error.filename or 'its process'}: {error.strerror}"
            raise FailedStartError(said, code="disk_full" if full else "failed_start") from None
        finally:
            os.close(written)
        instance = Instance(
            name, self._starter.kind, self.tenant, process, port, output, asked_ns, self._moved
        )
        self.instances.append(instance)
        self._starting.now += 1
        self._task(instance.live(self.options.start_timeout_s, lambda: self._limits.killed(name)))
        if self._starter.warm:
            instance.mark_ready()

    def _moved(self, instance: Instance) -> None:
        """An instance became ready, or has ended."""
        if instance.state is State.READY:
            self._starting.now -= 1
            how = ", forked from its template" if instance.kind == "fork" else ""
            sys.stderr.write(f"{instance.name}  ready after {milliseconds(instance.ready_ms or 0.0)}{how}\n")
        else:
            sys.stderr.write(f"{instance.name}  {instance.said}\n")
            if instance.ready_ms is None:
                self._starting.now -= 1
            self.instances.remove(instance)
            self.ended.appendleft(instance)
            self._records.remove(instance.process.pid)
            self._limits.remove(instance.name)
            if instance.code != "stopped":
                self._failed(instance.error())
        self._note()
        self._dispatch()
        self.scale_soon()
        self._changed()

    def _failed(self, error: PreheatError) -> None:
        now = time.monotonic()
        self.error = error
        self.retry_at = now + BACK_OFF_S[min(self.failures, len(BACK_OFF_S) - 1)]
        self.failures += 1
        # A first failure may have been an accident: what was not sent to it waits for the next start.
        if now < self.retry_at and not self.alive:
            self.shed_waiting(self._failing(now))

    def _failing(self, now: float) -> PreheatError:
        """The function's last failure, for a request that was not sent to any instance."""
        assert self.error is not None  # noqa: S101 - it failed
        wait = max(math.ceil(self.retry_at - now), 1)
        return FailedStartError(
            f"{self.name} is not started again before {wait} s have passed, after {self.failures} failures: "
            f"{self.error}",
            code=self.error.code,
            retry_after=wait,
        )

    async def _drain(self, instance: Instance) -> None:
        while instance.in_flight and instance.process.running:
            await asyncio.sleep(0.005)
        instance.hang_up()
        await instance.process.stop(self.options.stop_s)
        await instance.over.wait()

    def _task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)
