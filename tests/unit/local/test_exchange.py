"""Requests to an instance: what ends them."""

from __future__ import annotations

import asyncio

import pytest

from preheat.local import exchange
from preheat.local.exchange import Exchange


class Sink(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> tuple[Exchange, exchange._Connection]:
    """An exchange whose next request goes over this connection."""
    made, connection = Exchange(1), exchange._Connection()
    connection.connection_made(Sink())

    async def connected() -> exchange._Connection:
        return connection

    monkeypatch.setattr(made, "_connection", connected)
    return made, connection


def test_a_cancelled_request_is_cancelled_though_its_connection_ends_at_the_same_time(
    asking: tuple[Exchange, exchange._Connection],
) -> None:
    """Where it was not, an instance that was killed while it started was probed until its start timeout."""
    made, connection = asking

    async def main() -> None:
        task = asyncio.create_task(made.ask(b"GET / HTTP/1.1\r\n\r\n", 5))
        await asyncio.sleep(0.01)
        connection.connection_lost(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_request_without_an_answer_ends_in_time(asking: tuple[Exchange, exchange._Connection]) -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(asking[0].ask(b"GET / HTTP/1.1\r\n\r\n", 0.05))
