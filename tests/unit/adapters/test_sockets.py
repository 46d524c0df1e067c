"""Who reads takes the places: how many requests are handed on, and what becomes of their places."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from preheat import workers
from preheat.adapters import entry
from preheat.adapters.sockets import REST_S, Sockets
from preheat.admission import YIELD_S
from preheat.errors import ShedError
from preheat.service import Service

QUEUE = 3
BODY = b'{"input": "a"}'
REQUEST = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Polled:
    """An epoll that counts."""

    def __init__(self, poll: Any) -> None:
        self.times = 0
        self._poll = poll

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        self.times += 1
        return cast(list[tuple[int, int]], self._poll.poll(seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poll, name)


class Started:
    """A server that still starts: whoever has a place waits."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = listener.getsockname()
        self.service = Service(queue=QUEUE, timeout=30, modes={"": "optional"})
        self.sockets = Sockets(listener, self.service, cast(Any, None))
        self.polled = Polled(self.sockets._poll)
        self.sockets._poll = cast(Any, self.polled)
        self.sockets.start()
        self.clients: list[socket.socket] = []

    def sent(self, raw: bytes = REQUEST) -> socket.socket:
        client = socket.create_connection(self.address, timeout=10)
        self.clients.append(client)
        client.sendall(raw)
        return client

    def until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not true():
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture
def server() -> Iterator[Started]:
    started = Started()
    yield started
    started.service.stop_starting()
    started.sockets.drain()
    started.until(lambda: started.sockets.empty)
    for client in started.clients:
        client.close()


def test_no_more_requests_are_handed_on_than_there_are_places(server: Started) -> None:
    clients = [server.sent() for _ in range(QUEUE)]
    server.until(lambda: server.service.admission.taken == QUEUE)
    for _ in range(20):
        assert server.sent().recv(4096).startswith(b"HTTP/1.1 503 ")
    assert server.sockets._answering._threads <= QUEUE
    assert server.service.admission.taken == QUEUE
    server.service.stop_starting()
    assert all(client.recv(4096).startswith(b"HTTP/1.1 503 ") for client in clients)
    server.until(lambda: server.service.admission.taken == 0)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (REQUEST.replace(b"host: x", b"host: x\r\nx-preheat-timeout: soon"), 400),
        (REQUEST.replace(b"host: x", b"host: x\r\nx-preheat-timeout: 0.01"), 504),
        (REQUEST.replace(b"host: x", b"host: x\r\nidempotency-key: "), 400),
    ],
)
def test_who_is_refused_for_another_reason_leaves_its_place(server: Started, raw: bytes, status: int) -> None:
    for _ in range(2 * QUEUE):
        assert server.sent(raw).recv(4096).startswith(b"HTTP/1.1 %d " % status)
    server.until(lambda: server.service.admission.taken == 0)


def test_a_place_is_left_where_no_thread_can_be_had(server: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(server.sockets._answering, "put", none)
    assert server.sent().recv(4096) == b""
    assert server.service.admission.taken == 0


def test_work_that_no_thread_could_be_had_for_finds_nothing_to_do(
    server: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(workers, "Thread", Refused)
        assert server.sent().recv(4096) == b""
    handled: list[object] = []
    monkeypatch.setattr(server.service, "handle", handled.append)
    server.sent()
    server.until(lambda: bool(handled))
    time.sleep(0.1)
    assert len(handled) == 1


def test_what_is_answered_later_takes_no_place(server: Started) -> None:
    server.service.defers = True
    for _ in range(2 * QUEUE):
        server.sent(REQUEST.replace(b"host: x", b"host: x\r\nprefer: respond-async"))
    server.until(lambda: server.sockets._answering._threads == 2 * QUEUE)
    assert server.service.admission.taken == 0


def test_who_finds_no_place_and_asks_on_is_heard_in_time(server: Started) -> None:
    for _ in range(QUEUE):
        server.sent()
    server.until(lambda: server.service.admission.taken == QUEUE)
    client = server.sent()
    assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    began = time.monotonic()
    for _ in range(10):
        client.sendall(REQUEST)
        assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert 9 * REST_S <= time.monotonic() - began < 5
    (connection,) = (one for one in server.sockets._open.values() if one.refused)
    assert connection.watched is not None
    assert connection.watched[0] is server.sockets._resting
    client.sendall(REQUEST[:20])
    server.until(lambda: not connection.idle)
    server.until(lambda: connection.watched is not None and connection.watched[0] is server.sockets._poll)
    client.sendall(REQUEST[20:])  # what has begun is read as fast as it comes
    assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
    before = server.polled.times
    time.sleep(0.3)
    assert server.polled.times - before < 10  # it says nothing, and is not looked at
    server.service.admission.queue += 1
    client.sendall(REQUEST)
    server.until(lambda: server.service.admission.taken == QUEUE + 1)
    server.service.stop_starting()
    assert client.recv(4096).startswith(b"HTTP/1.1 503 ")  # it waited


def test_many_who_find_no_place_and_ask_on_at_once_are_told_to_wait(server: Started) -> None:
    for _ in range(QUEUE):
        server.sent()
    server.until(lambda: server.service.admission.taken == QUEUE)
    answers, clients = 0, [server.sent() for _ in range(16)]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for key, _ in selector.select(0.1):
                client = cast(socket.socket, key.fileobj)
                assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
                client.sendall(REQUEST)
                answers += 1
    rounds = 0.5 / REST_S + 2
    assert 16 < answers <= rounds * (len(clients) + QUEUE)


def test_a_process_that_was_forked_has_the_sockets_too(server: Started) -> None:
    client = server.sent(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    (connection,) = server.sockets._open.values()
    # As a child's are: of the same open files.
    kept = [connection.socket.dup(), server.sockets._listener.dup()]
    try:
        client.close()
        server.until(lambda: not server.sockets._open)
        before = server.polled.times
        time.sleep(0.3)
        assert server.polled.times - before < 10
        server.sockets.drain()
        server.until(lambda: server.sockets.empty)
        before = server.polled.times
        with socket.create_connection(server.address):
            time.sleep(0.3)
        assert 0 < server.polled.times - before < 20
    finally:
        for one in kept:
            one.close()


@pytest.mark.parametrize("gone", [socket.SHUT_WR, None])
def test_a_client_that_says_no_more_is_not_looked_at_meanwhile(server: Started, gone: int | None) -> None:
    with server.sent() as client:
        server.until(lambda: server.service.admission.taken == 1)
        if gone is None:
            client.close()
        else:
            client.shutdown(gone)
        before = server.polled.times
        time.sleep(0.3)
        assert server.polled.times - before < 10
        server.service.admission.close(ShedError("the end"), waiting=True)
        server.service.stop_starting()
        if gone is not None:
            assert client.recv(4096).startswith(b"HTTP/1.1 503 ")
            assert client.recv(4096) == b""
    server.until(lambda: not server.sockets._open)


@pytest.fixture
def held(server: Started, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Tenants whose requests let others' go first; everybody's tenant is its header's."""
    tenants = {"heavy"}
    monkeypatch.setattr(entry, "tenant_of", lambda _, request: request.headers["x-tenant"])
    monkeypatch.setattr(server.service.admission, "holds", tenants.__contains__)
    return tenants


def of(tenant: bytes, raw: bytes = REQUEST) -> bytes:
    return raw.replace(b"host: x", b"host: x\r\nx-tenant: " + tenant)


def test_what_is_held_back_has_its_place_and_no_thread(server: Started, held: set[str]) -> None:
    server.service.admission.queue = 10
    late = b"host: x\r\nx-preheat-timeout: 0.05"
    heavy = server.sent(of(b"heavy").replace(b"host: x", late))
    server.until(lambda: server.service.admission.taken == 1)
    assert server.sockets._answering._threads == 0
    light = server.sent(of(b"light").replace(b"host: x", late))
    assert light.recv(4096).startswith(b"HTTP/1.1 504 ")
    assert server.sockets._answering._threads == 1
    held.clear()
    assert heavy.recv(4096).startswith(b"HTTP/1.1 504 ")
    server.until(lambda: server.service.admission.taken == 0)


def test_nothing_is_held_back_where_half_of_the_places_are_taken(server: Started, held: set[str]) -> None:
    late = REQUEST.replace(b"host: x", b"host: x\r\nx-preheat-timeout: 0.05")
    first = server.sent(of(b"heavy", late))
    server.until(lambda: len(server.sockets._held) == 1)
    began = time.monotonic()
    second = server.sent(of(b"heavy", late))  # a tenant that has no place could not take theirs
    for client in (first, second):
        assert client.recv(4096).startswith(b"HTTP/1.1 504 ")
    assert time.monotonic() - began < YIELD_S
    assert held


def test_nothing_is_held_back_for_ever(server: Started, held: set[str]) -> None:
    began = time.monotonic()
    heavy = server.sent(of(b"heavy", REQUEST.replace(b"host: x", b"host: x\r\nx-preheat-timeout: 0.05")))
    assert heavy.recv(4096).startswith(b"HTTP/1.1 504 ")
    assert YIELD_S <= time.monotonic() - began < 5
    assert held
    before = server.polled.times
    time.sleep(0.3)
    assert server.polled.times - before < 10, "nothing is held back any more"


def test_what_is_held_back_where_no_thread_can_be_had_leaves_its_place(
    server: Started, held: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: object) -> None:
        raise RuntimeError("can't start new thread")

    heavy = server.sent(of(b"heavy"))
    server.until(lambda: bool(server.sockets._held))
    monkeypatch.setattr(server.sockets._answering, "put", none)
    held.clear()
    assert heavy.recv(4096) == b""
    assert server.service.admission.taken == 0
