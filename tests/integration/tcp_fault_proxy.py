"""A TCP proxy that cuts and delays some of what goes through it: nobody knows whether a call was done."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from enum import StrEnum

from .history import Kind, Recorder

DELAY_S = (0.02, 0.4)
PIECE = 64 * 1024


class Fault(StrEnum):
    UNSENT = "cut before the store got it"
    UNHEARD = "cut after the store got it, its answer lost"
    TORN = "cut in the middle of the answer"
    LATE = "request delayed"
    LATE_ANSWER = "answer delayed"


CUTS = (Fault.UNSENT, Fault.UNHEARD, Fault.TORN)
DELAYS = (Fault.LATE, Fault.LATE_ANSWER)


class FaultProxy:
    """Before the server on ``port`` of loopback. ``share`` of the requests are cut, as many are delayed."""

    def __init__(self, listener: socket.socket, port: int, share: float, seed: int, record: Recorder) -> None:
        self._record = record
        self._listener = listener
        self._port = port
        self._share = share
        self._chance = random.Random(seed)

    async def serve(self) -> None:
        """Until it is cancelled."""
        server = await asyncio.start_server(self._connected, sock=self._listener)
        async with server:
            await server.serve_forever()

    def _draw(self) -> Fault | None:
        drawn = self._chance.random()
        if drawn < self._share:
            return self._chance.choice(CUTS)
        if drawn < 2 * self._share:
            return self._chance.choice(DELAYS)
        return None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()  # the server is away
            return
        faults: list[Fault] = []
        pumps = [
            asyncio.ensure_future(self._requests(reader, there[1], faults)),
            asyncio.ensure_future(self._answers(there[0], writer, faults)),
        ]
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pending:
            pump.cancel()
        for side in (writer, there[1]):
            side.close()
            with contextlib.suppress(OSError):
                await side.wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: list[Fault]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                fault = self._draw()
                if fault is not None:
                    self._record(Kind.FAULT, value=fault)
                if fault is Fault.UNSENT:
                    return
                if fault is Fault.LATE:
                    await asyncio.sleep(self._chance.uniform(*DELAY_S))
                elif fault is not None:
                    faults.append(fault)
                writer.write(piece)
                await writer.drain()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: list[Fault]
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                fault = faults.pop() if faults else None
                if fault is Fault.UNHEARD:
                    return
                if fault is Fault.TORN:
                    writer.write(piece[: len(piece) // 2])
                    await writer.drain()
                    return
                if fault is Fault.LATE_ANSWER:
                    await asyncio.sleep(self._chance.uniform(*DELAY_S))
                writer.write(piece)
                await writer.drain()


def run(listener: socket.socket, port: int, share: float, seed: int, record: Recorder) -> None:
    """The life of the proxy's process."""
    asyncio.run(FaultProxy(listener, port, share, seed, record).serve())
