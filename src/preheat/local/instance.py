"""One instance: its process, its connections, what it printed, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

from ..errors import CrashedError, FailedStartError, PreheatError, TimedOutError
from .exchange import Exchange
from .messages import Response
from .starts import Process, ended, printed

PROBE_S = 0.05
"""Seconds between two questions whether it is ready: as Knative's queue-proxy asks."""
PROBE_TIMEOUT_S = 5.0
KEPT_LINES = 20
_FULL = ("No space left on device", "Disk quota exceeded", "no space left in ")
"""How a full disk is told (errno(3), ENOSPC and EDQUOT), and a full cache (cache.py)."""
_READY = b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n"
_REPORT = b"GET /coldstart HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n"
_STARTED = (b'{"message": "cold start", ', b'{"message": "restored", ')


class UnsentError(Exception):
    """An instance that ends takes no connection any more: the request was not sent, and is another one's."""


class State(Enum):
    STARTING = "starting"
    """Its process runs; what was sent to it waits for readiness."""
    READY = "ready"
    DRAINING = "draining"
    """It gets nothing more, answers what it has and ends."""
    ENDED = "ended"


class Instance:
    """``changed``: called when it became ready, and when it has ended."""

    def __init__(
        self,
        name: str,
        kind: str,
        tenant: str,
        process: Process,
        port: int,
        output: int,
        asked_ns: int,
        changed: Callable[[Instance], None],
    ) -> None:
        self.name = name
        self.id = ""
        """As it tells it with every answer; empty until the first."""
        self.kind = kind
        """How it started, as far as is known: it tells it in its report where that was not as asked for."""
        self.tenant = tenant
        self.process = process
        self.port = port
        self.state = State.STARTING
        self.born = time.time()
        self.ready_ms: float | None = None
        """From the moment in which the gateway asked for it until it knew of its readiness; of a clone: until
        it was forked, as it has its model from then on."""
        self.in_flight = 0
        self.answered = 0
        self.used = time.monotonic()
        """When it had a request last."""
        self.report: dict[str, Any] | None = None
        """Its own report of its start, as ``GET /coldstart`` gives it."""
        self.why = ""
        """Why the gateway ends it, as a slug, where that is not for want of work: never_ready,
        memory_limit."""
        self.drained_for = ""
        """Why the gateway lets it end, in words; empty where it does not."""
        self.code = ""
        """How it ended, as a slug; empty while it runs."""
        self.said = ""
        """The same in words."""
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.closed = False
        """Whether it refused a connection: it ends, though nobody has told it to."""
        self.over = asyncio.Event()
        self._was = State.STARTING
        self._exchange = Exchange(port)
        self._output = output
        self._asked_ns = asked_ns
        self._changed = changed

    @property
    def alive(self) -> bool:
        """Whether it takes requests, or will."""
        return self.state in (State.STARTING, State.READY) and not self.closed

    @property
    def killed(self) -> bool:
        """Whether a signal ended it: then nobody knows how far it came with what it had."""
        return self.process.status is not None and self.process.status < 0

    async def live(self, start_timeout_s: float, killed: Callable[[], bool]) -> None:
        """See it through, from its start to its end. ``killed``: whether the kernel ended it for its
        memory."""
        reader = asyncio.create_task(self._read())
        prober = asyncio.create_task(self._probe(start_timeout_s))
        status = await self.process.wait()
        prober.cancel()
        with contextlib.suppress(TimeoutError):  # a process that it left behind may keep the pipe open
            await asyncio.wait_for(reader, 0.5)
        await asyncio.gather(prober, reader, return_exceptions=True)
        self._was, self.state = self.state, State.ENDED
        self._exchange.close()
        self.code = self._code(killed())
        last = self.lines[-1] if self.lines and self.code != "stopped" else ""
        self.said = "; ".join(filter(None, (self.drained_for, ended(status)))) + (f": {last}" if last else "")
        self.over.set()
        self._changed(self)

    async def ask(self, data: bytes, timeout_s: float, *, head: bool) -> Response:
        """Send a whole request. Raises TimedOutError, UnsentError; and where it ended before the answer was
        whole, what ``error`` gives."""
        try:
            response = await self._exchange.ask(data, timeout_s, head=head)
        except TimeoutError:
            raise TimedOutError("the instance did not answer in time, and may still be at it") from None
        except ConnectionRefusedError:
            self.closed = True
            raise UnsentError from None
        except OSError as error:
            # The connection's end is seen before the process's.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 2.0)
            raise self.error(str(error)) from None
        self.id = response.header(b"x-preheat-instance") or self.id
        if self.state is State.STARTING and response.header(b"x-preheat-start"):
            self.mark_ready()
        elif self.state is State.STARTING and response.status == 503:
            # An instance whose start failed answers those who wait before it ends; the gateway knows more.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), 5.0)
                raise self.error()
            if tells_of_a_full_disk([response.body.decode(errors="replace")]):  # it is long in ending
                raise FailedStartError(
                    f"an instance did not start: {response.body.decode()}", code="disk_full"
                )
        if self.answered == 0:
            asyncio.get_running_loop().call_later(0.1, self._ask_report)
        self.answered += 1
        return response

    def error(self, said: str = "") -> PreheatError:
        """What a request gets that was sent to it and has no answer: the end of the instance, by its
        cause."""
        if self.code == "never_ready":
            return TimedOutError(f"the function did not become ready: {self.said}", code=self.code)
        words = f"an instance ended: {self.said}" if self.code else f"an instance did not answer: {said}"
        if self.code and self._was is State.STARTING:
            words = f"an instance did not start: {self.said}"
            if self.killed:  # perhaps in the very moment in which it became ready
                words += "; what was sent to it may have run"
            return FailedStartError(words, code=self.code)
        return CrashedError(
            f"{words}; the request may have run",
            code=self.code if self.code in ("memory_limit", "disk_full") else "crashed",
        )

    def hang_up(self) -> None:
        """Close the connections to it, which it would wait for before it ends."""
        self._exchange.close()

    def mark_ready(self) -> None:
        """It has said so, or has run a request."""
        if self.state is State.STARTING:
            self.state = State.READY
            self.ready_ms = (time.perf_counter_ns() - self._asked_ns) / 1e6
            if self.in_flight == 0:
                self._ask_report()
            self._changed(self)

    def end_for(self, why: str) -> None:
        """Kill it at once, for a reason that those who wait for it are told."""
        self.why = why
        self.process.kill()

    def _code(self, killed: bool) -> str:
        if self.why or killed:
            return self.why or "memory_limit"
        if self._was is State.DRAINING:
            return "stopped"
        if tells_of_a_full_disk(self.lines):
            return "disk_full"
        return "failed_start" if self._was is State.STARTING else "crashed"

    async def _probe(self, start_timeout_s: float) -> None:
        """Ask whether it is ready until it is, beside the requests that wait for it."""
        until = time.monotonic() + start_timeout_s
        while self.state is State.STARTING:
            await asyncio.sleep(PROBE_S)
            if time.monotonic() > until:
                self.lines.append(f"it was not ready within {start_timeout_s:g} s")
                self.end_for("never_ready")
                return
            if self.state is State.STARTING:
                with contextlib.suppress(OSError):  # TimeoutError is one
                    response = await self._exchange.ask(_READY, min(PROBE_TIMEOUT_S, start_timeout_s))
                    if response.status == 200:
                        self.mark_ready()

    def _ask_report(self) -> None:
        self._reporting = asyncio.create_task(self._fetch_report())

    async def _fetch_report(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            response = await self._exchange.ask(_REPORT, PROBE_TIMEOUT_S)
            if response.status == 200:
                self._reported(json.loads(response.body))

    def _reported(self, report: dict[str, Any]) -> None:
        self.report = report
        if report.get("not_restored"):
            self.kind = "fresh"

    async def _read(self) -> None:
        """Pass on what it prints, and keep the last lines; its line on its start says that it is ready."""
        async with contextlib.aclosing(printed(self._output)) as lines:
            async for line in lines:
                if line.startswith(_STARTED):
                    with contextlib.suppress(ValueError):
                        self._reported(json.loads(line))
                    self.mark_ready()
                    continue
                text = line.decode(errors="replace").rstrip()
                sys.stderr.write(f"{self.name}  {text}\n")
                if text.strip() and not text.startswith("{"):
                    self.lines.append(text.strip()[:500])


def tells_of_a_full_disk(lines: Iterable[str]) -> bool:
    """Whether one of what a process printed says so."""
    return any(words in line for line in lines for words in _FULL)
