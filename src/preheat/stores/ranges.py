"""Ranges from a server that answers them with 200 instead of 206, which obstore refuses: rclone's does.

The Content-Range says what such an answer holds, so its body can be used; several at once are what makes a
transfer from such a server fast, because each of its connections is slow. The request is signed by obstore;
the socket is ours, over plain HTTP alone: the body goes from the kernel into one buffer, and no module is
loaded that a server does not have already.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

from ..errors import StoreError
from .wording import NotPartialError, reason

BUFFER = 512 * 1024
MAX_HEAD = 64 * 1024
CONNECT_S = 5.0
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


def possible(url: str) -> bool:
    """Whether a signed URL can be asked for here: plain HTTP, and no proxy on the way to it."""
    return url.startswith("http://") and not any(os.environ.get(name) for name in _PROXIES)


def ranged(url: str, start: int, end: int, seconds: float, where: str) -> Iterator[memoryview]:
    """The bytes from ``start`` up to ``end``, as they arrive; each piece stands until the next is asked for.

    ``seconds``: the longest that all of it may take; ``where``: the object, for a message. Raises
    NotPartialError where the answer is not that range; StoreError where another try may help.
    """
    until = time.monotonic() + seconds
    authority, _, target = url.removeprefix("http://").partition("/")
    try:
        with socket.create_connection(_address(authority), min(CONNECT_S, seconds)) as client:
            client.settimeout(seconds)
            client.sendall(
                f"GET /{target} HTTP/1.1\r\nHost: {authority}\r\n"
                f"Range: bytes={start}-{end - 1}\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            buffer = memoryview(bytearray(BUFFER))
            head, body = _head(client, buffer, where)
            refused = _check(head, start, end, where)
            if refused:
                said = (bytes(body) or client.recv(4096)).decode(errors="replace") or "no reason is given"
                raise StoreError(f"{where}: the server answers {refused}: {reason(said)}")
            left = end - start
            while True:
                if len(body) > left:
                    raise StoreError(f"{where}: more came than was asked for")
                yield body
                left -= len(body)
                if not left:
                    return
                client.settimeout(max(until - time.monotonic(), 0.001))
                size = client.recv_into(buffer)
                if not size:
                    raise StoreError(f"{where}: the connection ended {left} bytes before the end")
                body = buffer[:size]
    except (OSError, UnicodeError) as error:
        raise StoreError(f"{where}: {error}") from error


def _address(authority: str) -> tuple[str, int]:
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():  # no port; what follows the colon belongs to an IPv6 address
        host, port = authority, "80"
    return host.strip("[]"), int(port)


class _Head:
    """What llhttp calls with each header."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.decode("latin-1").lower()] = value.decode("latin-1").strip()


def _head(client: socket.socket, buffer: memoryview, where: str) -> tuple[bytes, memoryview]:
    """The head of an answer with its empty line, and what came of the body."""
    filled = 0
    while (at := bytes(buffer[:filled]).find(b"\r\n\r\n")) < 0:
        size = client.recv_into(buffer[filled:MAX_HEAD])
        if not size:  # the server has closed, or the head is longer than any may be
            raise StoreError(f"{where}: the connection ended before an answer")
        filled += size
    return bytes(buffer[: at + 4]), buffer[at + 4 : filled]


def _check(head: bytes, start: int, end: int, where: str) -> int:
    """The status of a refusal that may pass; 0 where the range follows. Else raises NotPartialError."""
    import httptools

    answer = _Head()
    parser = httptools.HttpResponseParser(answer)
    try:
        parser.feed_data(head)
    except httptools.HttpParserError as error:
        raise StoreError(f"{where}: not an HTTP answer: {error}") from error
    status: int = parser.get_status_code()
    if status >= 500 or status == 429:
        return status
    whole = (
        status in (200, 206)
        and answer.fields.get("content-range", "").startswith(f"bytes {start}-{end - 1}/")
        and answer.fields.get("content-length") == str(end - start)
        and "transfer-encoding" not in answer.fields
        and answer.fields.get("content-encoding", "identity") == "identity"
    )
    if not whole:  # a refusal too: obstore's own request says in words what is the matter
        raise NotPartialError(f"{where}: the server does not answer ranges")
    return 0
