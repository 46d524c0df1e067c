"""One function that is up: whose request it is, which pool answers it, and what became of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from functools import partial
from typing import NamedTuple

from ..adapters import deadlines
from ..adapters.messages import HttpRequest
from ..errors import (
    CrashedError,
    FailedStartError,
    PreheatError,
    TimedOutError,
    UnavailableError,
    UsageError,
)
from ..principals import Principals
from .functions import Found
from .instance import Instance, State, UnsentError
from .limits import Limits
from .messages import Request, Response, placed, refusal, request_bytes
from .pool import Options, Pool, Starting
from .records import Records
from .starts import Fresh, Starter

RETRIES = 2
"""How often a request that may have run is sent again, where it has an Idempotency-Key."""
SLACK_S = 5.0
"""Seconds beyond a request's own time that an instance has to say that it is up."""
KEPT_PROBLEMS = 20


class Problem(NamedTuple):
    """A request that got no good answer from the gateway."""

    at: float
    """``time.time``."""
    status: int
    code: str
    said: str


class Served:
    """Raises SettingsError for keys that cannot be read, UsageError where tenants cannot be told apart."""

    def __init__(
        self, found: Found, options: Options, limits: Limits, records: Records, starting: Starting
    ) -> None:
        self.found = found
        self.options = options
        self.pools: dict[str, Pool] = {}
        """By tenant; one, under the empty name, where tenants share instances."""
        self.outcomes: Counter[str] = Counter()
        self.problems: deque[Problem] = deque(maxlen=KEPT_PROBLEMS)
        self.most_waiting = 0
        self._limits = limits
        self._records = records
        self._starting = starting
        self._numbers = itertools.count(1)
        self.starter: Starter = Fresh()
        if options.kind != "fresh":
            from .forking import Forked, adopt_orphans
            from .restoring import Restored

            adopt_orphans()
            make = Forked if options.kind == "fork" else partial(Restored, folder=records.folder)
            self.starter = make(
                found.name,
                found.environ,
                options.start_timeout_s,
                changed=self._changed,
                renewed=self._renewed,
                noted=records.add,
                forgotten=records.remove,
            )
        self._modes = found.settings.idempotency_modes()
        self.isolated = found.settings.isolate == "tenant"
        principals = Principals.from_settings(found.settings)  # what is wrong with the keys is told now
        if self.isolated and not principals.required:
            raise UsageError(
                f"{found.name}: PREHEAT_ISOLATE=tenant wants to know whose each request is: "
                "set PREHEAT_API_KEYS or PREHEAT_JWT_KEYS"
            )
        self._principals = principals if self.isolated else None
        if not self.isolated:
            self._pool("")

    async def answer(self, request: Request, path: str, prefix: str = "") -> Response:
        """The answer to a request, an instance's or the gateway's own; counted by its outcome. ``path``: as
        the function knows it; ``prefix``: what stands before it at the gateway."""
        try:
            response = placed(await self._answer(request, path, prefix), prefix)
        except PreheatError as error:
            response = refusal(error)
            self.problems.appendleft(Problem(time.time(), response.status, error.code, str(error)))
        except asyncio.CancelledError:
            self.outcomes["gone"] += 1
            raise
        outcome = response.header(b"x-preheat-outcome") or ("ok" if response.status < 400 else "rejected")
        self.outcomes[outcome] += 1
        return response

    def scale(self) -> None:
        """Decide anew how many instances there are to be."""
        self.starter.look()
        for tenant, pool in list(self.pools.items()):
            pool.scale()
            if self._limits.watches_memory:
                pool.watch_memory()
            unused = not pool.instances and not pool.in_flight and pool.desired == 0
            if self.isolated and unused and time.monotonic() >= pool.retry_at:
                del self.pools[tenant]

    async def _answer(self, request: Request, path: str, prefix: str) -> Response:
        headers = request.lowered()
        until_ns = request.arrived_ns + int(self.found.settings.timeout * 1e9)
        asked = HttpRequest("", path, headers, b"", request.arrived_ns)
        own = deadlines.shortest(asked)
        left_s = ((min(own, until_ns) if own else until_ns) - time.perf_counter_ns()) / 1e9
        until = time.monotonic() + left_s
        tenant = ""
        if self._principals is not None:
            # Keys of tokens may have to be fetched.
            tenant = await asyncio.to_thread(self._principals.of, headers)
        keyed = "idempotency-key" in headers and self._modes.get(path, self._modes[""]) != "off"
        pool, tries = self._pool(tenant), 0
        lost: UnavailableError | None = None
        while True:
            try:
                instance = await self._acquire(pool, until)
            except FailedStartError as error:
                raise lost or error from None  # what is told is that it may have run
            try:
                response = await self._ask(pool, instance, request, path, prefix, until)
            except UnsentError:
                continue
            except (CrashedError, FailedStartError) as error:
                # Only with a key is it the same request, however often it arrives.
                due = max(pool.retry_at, time.monotonic())
                if not keyed or not instance.killed or tries == RETRIES or due > until:
                    raise
                tries, lost = tries + 1, error
                await asyncio.sleep(due - time.monotonic())
                continue
            wait = response.header(b"retry-after")
            if lost is None or response.status != 409 or not wait.isdigit():
                return response
            # The instance that ended still holds the key, for as long as its lease has not lapsed.
            if time.monotonic() + int(wait) > until:
                return response
            await asyncio.sleep(int(wait))

    async def stop(self) -> None:
        """Drain every instance; returns when all have ended."""
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()))
        await self.starter.close()

    async def _acquire(self, pool: Pool, until: float) -> Instance:
        place = pool.acquire(until)
        self.most_waiting = max(self.most_waiting, len(pool.waiting) + 1)
        return await place

    async def _ask(
        self, pool: Pool, instance: Instance, request: Request, path: str, prefix: str, until: float
    ) -> Response:
        left_s = until - time.monotonic()
        if left_s <= 0:
            pool.release(instance)
            raise TimedOutError("the request's time was up before it was sent to an instance")
        data = request_bytes(request, path, prefix, left_s)
        sent = asyncio.ensure_future(instance.ask(data, left_s + SLACK_S, head=request.method == b"HEAD"))
        # The place is taken until the instance has answered, even where the client has left.
        sent.add_done_callback(lambda done: pool.release(instance, good=_good(done)))
        return await asyncio.shield(sent)

    def _pool(self, tenant: str) -> Pool:
        pool = self.pools.get(tenant)
        if pool is None:
            environ = {**self.found.environ, **({"PREHEAT_TENANT": tenant} if self.isolated else {})}
            pool = self.pools[tenant] = Pool(
                self.found.name,
                tenant,
                self.starter,
                environ,
                self.options,
                self._limits,
                self._records,
                self._numbers,
                self._starting,
                self._place,
                self._changed,
            )
        return pool

    def _place(self, pool: Pool) -> bool:
        """Whether a pool may have one more instance; where tenants have all that there may be, the one that
        lay idle longest makes room."""
        others = [one for one in self.pools.values() if one is not pool]
        if sum(len(one.instances) for one in self.pools.values()) < self.options.policy.most:
            return True
        leaving = any(one.state is State.DRAINING for other in others for one in other.instances)
        if pool.waiting and not pool.alive and not leaving:
            idle = [(one.used, other) for other in others for one in other.idle]
            if idle:
                min(idle, key=lambda found: found[0])[1].make_room()
        return False

    def _renewed(self) -> None:
        for pool in self.pools.values():
            pool.renew()

    def _changed(self) -> None:
        for pool in self.pools.values():
            if pool.waiting or pool.desired > len(pool.alive):
                pool.scale_soon()


def _good(done: asyncio.Future[Response]) -> bool:
    return not done.cancelled() and done.exception() is None and done.result().status < 500
