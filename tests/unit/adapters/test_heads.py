"""A request whose head is the last one's is not parsed anew: that must make no difference."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.adapters import heads
from preheat.adapters.connection import Connection
from preheat.adapters.entry import enter
from preheat.adapters.routes import match
from preheat.admission import Place
from preheat.errors import UnauthenticatedError
from preheat.service import Service


@contextmanager
def connected(queue: int = 1) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, Service(queue=queue, timeout=1, max_bytes=1000), cast(Any, None))
    try:
        yield connection, theirs
    finally:
        connection.close()
        theirs.close()


def read(connection: Connection, client: socket.socket, data: bytes) -> list[Any]:
    """What the connection makes of data that comes at once, between two requests."""
    head = connection._head
    client.sendall(data)
    connection.receive()
    for one, _, _ in connection._done:
        if head is not None and one.sender is head.request.sender:
            assert {**one.headers, "content-length": ""} == {**head.request.headers, "content-length": ""}
    found: list[Any] = [
        (r._replace(arrived_ns=0, sender=None), query, keep) for r, query, keep in connection._done
    ]
    found.append(str(connection._broken and connection._broken.error))
    connection._done.clear()
    connection._broken, connection.idle = None, True
    return found


def request(body: bytes, line: str = "content-length: %d", *, more: str = "x-api-key: k1234") -> bytes:
    return f"POST /predict?a=1 HTTP/1.1\r\nhost: x\r\n{line % len(body)}\r\n{more}\r\n\r\n".encode() + body


def test_a_head_that_comes_again_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as (connection, client):
        first = read(connection, client, request(b'{"input": "a"}'))
        monkeypatch.setattr(connection, "_feed", lambda _: pytest.fail("it was parsed"))
        assert read(connection, client, request(b'{"input": "a"}')) == first
        (found, query, keep_alive), _ = read(connection, client, request(b"longer" * 40))
    assert (found.method, found.path, query, keep_alive) == ("POST", "/predict", "a=1", True)
    assert found.headers == {"host": "x", "content-length": "240", "x-api-key": "k1234"}
    assert found.body == b"longer" * 40


def test_whose_a_request_is_is_looked_up_once_for_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = {"k-acme": "acme", "k-beta": "beta"}
    looked: list[str] = []

    def of(headers: Mapping[str, str], platform: str = "") -> str:
        looked.append(headers["x-api-key"])
        if headers["x-api-key"] not in tenants:
            raise UnauthenticatedError("not known here")
        return tenants[headers["x-api-key"]]

    def entered(connection: Connection, client: socket.socket, key: str) -> str | None:
        client.sendall(request(b"body", more=f"x-api-key: {key}"))
        connection.receive()
        first = connection.first
        assert first is not None
        place = enter(connection._service, first, match(first.path)[first.method][0])
        connection._done.clear()
        connection.idle = True
        return place.tenant if isinstance(place, Place) else None

    with connected(queue=100) as (connection, client):
        monkeypatch.setattr(connection._service.principals, "of", of)
        for keys in (["k-acme"] * 3, ["k-beta"] * 3, ["k-acme", "k-beta"] * 3):
            assert [entered(connection, client, key) for key in keys] == [tenants[key] for key in keys]
        assert looked == ["k-acme", "k-beta", *["k-acme", "k-beta"] * 3]
        looked.clear()
        assert [entered(connection, client, "k-none") for _ in range(3)] == [None] * 3
        assert looked == ["k-none"] * 3, "who is not known may be in time"
        assert entered(connection, client, "k-beta") == "beta"


FIRST = [
    request(b"1234567"),
    request(b"\r\n"),
    request(b"1234", "Content-Length:%d"),
    request(b"1", "CONTENT-LENGTH: \t %d  "),
    request(b"", more="connection: keep-alive, x"),
    request(b"12", more="x-1: content-length: 2"),
    request(b"12", more="content-length-2: 2"),
    request(b"123", more="expect: 100-continue"),
    request(b"1234", more="upgrade: h2c\r\nconnection: upgrade"),
    request(b"1234", more="upgrade: h2c\r\nexpect: 100-continue\r\nconnection: upgrade"),
    request(b"1234", more="connection: close"),
    b"\r\n" + request(b"12"),
    request(b"12") + b"\r\n",
    request(b"\r\n") + b"\r\n",
    request(b"12") + request(b"12"),
    b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v2 HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n12",
    b"POST /v2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nx: " + b"a" * heads.LONGEST + b"\r\ncontent-length: 2\r\n\r\n12",
]
SIZES = [b"0", b"1", b"2", b"3", b"+2", b"-1", b" 2", b"02", b"0x2", b"2 ", b"2,2", b"2\r", b"", b"9" * 30]
BODIES = [b"", b"1", b"12", b"123", b"\r\n", b"\r\n\r\n", b"12\r\n", b"GET / HTTP/1.1\r\n\r\n", b"a" * 1001]


def after(first: bytes, second: bytes, *, remembers: bool) -> list[Any]:
    with connected() as (connection, client):
        read(connection, client, first)
        if not remembers:
            connection._head = None
        return read(connection, client, second)


@pytest.mark.parametrize("first", FIRST)
def test_what_comes_next_is_what_the_parser_makes_of_it(first: bytes) -> None:
    head, _, body = first.partition(b"\r\n\r\n")
    at = head.lower().find(b"content-length:") + len(b"content-length:")
    line = head.find(b"\r\n", at) if b"\r\n" in head[at:] else len(head)
    seconds = [first, first + b"\r\n", first[:-1], first.lower(), first.replace(b"1234", b"4321"), b"\r\n"]
    seconds += [head[:at] + b" " + size + head[line:] + b"\r\n\r\n" + body for size in SIZES]
    for other in BODIES:
        seconds.append(head + b"\r\n\r\n" + other)
        seconds.append(head[:at] + b" %d" % len(other) + head[line:] + b"\r\n\r\n" + other)
    for second in filter(None, seconds):
        assert after(first, second, remembers=True) == after(first, second, remembers=False), second


@given(st.sampled_from(FIRST), st.integers(0, 200), st.integers(0, 4), st.binary(max_size=4))
def test_bytes_that_are_changed(first: bytes, at: int, gone: int, put: bytes) -> None:
    second = first[:at] + put + first[at + gone :]
    if second:
        assert after(first, second, remembers=True) == after(first, second, remembers=False)


def test_a_long_head_is_not_kept() -> None:
    with connected() as (connection, client):
        read(connection, client, FIRST[-1])
        assert connection._head is None


def test_a_body_over_the_limit_is_refused_as_ever() -> None:
    with connected() as (connection, client):
        read(connection, client, request(b"a"))
        assert "limit is 1000" in read(connection, client, request(b"a" * 1001))[-1]
