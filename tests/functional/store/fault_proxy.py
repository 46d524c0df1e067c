"""A proxy before an S3 server that counts requests, and harms some of them as a test says."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

PIECE = 64 * 1024


class Fault(StrEnum):
    CUT = "cut"
    """The answer stops in the middle of its body, and the connection ends."""
    SLOW = "slow"
    """The answer comes late and in pieces."""
    TRUNCATE = "truncate"
    """Half the body, with a length that fits it."""
    CORRUPT = "corrupt"
    """One byte in the first half of the answer is another."""
    UNAVAILABLE = "503"
    DENIED = "403"
    ELSEWHERE = "301"
    """What S3 says where the bucket is in another region."""
    MALFORMED = "400"
    """What S3 says to a signature for another region."""
    UNSATISFIABLE = "416"
    WRONG_TAG = "wrong etag"
    WRONG_LENGTH = "wrong length"
    """The length says more than comes."""
    WHOLE = "200 for a range"
    """All of the object, where a part of it was asked for."""
    LOST = "lost answer"
    """The server did it, and its answer never came."""
    HARMED = "harmed upload"
    """One byte of the request's body is another when the server gets it."""
    REFUSED = "closed unread"
    """The connection ends before the server sees the request."""


HARMS_ANSWERS = [f for f in Fault if f not in (Fault.DENIED, Fault.ELSEWHERE, Fault.MALFORMED, Fault.HARMED)]


REFUSALS = {
    "301": "PermanentRedirect",
    "400": "AuthorizationHeaderMalformed",
    "403": "AccessDenied",
    "416": "InvalidRange",
    "503": "SlowDown",
}


class Asked(NamedTuple):
    method: str
    path: str
    """With its query."""
    range: str
    authorization: str


Plan = Callable[[Asked], Fault | None]


class FaultProxy:
    """``plan`` says for each request how it is harmed; assign it at any time."""

    def __init__(self, upstream: str) -> None:
        self.plan: Plan = lambda _asked: None
        self.delay_s = 0.0
        """Pause after each piece of every answer."""
        self.asked: list[Asked] = []
        self.harmed: list[tuple[Fault, Asked]] = []
        parts = urlsplit(upstream)
        assert parts.hostname
        assert parts.port
        self.host, self.port = parts.hostname, parts.port
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def fetched(self) -> list[Asked]:
        """The requests for blobs."""
        return [asked for asked in self.asked if asked.method == "GET" and "/blobs/" in asked.path]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def _answer(self) -> None:
                proxy._answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, client: BaseHTTPRequestHandler) -> None:
        asked = Asked(
            client.command,
            client.path,
            client.headers.get("Range", ""),
            client.headers.get("Authorization", ""),
        )
        self.asked.append(asked)
        fault = self.plan(asked)
        if fault is not None:
            self.harmed.append((fault, asked))
        body = client.rfile.read(int(client.headers.get("Content-Length") or 0))
        if fault is Fault.REFUSED:
            client.close_connection = True
            return
        if fault is not None and fault.value in REFUSALS:
            self._refuse(client, int(fault.value))
            return
        headers = {k: v for k, v in client.headers.items() if k.lower() not in ("connection", "expect")}
        if fault is Fault.HARMED and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault is Fault.WHOLE:
            headers = {k: v for k, v in headers.items() if k.lower() != "range"}
        with contextlib.closing(http.client.HTTPConnection(self.host, self.port, timeout=60)) as upstream:
            upstream.request(client.command, client.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        if fault is Fault.LOST:
            client.close_connection = True
            return
        self._send(client, answer, data, fault)

    def _send(
        self,
        client: BaseHTTPRequestHandler,
        answer: http.client.HTTPResponse,
        data: bytes,
        fault: Fault | None,
    ) -> None:
        length = int(answer.headers.get("Content-Length") or len(data))
        if fault is Fault.TRUNCATE and data:
            data = data[: len(data) // 2]
            length = len(data)
        if fault is Fault.CORRUPT and data:
            at = len(data) // 4
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if fault is Fault.WRONG_LENGTH and data:
            length += 1000
        client.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() == "etag" and fault is Fault.WRONG_TAG:
                value = '"0"'
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                client.send_header(name, value)
        client.send_header("Content-Length", str(length))
        client.end_headers()
        if fault is Fault.CUT:
            data = data[: len(data) // 2]
        if fault is Fault.SLOW:
            time.sleep(0.2)
        for start in range(0, len(data), PIECE):
            client.wfile.write(data[start : start + PIECE])
            if self.delay_s:
                time.sleep(self.delay_s)
        if fault in (Fault.CUT, Fault.WRONG_LENGTH):
            client.close_connection = True

    def _refuse(self, client: BaseHTTPRequestHandler, status: int) -> None:
        code = REFUSALS[str(status)]
        text = f"<Error><Code>{code}</Code><Message>{code} by the proxy</Message></Error>".encode()
        client.send_response(status)
        client.send_header("Content-Length", str(len(text)))
        client.end_headers()
        if client.command != "HEAD":
            client.wfile.write(text)


@contextlib.contextmanager
def before(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
