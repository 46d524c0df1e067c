"""How an instance comes to be: one class a kind, each given the listening socket that the gateway opened.

The socket is handed over by systemd's protocol (sd_listen_fds(3)): so the gateway connects and sends at once,
and what it sent waits in the backlog until the instance reads it. Nothing polls for readiness on a request's
way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from ..server import FIRST_INHERITED
from ..snapshot.copies import ends_with
from .limits import enter

TOLD_S = 1.0
"""Seconds in which the end of another's child is told."""
LONGEST_LINE = 1 << 20
"""Bytes; a longer one is thrown away."""


class Start(NamedTuple):
    """What an instance is started with."""

    listener: socket.socket
    output: int
    """The descriptor that takes what it prints."""
    environ: Mapping[str, str]
    cgroup: str
    """The folder of its control group, which it enters before anything else; empty for none."""


class Starter(Protocol):
    """Starts the instances of one function."""

    @property
    def kind(self) -> str:
        """How the next instance starts."""
        ...

    @property
    def refused(self) -> str:
        """Why that is not how it was asked for; empty where it is."""
        ...

    @property
    def warm(self) -> bool:
        """Whether an instance is ready as soon as it is there."""
        ...

    def ready(self) -> bool:
        """Whether one can be started now; where not, somebody is called when it may be. Raises PreheatError
        where that has failed."""
        ...

    def start(self, start: Start) -> Process:
        """Start one. Raises OSError and PreheatError."""
        ...

    def look(self) -> None:
        """Called a few times a second: see to whatever instances are made of."""
        ...

    async def close(self) -> None:
        """End what instances are made of; they go on."""
        ...


class Fresh:
    """Instances that do the whole of their start."""

    kind = "fresh"
    refused = ""
    warm = False

    def ready(self) -> bool:
        return True

    def start(self, start: Start) -> Process:
        return Process(fresh(start))

    def look(self) -> None:
        """Nothing lasts between two starts."""

    async def close(self) -> None:
        """Nothing is left."""


def fresh(start: Start) -> int:
    """A process that does the whole of the start: the server, as ``preheat serve`` runs it. Gives its process
    id.

    It gets SIGTERM when the gateway dies, however that comes (prctl(2), PR_SET_PDEATHSIG). Raises OSError.
    """
    gateway = os.getpid()
    command = [sys.executable, "-m", "preheat.server"]
    # A signal that came between fork and exec would be the gateway's: handlers and their pipe are inherited.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if start.cgroup:
            enter(Path(start.cgroup))
        if not ends_with(gateway):
            os._exit(1)  # it died between the fork and the call
        os.setsid()  # Ctrl-C is the gateway's, which drains them
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        listener = os.dup(start.listener.fileno())  # above 3, where that is what it has now
        os.dup2(start.output, 1)
        os.dup2(start.output, 2)
        os.dup2(listener, FIRST_INHERITED)
        environ = {**start.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        os.execve(command[0], command, environ)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


class Process:
    """A started process, watched by its descriptor (pidfd_open(2)): its number is never another's.

    ``told``: its exit status by its number, None as long as nobody knows; left out for a child of this
    process.
    """

    def __init__(self, pid: int, told: Callable[[int], int | None] | None = None) -> None:
        self.pid = pid
        self.status: int | None = None
        """Its exit status, negative for a signal; None while it runs, and where nobody was told."""
        self._told = told or self._waited
        self._descriptor = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    async def wait(self) -> int | None:
        """Wait for its end; gives ``status``."""
        await self._ended.wait()
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def stop(self, grace_s: float) -> int | None:
        """SIGTERM, and SIGKILL where it has not ended after ``grace_s``; gives ``status``."""
        self.kill(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        self._look(time.monotonic() + TOLD_S)

    def _look(self, until: float) -> None:
        self.status = self._told(self.pid)
        if self.status is None and time.monotonic() < until:
            asyncio.get_running_loop().call_later(0.005, self._look, until)
            return
        os.close(self._descriptor)
        self._descriptor = -1
        self._ended.set()

    def _waited(self, _pid: int) -> int | None:
        found = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def listener() -> socket.socket:
    """A listening socket on loopback, on a port that the kernel chose. Raises OSError where none is left."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.bind(("127.0.0.1", 0))
        made.listen(1024)
    except OSError:
        made.close()
        raise
    return made


async def printed(output: int) -> AsyncGenerator[bytes]:
    """The lines that come out of a pipe, until its last writer is gone; ``output`` is closed then."""
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
    )
    try:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than the limit
            if not line:
                return
            yield line
    finally:
        transport.close()


def ended(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "it ended"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-status).name}"
    return f"it exited with {status}"
