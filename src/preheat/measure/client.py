"""The client's side of a measurement: loopback ports, whole HTTP/1.1 requests, whole responses."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import UsageError

HOST = "127.0.0.1"
POLL_S = 0.001
"""Pause between two tries to connect: what the client itself can add to a measured start."""
MAX_RESPONSE = 1 << 30


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, keep: bool = False
) -> bytes:
    """A whole request, to be sent in one write. ``keep``: leave the connection open after the answer."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"connection: {'keep-alive' if keep else 'close'}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def free_port() -> int:
    """A loopback port that nothing listens on, outside the range of outgoing connections.

    Inside that range a client that keeps trying to connect will, once in some ten thousand tries, be given
    the very port it connects to, and be connected to itself.
    """
    low = _first_outgoing_port()
    for _ in range(200):
        port = random.randrange(10000, low) if low > 11000 else 0  # noqa: S311 - not a secret
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UsageError(f"no free port was found on {HOST}")


def named(headers: Sequence[str]) -> dict[str, str]:
    """What ``--header 'NAME: VALUE'`` says, by name in lower case. Raises UsageError, without the value."""
    found = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or any(c in header for c in "\r\n"):
            raise UsageError(f"--header must be 'name: value', not {name!r}")
        found[name.strip().lower()] = value.strip()
    return found


def connect(port: int, *, deadline: float, alive: Callable[[], bool]) -> socket.socket:
    """Try about every millisecond until a connection is accepted.

    ``deadline``: on the clock of ``time.monotonic``. Raises TimeoutError past it, ConnectionError when
    ``alive`` tells that nobody will ever listen.
    """
    while True:
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            client.connect((HOST, port))
            if client.getsockname() != client.getpeername():
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return client
        except ConnectionRefusedError:
            pass
        except BaseException:
            client.close()
            raise
        client.close()
        if not alive():
            raise ConnectionError("the process ended before it listened")
        if time.monotonic() > deadline:
            raise TimeoutError("nothing listened in time")
        time.sleep(POLL_S)


def read_response(client: socket.socket, *, deadline: float) -> Response:
    """Read one whole response. Raises TimeoutError, or ConnectionError for anything cut short or not HTTP."""
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _receive(client, deadline)
        if len(data) > MAX_RESPONSE:
            raise ConnectionError("the response has no end of its headers")
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise ConnectionError(f"not an HTTP/1.1 response: {first[:80]!r}")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(int(parts[1]), headers, _chunks(client, data[end + 4 :], deadline))
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_RESPONSE:
        raise ConnectionError(f"the response's content-length is {length!r}")
    whole = end + 4 + int(length)
    while len(data) < whole:
        data += _receive(client, deadline)
    return Response(int(parts[1]), headers, bytes(data[end + 4 : whole]))


def _chunks(client: socket.socket, data: bytearray, deadline: float) -> bytes:
    """A body in chunks (RFC 9112, 7.1), of which ``data`` has come; trailers are not read."""
    body = bytearray()
    while True:
        while (end := data.find(b"\r\n")) < 0:
            data += _receive(client, deadline)
        digits = data[:end].split(b";")[0].strip().decode("latin-1")
        try:
            size = int(digits, 16)
        except ValueError:
            raise ConnectionError(f"not the size of a chunk: {digits[:80]!r}") from None
        if size == 0:
            return bytes(body)
        if not 0 < size <= MAX_RESPONSE - len(body):
            raise ConnectionError(f"a chunk of {size} bytes is too large")
        while len(data) < end + 2 + size + 2:
            data += _receive(client, deadline)
        body += data[end + 2 : end + 2 + size]
        del data[: end + 2 + size + 2]


def _receive(client: socket.socket, deadline: float) -> bytes:
    client.settimeout(max(deadline - time.monotonic(), 0.001))
    data = client.recv(1 << 18)
    if not data:
        raise ConnectionError("the connection ended before the response was whole")
    return data


def _first_outgoing_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
