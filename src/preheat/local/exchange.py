"""Requests to an instance over loopback: connections kept, one request on each at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httptools

from .messages import Headers, Response

KEPT_S = 60.0
"""Seconds that a connection is used again: less than the 75 after which an instance closes an idle one."""


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.used = 0.0
        self.reusable = True
        self._answer: asyncio.Future[Response] | None = None
        self._head = False
        self._renew()

    def send(self, data: bytes, head: bool) -> asyncio.Future[Response]:
        self._answer = asyncio.get_running_loop().create_future()
        self._head = head
        self._renew()
        if self.transport is None or self.transport.is_closing():
            self._fail(ConnectionResetError("the connection was closed"))
        else:
            self.transport.write(data)
        return self._answer

    def close(self) -> None:
        self.reusable = False
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP/1.1: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fail(exc or ConnectionResetError("the connection ended before the answer was whole"))

    def _renew(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._reason = b""
        self._headers: Headers = []
        self._body: list[bytes] = []

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # Called by the parser

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._head:  # its length is told, and nothing follows
            self.on_message_complete()

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self.reusable = self.reusable and self._parser.should_keep_alive() and not self._head
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(status, self._reason, self._headers, b"".join(self._body)))
            self._body.clear()


class Exchange:
    """``port``: of the instance, on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, data: bytes, timeout_s: float, *, head: bool = False) -> Response:
        """Send one whole request, read one whole response. Raises TimeoutError, and OSError for a connection
        that ended first: then the request may have run."""
        connection = await self._connection()
        try:
            # wait_for would lose a cancellation that comes with the connection's end (python/cpython issue
            # 86296, mended in 3.12), and whoever asks again and again would go on.
            async with asyncio.timeout(timeout_s):
                response = await connection.send(data, head)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            connection.used = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Close the connections that nothing is sent on."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.used > time.monotonic() - KEPT_S:
                return connection
            connection.close()
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, "127.0.0.1", self._port
        )
        return connection
