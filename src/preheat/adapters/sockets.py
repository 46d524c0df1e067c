"""Every connection of the server, watched by one thread that reads; whole requests go to threads that answer.

One reader, because a thread for each connection would wait its turn at the interpreter before it even saw its
request: under a flood that took seconds, and no deadline could count them. What is read first is served
first, and what finds no place is shed by the reader itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..admission import YIELD_S
from ..errors import ShedError
from ..service import Service
from ..workers import Workers
from .connection import Connection, Next
from .entry import enter
from .messages import HttpRequest, HttpResponse
from .routes import match

MAX_CONNECTIONS = 1024
"""Beyond these, connections are told that there are too many."""
MAX_REFUSED = 1024
"""Beyond as many that are being told, they are closed at once."""
KEPT_FILES = 128
"""Descriptors that are left to everything else."""
SPARE = 8
"""Threads beside those that may hold a place: they answer what has none, a token to be checked first or a
request that is answered later."""
QUIET_S = 0.25
"""Seconds in which a connection may still send a request after the server began to shut down."""
PARTIAL_S = 5.0
"""The same, for the rest of a request that has begun."""
SWEEP_S = 0.5
REST_S = 0.02
"""Seconds between two looks at the connections whose last request found no place: they were told to wait."""
AT_ONCE = 4
"""So many of them are looked at before the others are again."""
HOLD_S = 0.002
"""Seconds between two looks at the requests that are held back."""
_PAUSE_S = 0.05
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Of accept(2): what is about this process; any other error is about the one client."""
_READ = select.EPOLLIN | select.EPOLLRDHUP
_SEND = select.EPOLLOUT


class Sockets:
    """``other`` answers what is not a hot route."""

    def __init__(
        self,
        listener: socket.socket,
        service: Service,
        other: Callable[[HttpRequest, str], HttpResponse],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._service = service
        self._other = other
        files = max(int(os.sysconf("SC_OPEN_MAX")) - KEPT_FILES, 64)
        self.most = min(MAX_CONNECTIONS, files * 3 // 4)
        self._most_refused = min(MAX_REFUSED, files - self.most)
        self._open: dict[int, Connection] = {}
        self._poll = select.epoll()
        self._resting = select.epoll()
        self._poll.register(self._resting, select.EPOLLIN)
        self._looked = 0
        """How many of those who rest were looked at since."""
        self._looks_again = 0.0
        """``time.monotonic`` at which those who rest are looked at again; 0: once one has something."""
        self._listens_again = 0.0
        self._held: deque[tuple[Connection, str, float]] = deque()
        """Connections with a request that lets others' go first, whose it is, and ``time.monotonic`` until
        when."""
        self._held_looked = 0.0
        """``time.monotonic`` of the last look at them."""
        self._ends = 0.0
        """``time.monotonic`` at which it began to shut down; 0: it has not."""
        admission = service.admission
        self._answering = Workers("preheat-request", lambda: admission.turns + admission.queue + SPARE)
        self._others = Workers("preheat-other", lambda: MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self._run, name="preheat-sockets", daemon=True)
        self._wake, self._woken = socket.socketpair()
        self._poll.register(self._woken, select.EPOLLIN)

    def start(self) -> None:
        """Begin to accept."""
        self._poll.register(self._listener, select.EPOLLIN)
        self._thread.start()

    def drain(self) -> None:
        """Accept no more connections, and close those that are idle; the others end with their answer."""
        self._ends = time.monotonic()
        self._wake.send(b"\0")

    @property
    def empty(self) -> bool:
        """After ``drain``: whether every connection is closed."""
        return self._listener.fileno() < 0 and not self._open

    def _run(self) -> None:
        swept = time.monotonic()
        while True:
            for descriptor, _ in self._poll.poll(self._patience):
                if descriptor == self._resting.fileno():
                    some = self._resting.poll(0, AT_ONCE)
                    for one, _ in some:
                        self._look(one)
                    self._looked += len(some)
                    if len(some) < AT_ONCE or self._looked >= len(self._open):  # all of them, once
                        self._looked = 0
                        self._poll.modify(self._resting, 0)
                        self._looks_again = time.monotonic() + REST_S
                else:
                    self._look(descriptor)
            now = time.monotonic()
            if self._looks_again and now > self._looks_again:
                self._looks_again = 0.0
                self._poll.modify(self._resting, select.EPOLLIN)
            if self._held and now > self._held_looked + HOLD_S:
                self._held_looked = now
                self._let_go(now)
            if self._listens_again and now > self._listens_again and not self._ends:
                self._listens_again = 0.0
                self._poll.register(self._listener, select.EPOLLIN)
            if self._ends:
                self._end(now)
            if now > swept + SWEEP_S:
                swept = now
                for connection in list(self._open.values()):
                    if connection.next is not Next.ANSWER and connection.is_overdue(now):
                        self._step(connection, connection.overdue)

    @property
    def _patience(self) -> float:
        """Seconds until there is something to do though no socket has anything."""
        if self._held:
            return HOLD_S
        if self._looks_again:
            return max(self._looks_again - time.monotonic(), 0.0)
        return _PAUSE_S if self._ends or self._listens_again else SWEEP_S

    def _look(self, descriptor: int) -> None:
        """A socket has something."""
        connection = self._open.get(descriptor)
        if connection is not None:
            self._step(connection, connection.flush if connection.next is Next.SEND else connection.receive)
        elif descriptor == self._woken.fileno():
            self._woken.recv(64)
        else:
            self._accept()

    def _accept(self) -> None:
        """Take in everybody who is there."""
        while self._listener.fileno() >= 0:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    continue  # that client left again
                if not self._ends:  # what is open may close
                    self._poll.unregister(self._listener)
                    self._listens_again = time.monotonic() + _PAUSE_S
                return
            if len(self._open) >= self.most + self._most_refused:
                client.close()
                continue
            connection = Connection(client, self._service, self._other)
            if len(self._open) >= self.most:
                connection.lost = ShedError("the server has all the connections that it can hold")
            self._open[connection.descriptor] = connection
            try:
                self._watch(connection, _READ)
            except OSError:  # the kernel has no room for one more
                self._close(connection)

    def _end(self, now: float) -> None:
        """One look around while the server shuts down."""
        if self._listener.fileno() >= 0:
            self._accept()  # the kernel has taken them in already: they get an answer
            if not self._listens_again:
                self._poll.unregister(self._listener)
            self._listener.close()
        for connection in list(self._open.values()):
            if connection.next is not Next.READ:
                continue
            if connection.idle and now > self._ends + QUIET_S:
                self._step(connection, connection.receive)  # what came at the last moment
                if connection.next is Next.READ and connection.idle:
                    self._close(connection)
            elif not connection.idle and now > self._ends + PARTIAL_S:
                error = ShedError("the server is shutting down, and the request was not whole")
                self._step(connection, partial(connection.cut, error))

    def _step(self, connection: Connection, step: Callable[[], Next]) -> None:
        """Do something with a connection, and then what is next."""
        pool = self._others
        try:
            following = step()
            while following is Next.ANSWER:
                pool, response = self._pool(connection)
                if response is None:
                    break
                following = connection.refuse(response)
        except Exception:  # a defect of ours: the other connections live on
            import traceback  # none is expected

            traceback.print_exc(file=sys.stderr)
            following = Next.END
        try:
            if following is Next.ANSWER:
                self._watch(connection, 0)  # first: it is the other thread's then
                tenant = self._held_back(connection)
                if tenant is not None:
                    self._held.append((connection, tenant, time.monotonic() + YIELD_S))
                else:
                    pool.put(partial(self._step, connection, connection.answer))
            elif following is Next.END:
                self._close(connection)
            else:
                self._watch(connection, _SEND if following is Next.SEND else _READ)
        except (OSError, RuntimeError, ValueError):
            self._close(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        """Wait for these events of a connection from now on, and for no others; 0: for none. Most often it
        is waited for with them already, which costs no call to the kernel."""
        rests = connection.refused and connection.idle and events == _READ
        poll = self._resting if rests else self._poll
        before, wanted = connection.watched, (poll, events) if events else None
        connection.watched = wanted  # from here on it may be another thread's
        if wanted == before:
            return
        if before is not None:
            before[0].unregister(connection.socket)
        if wanted is not None:
            poll.register(connection.socket, events)

    def _pool(self, connection: Connection) -> tuple[Workers, HttpResponse | None]:
        """Who answers it, and the answer where it finds no place.

        Requests that need a place have their own threads: however many come, liveness is answered.
        """
        request = connection.first
        route = match(request.path).get(request.method) if request is not None else None
        if request is None or route is None or route[0].prepare is None:
            return self._others, None
        entered = enter(self._service, request, route[0])
        if isinstance(entered, HttpResponse):
            return self._answering, entered
        if entered is not None:
            connection.hold(entered)
        return self._answering, None

    def _held_back(self, connection: Connection) -> str | None:
        """The tenant of its request, if that lets others' go first: decoding it would keep the interpreter
        from them. Only while there are places: in a line it could be displaced by a tenant that has none."""
        admission, request = self._service.admission, connection.first
        if request is None or request.place is None or admission.half_full:
            return None
        tenant = request.place.tenant
        return tenant if admission.holds(tenant) else None

    def _let_go(self, now: float) -> None:
        """Hand over what need not be held back any longer."""
        admission = self._service.admission
        held: dict[str, bool] = {}
        for _ in range(len(self._held)):
            connection, tenant, until = self._held.popleft()
            if now < until and not admission.half_full:
                if tenant not in held:
                    held[tenant] = admission.holds(tenant)
                if held[tenant]:
                    self._held.append((connection, tenant, until))
                    continue
            try:
                self._answering.put(partial(self._step, connection, connection.answer))
            except RuntimeError:
                self._close(connection)

    def _close(self, connection: Connection) -> None:
        if self._open.get(connection.descriptor) is connection:
            del self._open[connection.descriptor]  # first: the number may be another's right after
        with contextlib.suppress(OSError, ValueError):
            self._watch(
                connection, 0
            )  # a process that was forked may have the socket too: closing is not enough
        connection.close()
