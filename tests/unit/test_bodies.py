"""What a connection holds of a body that it has read."""

from __future__ import annotations

import socket
import tracemalloc
from typing import Any, cast

import pytest

from preheat.adapters.connection import Connection
from preheat.local.door import Door
from preheat.service import Service

SIZE = 8 << 20
HEAD = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {SIZE}\r\n\r\n".encode()


def server() -> Any:
    ours, theirs = socket.socketpair()
    theirs.close()
    return Connection(ours, Service(queue=1, timeout=1), cast(Any, None))


def gateway() -> Any:
    door = Door(cast(Any, None), set())
    door._proceed = lambda: None  # type: ignore[method-assign]  # nobody answers
    return door


@pytest.mark.parametrize("make", [server, gateway])
def test_a_body_is_held_once_and_not_in_parts_too(make: Any) -> None:
    connection = make()
    connection._feed(HEAD)
    tracemalloc.start()
    try:
        for _ in range(SIZE >> 18):
            connection._feed(bytes(1 << 18))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert SIZE <= held < 1.5 * SIZE
    if isinstance(connection, Connection):
        connection.close()
