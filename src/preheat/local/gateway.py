"""``preheat up``: one process that takes requests, starts instances for them and ends these again."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..adapters.sockets import EXHAUSTED, QUIET_S
from ..errors import InvalidRequestError, NotFoundError, ShedError
from ..server import GRACE_S, listen
from ..settings import Settings
from ..takeover import give_back
from .control import Control
from .door import Door
from .functions import CONTROL, Found
from .limits import Limits
from .messages import Request, Response
from .pool import Options, Starting
from .records import Records
from .served import Served

TICK_S = 0.25
"""Seconds between two looks at how many instances there are to be, beside those that a request brings
about."""
MAX_CONNECTIONS = 2048
"""Of clients; beyond these, they wait in the kernel's backlog."""
LARGE = 1 << 20
"""Bytes of a block that libc gives back to the system as soon as it is free."""
_M_MMAP_THRESHOLD = -3
GIVE_BACK_S = 5.0
"""Seconds between two times that what else is free is given back: bodies come in pieces, which leave a heap
of holes. It takes a fifth of a millisecond."""


class Gateway:
    """Everything that is up. ``listener``: the clients' socket."""

    def __init__(
        self,
        listener: socket.socket,
        found: Sequence[Found],
        options: Options,
        limits: Limits,
        records: Records,
    ) -> None:
        self.options = options
        self.limits = limits
        self.records = records
        self.began = time.time()
        self.draining = False
        self.starting = Starting(max(len(os.sched_getaffinity(0)) // 2, 1))
        self.functions = {one.name: Served(one, options, limits, records, self.starting) for one in found}
        self._listener = listener
        self._doors: set[Door] = set()
        self._accepting: set[asyncio.Task[object]] = set()
        self._listens = False
        self._control = Control(self)

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self, told: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT, then drain. ``told``: called when connections are taken. Gives the
        exit status: 0 when drained, 1 where something was cut off."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped, stop)
        self._listener.setblocking(False)
        self._listen(True)
        told()
        given_back = time.monotonic()
        while not stop.is_set():
            self._tick()
            if time.monotonic() > given_back + GIVE_BACK_S:
                give_back()
                given_back = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)
        return 0 if await self._drain() else 1

    async def answer(self, request: Request) -> Response:
        """The answer to a request, whatever it is for. Raises PreheatError for what is for nobody."""
        first, _, rest = request.path.lstrip("/").partition("/")
        if first == CONTROL:
            return await self._control.answer(request, rest)
        served = self.functions.get(first)
        if served is not None:
            return await served.answer(request, f"/{rest}", f"/{first}")
        if len(self.functions) == 1:
            (served,) = self.functions.values()
            return await served.answer(request, request.path)
        names = ", ".join(f"/{name}/" for name in self.functions)
        raise NotFoundError(f"there is no function at /{first}; there are {names} and /{CONTROL}/")

    def function(self, name: str) -> Served:
        """A function by its name. Raises NotFoundError."""
        if name not in self.functions:
            raise NotFoundError(f"there is no function {name!r}; there are {', '.join(self.functions)}")
        return self.functions[name]

    async def scale_to(self, name: str, count: object) -> bool:
        """As many instances of a function as asked for; whether it came so in time. Raises NotFoundError, and
        InvalidRequestError for a number that cannot be."""
        served, most = self.function(name), self.options.policy.most
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= most:
            raise InvalidRequestError(f'"instances" must be a whole number from 0 to {most}')
        if served.isolated and count:
            raise InvalidRequestError("each tenant has instances of its own; these can be scaled to 0 only")
        timeout_s = self.options.start_timeout_s + self.options.stop_s
        done = await asyncio.gather(*(pool.scale_to(count, timeout_s) for pool in served.pools.values()))
        return all(done)

    def _tick(self) -> None:
        for served in self.functions.values():
            served.scale()
        if not self._listens and len(self._doors) < MAX_CONNECTIONS and not self.draining:
            self._listen(True)

    def _listen(self, on: bool) -> None:
        loop = asyncio.get_running_loop()
        if on:
            loop.add_reader(self._listener, self._accept)
        else:
            loop.remove_reader(self._listener)
        self._listens = on

    def _accept(self) -> None:
        """Take in everybody who is there."""
        loop = asyncio.get_running_loop()
        while len(self._doors) + len(self._accepting) < MAX_CONNECTIONS:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    continue  # that client left again
                break  # no descriptors are left: some close, and the next tick listens again
            door = loop.connect_accepted_socket(lambda: Door(self.answer, self._doors), client)
            task: asyncio.Task[object] = loop.create_task(door)
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        self._listen(False)

    def _stopped(self, stop: asyncio.Event) -> None:
        if stop.is_set():  # the second one
            for served in self.functions.values():
                for pool in served.pools.values():
                    pool.kill()
            self.records.close()
            os._exit(130)
        stop.set()

    async def _drain(self) -> bool:
        """Answer what was accepted, then end the instances; whether all was answered in time."""
        self.draining = True
        if self._listens:
            self._accept()  # the kernel has taken them in already: they get an answer
        if self._listens:
            self._listen(False)
        self._listener.close()
        await asyncio.sleep(QUIET_S)
        for door in list(self._doors):
            door.drain()
        until = time.monotonic() + GRACE_S
        pools = [pool for served in self.functions.values() for pool in served.pools.values()]
        while self._doors and time.monotonic() < until:
            for pool in pools:
                pool.scale()
            if time.monotonic() > until - GRACE_S / 2:
                for pool in pools:
                    pool.shed_waiting(ShedError("the gateway is shutting down"))
            await asyncio.sleep(0.01)
        drained = not self._doors
        await asyncio.gather(*(served.stop() for served in self.functions.values()))
        self.limits.close()
        self.records.close()
        return drained


def run(
    found: Sequence[Found], options: Options, limits: Limits, *, host: str, port: int, state: Path
) -> int:
    """Bring functions up until SIGTERM or SIGINT. Gives the exit status. Raises UsageError where the address
    or the state folder cannot be had."""
    listener = listen(host, port)
    give_back_large_blocks()
    records = Records(state)
    gateway = Gateway(listener, found, options, limits, records)

    def told() -> None:
        say = sys.stderr.write
        if records.ended:
            say(f"ended {records.ended} instances that an earlier gateway had left\n")
        for name, served in gateway.functions.items():
            say(f"{name}  {served.found.location}  {gateway.address}/{name}/\n")
            if served.found.lacks:
                say(f"{name}  warning: {served.found.lacks}\n")
        for limit, how in limits.told().items():
            say(f"limit of {limit}: {how}\n")
        say(f"status page: {gateway.address}/{CONTROL}/; Ctrl-C ends it\n")
        sys.stderr.flush()

    return asyncio.run(gateway.run(told))


def give_back_large_blocks() -> None:
    """Have libc ask the system for each large block on its own (mallopt(3), M_MMAP_THRESHOLD). By itself
    glibc stops to do so after the first one is freed, and requests' bodies then leave a heap of holes: tens
    of MiB in half an hour of mixed load."""
    with contextlib.suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE)


def settings_of(environ: dict[str, str]) -> Settings:
    """The gateway's own address, from PREHEAT_HOST and PORT; on loopback where nothing is said: it has a
    control interface. Raises SettingsError."""
    own = {"PREHEAT_HOST": "127.0.0.1", **environ}
    return Settings.from_environ(own)
