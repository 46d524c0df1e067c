"""One run: forks workers and clients, starts anew what dies, thaws what froze, reads every key at the end.

It imports everything and opens nothing before it forks, so that a worker's death costs milliseconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol

from preheat.errors import InProgressError

from . import client, engines, tcp_fault_proxy, worker
from .history import Kind, Recorder, digest
from .plan import CLIENTS, WORKERS, Plan

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CLIENTS_OF = {
    "sqlite": ["sqlite3"],
    "redis": ["redis"],
    "postgresql": ["psycopg"],
    "dynamodb": ["boto3"],
    "http": ["boto3", "aws_lambda_powertools.utilities.idempotency"],
}


class Server(Protocol):
    """The store's process, as tests.servers has them."""

    port: int

    def start(self) -> None: ...
    def kill(self) -> None: ...


class RunError(Exception):
    """The run itself did not come to its end: a client hung, a worker fell over, the deadline passed."""


class Supervisor:
    def __init__(self, plan: Plan, server: Server | None) -> None:
        self.plan = plan
        self.server = server
        self.record = Recorder(plan.folder, "supervisor")
        self._until = time.monotonic() + plan.config.deadline
        self._workers: list[int] = [0] * WORKERS
        self._generations = [0] * WORKERS
        self._frozen: dict[int, float] = {}
        """Slots of stopped workers, and when they go on."""
        self._deaths = 0
        self._restarts = 0
        self._proxy = 0

    def run(self) -> None:
        """Raises RunError. Whatever it started has ended when it returns."""
        (self.plan.folder / "once").mkdir()
        for module in CLIENTS_OF[self.plan.config.url.partition(":")[0]] + ["time_machine"]:
            importlib.import_module(module)
        self._place_proxy()
        gc.freeze()
        clients: dict[int, int] = {}
        try:
            for slot in range(WORKERS):
                self._start(slot)
            for number in range(CLIENTS):
                clients[self._fork(lambda number=number: client.Client(self.plan, number).run())] = number
            while clients:
                for pid in list(clients):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        number = clients.pop(pid)
                        if status:
                            raise RunError(f"client {number} ended with status {status}: {self.said()}")
                self._mind()
                if time.monotonic() > self._until:
                    raise RunError(f"not done after {self.plan.config.deadline:.0f} s: {self.said()}")
                time.sleep(0.004)
            for slot in list(self._frozen):
                self._thaw(slot)
        finally:
            for pid in [*clients, *self._workers, self._proxy]:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        self._read_all()

    def said(self) -> str:
        """The last of what the processes wrote to their standard error."""
        path = self.plan.folder / "stderr"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(line for line in lines if engines.STALLED not in line)[-3000:]

    def _place_proxy(self) -> None:
        """The workers' way to the store leads through it; the supervisor's does not."""
        if self.plan.config.faults and self.server is not None:
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            port, config = self.server.port, self.plan.config
            self._proxy = self._fork(
                lambda: tcp_fault_proxy.run(
                    listener, port, config.faults, config.seed, Recorder(self.plan.folder, "proxy")
                )
            )
            self.plan.through(listener.getsockname()[1], port)
            listener.close()

    def _mind(self) -> None:
        """Look after the workers and the store."""
        for slot, pid in enumerate(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if not ended:
                continue
            if os.WIFSTOPPED(status):
                self._frozen[slot] = time.monotonic() + 1.5 * self.plan.config.lease
                continue
            self._workers[slot] = 0
            if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                raise RunError(f"worker {slot} ended with status {status}: {self.said()}")
            self._deaths += 1
            self._start(slot)
        for slot, at in list(self._frozen.items()):
            if time.monotonic() >= at:
                self._thaw(slot)
        config = self.plan.config
        if (
            self.server is not None
            and self._restarts < config.restarts
            and self._deaths >= config.kills * (self._restarts + 1) / (config.restarts + 1)
        ):
            self._restarts += 1
            self.record(Kind.DOWN, value="store")
            self.server.kill()
            self.server.start()
            self.record(Kind.UP, value="store")

    def _thaw(self, slot: int) -> None:
        del self._frozen[slot]
        self.record(Kind.THAWED, value=f"w{slot}.{self._generations[slot]}")
        os.kill(self._workers[slot], signal.SIGCONT)

    def _start(self, slot: int) -> None:
        self._generations[slot] += 1
        generation = self._generations[slot]
        self._workers[slot] = self._fork(lambda: worker.run(self.plan, slot, generation))

    def _fork(self, life: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            self._live(life)
        return pid

    def _live(self, life: Callable[[], object]) -> NoReturn:
        """A child's whole life: nothing of the parent's stack runs in it."""
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nothing outlives the run
            file = os.open(self.plan.folder / "stderr", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.dup2(file, 2)
            status = 0 if life() in (None, True) else 3
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)

    def _read_all(self) -> None:
        """Ask for every key once more: what it replays now is what its clients were told."""
        engine = engines.make(self.plan.straight)

        def nothing() -> bytes:
            raise LookupError

        for key in self.plan.keys:
            try:
                self.record(
                    Kind.FINAL, key, value=digest(engine.run(key, worker.OWN_PAYLOAD, nothing, wait=0.0))
                )
            except (LookupError, InProgressError):
                self.record(Kind.FINAL, key)
