"""The gateway's own connections: HTTP/1.1 parsed by llhttp, keep-alive, pipelining, limits on what is
read."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import httptools

from ..adapters.connection import IDLE_S, MAX_HEAD, READ_S, without_upgrade
from ..errors import InvalidRequestError, PreheatError, TooLargeError
from .messages import Headers, Request, Response, own, refusal, response_bytes

MAX_BODY = 64 * 1024**2
"""Bytes; an artifact's own limit, which an instance holds, is mostly lower."""
MAX_PIPELINED = 64
"""Whole requests of one connection that may wait for their answers."""

Handler = Callable[[Request], Awaitable[Response]]


def _too_long() -> TooLargeError:
    return TooLargeError(f"request line and headers are over {MAX_HEAD} bytes")


class Door(asyncio.Protocol):
    """One client's connection. ``open_doors``: where it notes itself while it is open."""

    def __init__(self, handler: Handler, open_doors: set[Door]) -> None:
        self._handler = handler
        self._doors = open_doors
        self._requests: deque[tuple[Request, bool]] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._broken: PreheatError | None = None
        self._closing = False
        self._begun = False
        self._head_size = 0
        self._renew()
        self._parser: Any = httptools.HttpRequestParser(self)

    @property
    def busy(self) -> bool:
        return self._answering is not None

    def drain(self) -> None:
        """Take no further request; close when what was taken is answered."""
        self._closing = True
        if not self.busy and not self._begun:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's
        self._transport = transport
        self._doors.add(self)
        self._expect(IDLE_S)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._doors.discard(self)
        self._body.clear()
        self._expect(None)
        if self._answering is not None:
            self._answering.cancel()  # what still waits in a queue need not run

    def data_received(self, data: bytes) -> None:
        if self._broken is not None:
            return
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, PreheatError):
                raise
            self._broken = error.__context__
        except httptools.HttpParserError as error:
            self._broken = InvalidRequestError(f"not HTTP/1.1: {error}")
        except TooLargeError as error:
            self._broken = error
        self._proceed()

    def _feed(self, data: bytes) -> None:
        if not self._in_body:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            request, _ = self._requests.pop()
            if request.method == b"CONNECT":
                self._requests.append((request, False))  # what follows is a tunnel's
            else:
                version = self._parser.get_http_version()
                head = without_upgrade(request.method, bytes(self._url), version, request.headers)
                self._parser = httptools.HttpRequestParser(self)
                self._feed(head + data[upgrade.args[0] :])
        if not self._in_body and not self._requests and self._head_size > MAX_HEAD:
            raise _too_long()

    def _read_of_head(self, size: int) -> None:
        self._of_head += size
        if self._of_head > MAX_HEAD:
            raise _too_long()

    def _proceed(self) -> None:
        if self._answering is None and (self._requests or self._broken is not None):
            self._expect(None)
            self._answering = asyncio.get_running_loop().create_task(self._answer())
        elif self._answering is None:
            self._expect(READ_S if self._begun else IDLE_S)
        if len(self._requests) >= MAX_PIPELINED:
            self._transport.pause_reading()

    async def _answer(self) -> None:
        while self._requests:
            request, keep_alive = self._requests.popleft()
            try:
                response = await self._handler(request)
            except PreheatError as error:
                response = refusal(error)
            except Exception:  # a defect of ours: the client learns no internals
                traceback.print_exc(file=sys.stderr)
                body = b'{"error": "the gateway met a defect; its log has it", "code": "internal"}'
                response = own(500, body, "application/json", ("x-preheat-outcome", "failed"))
            keep_alive = keep_alive and not self._closing
            self._transport.write(response_bytes(response, keep_alive, head=request.method == b"HEAD"))
            if not keep_alive:
                self._transport.close()
                break
        else:
            if self._broken is not None:
                self._transport.write(response_bytes(refusal(self._broken), keep_alive=False))
                self._transport.close()
        self._answering = None
        if not self._transport.is_closing():
            self._transport.resume_reading()
            if self._closing and not self._begun:
                self._transport.close()
            self._proceed()

    def _expect(self, seconds: float | None) -> None:
        """Close the connection unless something comes within some seconds; None: whenever it comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.close)

    # Called by the parser, in this order

    def on_message_begin(self) -> None:
        self._begun = True
        self._renew()

    def on_url(self, part: bytes) -> None:
        self._url += part
        self._read_of_head(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.strip()))
        self._read_of_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._in_body = True
        for name, value in self._headers:
            if name.lower() == b"content-length" and value.isdigit() and int(value) > MAX_BODY:
                raise TooLargeError(f"the body has {int(value)} bytes; the gateway's limit is {MAX_BODY}")
            if name.lower() == b"expect" and value.lower() == b"100-continue":
                with contextlib.suppress(OSError):
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_BODY:
            raise TooLargeError(f"the body is larger than {MAX_BODY} bytes")
        self._body.append(part)

    def on_message_complete(self) -> None:
        self._begun = self._in_body = False
        self._head_size = 0
        try:
            url = httptools.parse_url(bytes(self._url))
            path = (url.path or b"/").decode("ascii")
        except (httptools.HttpParserError, UnicodeDecodeError):
            raise InvalidRequestError("the request's target is not a URL") from None
        method = self._parser.get_method()
        body = b"".join(self._body)
        self._body.clear()  # this lives as long as the connection, and in a cycle with its parser after that
        request = Request(method, path, url.query or b"", self._headers, body, time.perf_counter_ns())
        self._requests.append((request, self._parser.should_keep_alive()))

    def _renew(self) -> None:
        self._of_head = 0
        self._url = bytearray()
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._size = 0
        self._in_body = False
