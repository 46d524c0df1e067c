"""One HTTP/1.1 connection: keep-alive, pipelining, limits on everything it reads. It knows no threads."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING

import httptools

from ..errors import InvalidRequestError, PreheatError, TooLargeError
from ..service import Service, State
from .heads import Head
from .messages import HttpRequest, HttpResponse, Sender, add_header
from .observe import refused
from .responses import from_error
from .routes import respond
from .wire import encoded, encoded_refusal

if TYPE_CHECKING:
    from ..admission import Place

IDLE_S = 75.0
"""Seconds that a connection may lie idle between requests."""
READ_S = 30.0
"""Seconds that one request may take to arrive."""
LINGER_S = 1.0
"""Seconds that a client has to read an error before the rest of its request is cut off."""
MAX_HEAD = 64 * 1024
"""Bytes of request line and headers together."""
CHUNK = 64 * 1024
"""Bytes that are read at once; from 128 KiB on, glibc may fetch them from the kernel for each read."""


class _Broken(Exception):
    """The request cannot be read further: answer, then close."""

    def __init__(self, error: PreheatError, status: int | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.status = status


def _too_long() -> _Broken:
    return _Broken(TooLargeError(f"request line and headers are over {MAX_HEAD} bytes"))


class Next(Enum):
    """What a connection waits for."""

    READ = "read"
    """Bytes of its client."""
    ANSWER = "answer"
    """A thread that calls ``answer``."""
    SEND = "send"
    """Its client to take what was not sent yet."""
    END = "end"
    """Nothing more: it can be closed."""


class Connection:
    """Never blocks on its socket. ``other`` answers what is not a hot route, given the request and its query.

    One thread at a time calls ``receive``, ``answer``, ``flush`` or ``overdue``, and each says what is next.
    """

    def __init__(
        self, client: socket.socket, service: Service, other: Callable[[HttpRequest, str], HttpResponse]
    ) -> None:
        client.setblocking(False)
        self.socket = client
        self.descriptor = client.fileno()
        self.next = Next.READ
        self.watched: tuple[select.epoll, int] | None = None
        """Where it is waited for, and with which events; None: nowhere."""
        self.refused = False
        """Whether its last request found no place."""
        self.idle = True
        """Whether it is between two requests."""
        self.lost: PreheatError | None = None
        """Why no request of it is answered; None where they are."""
        self._since = time.monotonic()
        self._lingers = False
        self._service = service
        self._other = other
        self._head_size = 0
        self._begun = False
        self._new_request()
        self._head: Head | None = None
        """The last request's."""
        self._done: deque[tuple[HttpRequest, str, bool]] = deque()
        self._broken: _Broken | None = None
        self._unsent = b""
        self._last = False
        self._parser = httptools.HttpRequestParser(self)
        # Fails where the client has left already, which reading will tell.
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> Next:
        """Take what has come."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return self._then(Next.READ)
        except OSError:
            return self._then(Next.END)  # the client left
        if self._lingers:
            return self._then(Next.READ if data else Next.END)
        if not data and self.idle:
            return self._then(Next.END)
        first = self.idle
        if first:
            self.idle, self._since = False, time.monotonic()
        try:
            if self.lost is not None:
                raise _Broken(self.lost)
            if not data:
                raise _Broken(InvalidRequestError("the connection ended before the request was whole"))
            if not (first and self._known(data)):
                self._feed(data)
                if first and len(self._done) == 1 and not self._begun and self._done[0][2]:
                    self._head = Head.of(data, *self._done[0][:2])
        except _Broken as broken:
            self._broken = broken
        return self._then(Next.ANSWER if self._done or self._broken else Next.READ)

    def answer(self) -> Next:
        """Answer the requests that are whole, in their order."""
        self.refused = False
        while self._done:
            request, query, keep_alive = self._done.popleft()
            began = time.thread_time()
            try:
                response = respond(self._service, request) or self._other(request, query)
            finally:
                self._leave(request, time.thread_time() - began)
            # Asked after the answer is there: the server may have begun to drain meanwhile.
            keep_alive = keep_alive and self._service.state not in (State.DRAINING, State.FAILED)
            self._unsent = encoded(response, keep_alive, head=request.method == "HEAD")
            self._last = not keep_alive
            self._since = time.monotonic()
            if self.flush() is not Next.ANSWER:
                return self.next
        if self._broken is not None:
            broken, self._broken = self._broken, None
            response = refused(self._service, from_error(self._service, broken.error))
            response = response._replace(status=broken.status or response.status)
            self._unsent, self._last, self._lingers = encoded(response, keep_alive=False), True, True
        return self.flush()

    def refuse(self, response: HttpResponse) -> Next:
        """Answer the first request with this instead."""
        self.refused, self._since = True, time.monotonic()
        request, _, keep_alive = self._done.popleft()
        keep_alive = keep_alive and self._service.state not in (State.DRAINING, State.FAILED)
        self._unsent = encoded_refusal(response, keep_alive, head=request.method == "HEAD")
        self._last = not keep_alive
        return self.flush()

    def flush(self) -> Next:
        """Send as much as the client takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            if self._last and self._lingers:
                # The client reads the answer before the unread rest of its request resets the connection.
                self.socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return self._then(Next.SEND)
        except OSError:
            return self._then(Next.END)
        if self._last:
            self._since = time.monotonic()
            return self._then(Next.READ if self._lingers else Next.END)
        if self._done or self._broken is not None:
            return self._then(Next.ANSWER)
        self.idle, self._since = not self._begun, time.monotonic()
        return self._then(Next.READ)

    def is_overdue(self, now: float) -> bool:
        """Whether its time is up; ``now``: of ``time.monotonic``."""
        if self._lingers and not self._unsent:
            return now > self._since + LINGER_S
        return now > self._since + (IDLE_S if self.idle and self.next is Next.READ else READ_S)

    def overdue(self) -> Next:
        """What becomes of it then."""
        if self._lingers or self.idle or self.next is Next.SEND:
            return self._then(Next.END)
        return self.cut(InvalidRequestError("the request did not arrive in time"), 408)

    def cut(self, error: PreheatError, status: int | None = None) -> Next:
        """Answer a request with an error although it is not whole, and close."""
        self._broken = _Broken(error, status)
        return self._then(Next.ANSWER)

    @property
    def first(self) -> HttpRequest | None:
        """The first request that waits for ``answer``."""
        return self._done[0][0] if self._done else None

    def hold(self, place: Place) -> None:
        """Have the first request keep a place until it is answered."""
        request, query, keep_alive = self._done[0]
        self._done[0] = request._replace(place=place), query, keep_alive

    def close(self) -> None:
        for request, _, _ in self._done:
            self._leave(request)
        self._done.clear()  # a thread that could not be had may come to it yet
        self._body.clear()
        self.socket.close()

    def _then(self, following: Next) -> Next:
        self.next = following
        return following

    def _leave(self, request: HttpRequest, took_s: float = 0.0) -> None:
        """Give its place back; ``took_s``: CPU time of this thread to answer it."""
        place = request.place
        if place is not None:
            if took_s:
                self._service.admission.used(place, took_s - place.counted)
            self._service.admission.leave(place)

    def _known(self, data: bytes) -> bool:
        """Take a request without the parser, if it has the last one's head."""
        if self._head is None:
            return False
        request = self._head.again(data, self._service.max_bytes)
        if request is None:
            return False
        self._done.append((request, self._head.query, True))
        return True

    def _feed(self, data: bytes) -> None:
        if not self._in_body:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                self._done[-1] = (*self._done[-1][:2], False)  # what follows is a tunnel's
            else:
                self._done.pop()
                version = self._parser.get_http_version()
                headers = ((n.encode("latin-1"), v.encode("latin-1")) for n, v in self._headers.items())
                head = without_upgrade(self._parser.get_method(), bytes(self._url), version, headers)
                self._parser = httptools.HttpRequestParser(self)
                self._feed(head + data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Broken):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise _Broken(InvalidRequestError(f"not HTTP/1.1: {error}")) from None
        if not self._in_body and not self._done and self._head_size > MAX_HEAD:  # a line without an end
            raise _too_long()

    def _read_of_head(self, size: int) -> None:
        self._of_head += size
        if self._of_head > MAX_HEAD:
            raise _too_long()

    # Called by the parser, in this order

    def on_message_begin(self) -> None:
        self._begun = True
        self._new_request()

    def on_url(self, part: bytes) -> None:
        self._url += part
        self._read_of_head(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._read_of_head(len(name) + len(value) + 4)
        add_header(self._headers, name.lower(), value.strip())

    def on_headers_complete(self) -> None:
        self._in_body = True
        announced = self._headers.get("content-length", "")
        self._limit = self._service.max_bytes
        if announced.isdigit() and int(announced) > self._limit:
            raise _Broken(TooLargeError(f"the body has {announced} bytes; the limit is {self._limit}"))
        if self._headers.get("expect", "").lower() == "100-continue":
            with contextlib.suppress(OSError):  # a client that does not read must do without
                self.socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            raise _Broken(TooLargeError(f"the body is larger than {self._limit} bytes"))
        self._body.append(part)

    def on_message_complete(self) -> None:
        self._begun = self._in_body = False
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
        now = time.perf_counter_ns()
        request = HttpRequest(method, path, self._headers, b"".join(self._body), now, sender=Sender())
        self._body.clear()  # this lives as long as the connection, and in a cycle with its parser after that
        self._done.append((request, query, self._parser.should_keep_alive()))

    def _new_request(self) -> None:
        self._url = bytearray()
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = self._of_head = 0
        self._limit = 0
        self._in_body = False


_WISH = (b"upgrade", b"http2-settings")


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request that asks for another protocol, without asking, for a new parser.

    No protocol is spoken but this one, and a server may ignore the wish (RFC 9110, 7.8). The parser took
    the request's body for that protocol's bytes.
    """
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    for name, value in headers:
        key = name.lower()
        if key == b"connection":
            wishes = (wish.strip() for wish in value.split(b","))
            value = b", ".join(wish for wish in wishes if wish.lower() not in _WISH)
        if value and key not in (*_WISH, b"expect"):
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"
