from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from preheat.measure import client
from preheat.measure.client import connect, free_port, read_response, request


@contextmanager
def talking(*parts: bytes, close: bool = True) -> Iterator[socket.socket]:
    """A connected socket whose other side sends these parts, one after another."""
    near, far = socket.socketpair()

    def talk() -> None:
        for part in parts:
            far.sendall(part)
            time.sleep(0.01)
        if close:
            far.close()

    speaker = threading.Thread(target=talk)
    speaker.start()
    try:
        yield near
    finally:
        speaker.join()
        near.close()
        far.close()


def soon() -> float:
    return time.monotonic() + 5


def test_a_request_is_one_write_with_its_length() -> None:
    whole = request("POST", "/predict", b'{"a": 1}', {"content-type": "application/json"})
    head, _, body = whole.partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    assert head.split(b"\r\n")[0] == b"POST /predict HTTP/1.1"
    assert b"content-length: 8" in head
    assert head.endswith(b"connection: close")
    assert request("GET", "/", keep=True).endswith(b"connection: keep-alive\r\n\r\n")


def test_a_response_is_read_whole_however_it_is_cut() -> None:
    parts = (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 6\r\nX-Name:  v \r\n", b"\r\nab", b"cd", b"ef")
    with talking(*parts) as near:
        response = read_response(near, deadline=soon())
    assert (response.status, response.body) == (200, b"abcdef")
    assert response.headers["x-name"] == "v"


@pytest.mark.parametrize(
    "parts",
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\ncontent-",),
        (b"HTTP/1.1 200 OK\r\n\r\nabc",),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nabc",),
        (b"SSH-2.0-OpenSSH\r\n\r\n",),
        (),
    ],
)
def test_what_is_cut_short_or_no_http_is_refused(parts: tuple[bytes, ...]) -> None:
    with talking(*parts) as near, pytest.raises(ConnectionError):
        read_response(near, deadline=soon())


def test_a_response_that_never_ends_runs_into_the_deadline() -> None:
    with talking(b"HTTP/1.1 200 OK\r\n", close=False) as near, pytest.raises(TimeoutError):
        read_response(near, deadline=time.monotonic() + 0.05)


def test_a_free_port_can_be_listened_on_and_is_no_outgoing_one() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    for _ in range(20):
        port = free_port()
        assert not low <= port <= high
        with socket.socket() as listener:
            listener.bind((client.HOST, port))


def test_connecting_waits_for_whoever_listens_late() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((client.HOST, port))
        late = threading.Timer(0.1, listener.listen)
        late.start()
        with connect(port, deadline=soon(), alive=lambda: True) as near:
            assert near.getpeername() == (client.HOST, port)
        late.join()


def test_connecting_ends_when_nobody_will_ever_listen() -> None:
    with pytest.raises(ConnectionError, match="ended before it listened"):
        connect(free_port(), deadline=soon(), alive=lambda: False)
    with pytest.raises(TimeoutError):
        connect(free_port(), deadline=time.monotonic() + 0.05, alive=lambda: True)
