"""One HTTP/1.1 connection on a socket of its own: keep-alive, pipelining, limits on everything it reads."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import httptools

from ..errors import InvalidRequestError, PreheatError, ShedError, TooLargeError
from ..service import Service, State
from .observe import refused
from .routes import HttpRequest, HttpResponse, add_header, from_error, respond

IDLE_S = 75.0
"""Seconds that a connection may lie idle between requests."""
READ_S = 30.0
"""Seconds that one request may take to arrive."""
MAX_HEAD = 64 * 1024
"""Bytes of request line and headers together."""
CHUNK = 256 * 1024

_REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    302: "Found",
    304: "Not Modified",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class _Broken(Exception):
    """The request cannot be read further: answer, then close."""

    def __init__(self, error: PreheatError, status: int | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


class Connection:
    """``other`` answers what is not a hot route, given the request and its query."""

    def __init__(
        self, client: socket.socket, service: Service, other: Callable[[HttpRequest, str], HttpResponse]
    ) -> None:
        self._socket = client
        self._service = service
        self._other = other
        self._idle = True
        self._head_size = 0
        self._new_request()
        self._done: list[tuple[HttpRequest, str, bool]] = []
        self._parser = httptools.HttpRequestParser(self)

    def run(self) -> None:
        """Serve requests until either side closes."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve()
        except (OSError, ValueError):
            pass  # the client left
        finally:
            self._socket.close()

    def refuse(self) -> None:
        """Shed a connection that there is no room for."""
        response = refused(self._service, from_error(self._service, ShedError("too many connections")))
        try:
            self._socket.settimeout(1)
            self._send(response, keep_alive=False)
        except OSError:
            pass
        finally:
            self._socket.close()

    def close_if_idle(self) -> None:
        """End a connection that waits for its next request; one that is busy ends after its answer."""
        if self._idle:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    def _serve(self) -> None:
        while True:
            try:
                if not self._read():
                    return
            except _Broken as broken:
                response = refused(self._service, from_error(self._service, broken.error))
                self._send(response._replace(status=broken.status or response.status), keep_alive=False)
                self._linger()
                return
            for request, query, keep_alive in self._done:
                response = respond(self._service, request) or self._other(request, query)
                # Asked after the answer is there: the server may have begun to drain meanwhile.
                keep_alive = keep_alive and self._service.state not in (State.DRAINING, State.FAILED)
                self._send(response, keep_alive, head=request.method == "HEAD")
                if not keep_alive:
                    return
            self._done.clear()

    def _read(self) -> bool:
        """Read until at least one request is whole; False where the client closed between requests."""
        deadline = None if self._idle else time.monotonic() + READ_S
        while not self._done:
            self._socket.settimeout(IDLE_S if deadline is None else max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(CHUNK)
            except TimeoutError:
                if self._idle:
                    return False
                raise _Broken(InvalidRequestError("the request did not arrive in time"), 408) from None
            if not data and self._idle:
                return False
            if not data:
                raise _Broken(InvalidRequestError("the connection ended before the request was whole"))
            if self._idle:
                self._idle, deadline = False, time.monotonic() + READ_S
            self._feed(data)
        return True

    def _feed(self, data: bytes) -> None:
        if not self._in_body:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # No protocol is spoken but this one: the request itself is whole, is answered, and is the last.
            self._done[-1] = (*self._done[-1][:2], False)
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Broken):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise _Broken(InvalidRequestError(f"not HTTP/1.1: {error}")) from None
        if not self._in_body and not self._done and self._head_size > MAX_HEAD:
            raise _Broken(TooLargeError(f"request line and headers are over {MAX_HEAD} bytes"))

    def _send(self, response: HttpResponse, keep_alive: bool, *, head: bool = False) -> None:
        """Head and body in one write: two would meet Nagle's algorithm and delayed acknowledgement."""
        lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        lines.append(f"content-length: {len(response.body)}")
        lines.append(f"date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime())}")
        lines.append(f"connection: {'keep-alive' if keep_alive else 'close'}")
        text = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self._socket.settimeout(READ_S)
        self._socket.sendall(text if head else text + response.body)
        self._idle = True

    def _linger(self) -> None:
        """Let the client read the answer before the unread rest of its request resets the connection."""
        self._socket.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 1.0
        self._socket.settimeout(0.2)
        while time.monotonic() < deadline and self._socket.recv(CHUNK):
            pass

    # Called by the parser, in this order

    def on_message_begin(self) -> None:
        self._new_request()

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_header(self, name: bytes, value: bytes) -> None:
        add_header(self._headers, name.lower(), value.strip())

    def on_headers_complete(self) -> None:
        self._in_body = True
        announced = self._headers.get("content-length", "")
        self._limit = self._service.max_bytes
        if announced.isdigit() and int(announced) > self._limit:
            raise _Broken(TooLargeError(f"the body has {announced} bytes; the limit is {self._limit}"))
        if self._headers.get("expect", "").lower() == "100-continue":
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise _Broken(TooLargeError(f"the body is larger than {self._limit} bytes"))
        self._body.append(part)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_size = 0
        try:
            url = httptools.parse_url(bytes(self._url))
            path, query = (url.path or b"/").decode(), (url.query or b"").decode("latin-1")
        except (httptools.HttpParserError, UnicodeDecodeError):
            raise _Broken(InvalidRequestError("the request's target is not a URL")) from None
        if "%" in path:
            from urllib.parse import unquote

            path = unquote(path)
        method = self._parser.get_method().decode()
        request = HttpRequest(method, path, self._headers, b"".join(self._body), time.perf_counter_ns())
        self._done.append((request, query, self._parser.should_keep_alive()))

    def _new_request(self) -> None:
        self._url = bytearray()
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._limit = 0
        self._in_body = False
