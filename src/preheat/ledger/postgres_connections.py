"""Connections to PostgreSQL that give up on a server that is silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from select import POLLIN, POLLOUT, poll
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from .remote import CALL_S

T = TypeVar("T")
Row = tuple[Any, ...]


class _Connection(psycopg.Connection[Row]):
    def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:  # noqa: ARG002
        """psycopg before 3.3 waits without an end for a server, or a network, that swallowed the question."""
        silent_ms = CALL_S * 1e3 if timeout is None else timeout * 1e3
        poller = poll()
        try:
            state = next(gen)
            while True:
                wanted = (POLLIN if state & Wait.R else 0) | (POLLOUT if state & Wait.W else 0)
                poller.register(self.pgconn.socket, wanted)
                events = poller.poll(silent_ms)
                if not events:
                    raise psycopg.OperationalError(f"no answer within {silent_ms / 1e3:g} s")
                seen = events[0][1]
                ready = (Ready.R if seen & ~POLLOUT else 0) | (Ready.W if seen & ~POLLIN else 0)
                state = gen.send(Ready(ready & state))
        except StopIteration as done:
            found: T = done.value
            return found


class Connections:
    """As many connections as calls run at once; one that failed is not used again."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._idle: deque[_Connection] = deque()

    @contextmanager
    def one(self) -> Iterator[_Connection]:
        """A connection that nobody else uses meanwhile."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection.connect(
                **self._options,
                autocommit=True,
                prepare_threshold=None,  # a pooler between may change the session at every call
            )
        try:
            yield connection
        except psycopg.OperationalError:
            connection.close()
            self.close()  # the others are as old: a restarted server knows none of them
            raise
        except BaseException:
            connection.close()  # whatever it waits for is not for the next call
            raise
        self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
