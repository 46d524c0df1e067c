"""``python -m preheat.server``: the container's entry point, and what ``preheat serve`` runs.

The socket is opened first, or taken over from whoever listens already (LISTEN_FDS), then the model is started
on the main thread while connections are accepted, liveness is answered and requests wait. HTTP/1.1 is parsed
by llhttp (httptools). One thread reads; each request is answered by a thread, because the core is
synchronous; asyncio's import would cost more than that.
"""

from __future__ import annotations

from . import phases  # isort: skip - the first mark: before anything else is imported

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .adapters.messages import HttpRequest, HttpResponse
from .adapters.observe import refused
from .adapters.responses import from_error
from .adapters.routes import tenant_of
from .adapters.sockets import Sockets
from .errors import PreheatError, UsageError
from .function import Function, platform, quieten_libraries, target
from .service import Service, from_settings, shutting_down
from .settings import Settings

if TYPE_CHECKING:
    from types import FrameType

FIRST_INHERITED = 3
"""systemd's SD_LISTEN_FDS_START."""
SWITCH_S = 0.0005
"""A thread that computes in Python gives way to others after so long, and not after 5 ms: a request needs the
interpreter several times."""
GRACE_S, GRACE_ON_CLOUD_RUN_S = 25.0, 8.0
"""Seconds that accepted requests have to finish after SIGTERM: less than Knative's 30 and Cloud Run's 10."""


def main(environ: Mapping[str, str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Exits 0 when drained, 1 where the start failed, 2 on wrong use."""
    environ = os.environ if environ is None else environ
    clock = phases.PhaseClock()
    quieten_libraries()
    gc.disable()  # what is imported stays; collecting among it is lost time
    try:
        settings = Settings.from_environ(environ)
        if not settings.artifact:
            raise UsageError("nothing to serve: set PREHEAT_ARTIFACT to an artifact folder or an app.py")
        service = from_settings(
            settings,
            settings.cache_dir(environ),
            alone=platform(environ) == "process",
            environ=environ,
        )
        check_isolation(settings, settings.tenant)
        listener = inherited_listener(environ) or listen(settings.host, settings.port)
        server = Server(listener, service)
    except PreheatError as error:
        return told(error)
    grace = grace_s(settings, environ)
    service.defers = True
    stop = Stop()
    server.start()
    try:
        with stop.at_once(), clock.phase(phases.Phase.IMPORT, phases.FIRST_LINE_NS) as attributes:
            attributes["of"] = "server, function"
            function = target(settings.artifact, environ)
        function.service = service
        server.serve(function)
        with stop.at_once():
            function.start(clock)
    except PreheatError as error:
        service.fail(error)
        server.drain(grace)  # those who wait are answered first
        return told(error)
    except (_StoppedError, Exception):
        if not stop.came:  # else a library whose import was left may have made an error of its own of it
            raise
        service.stop_starting()
        return drained(server, service, grace)
    gc.freeze()
    gc.enable()
    return serve_until(stop, server, service, grace)


def check_isolation(settings: Settings, tenant: str) -> None:
    """Hold an instance for ``tenant`` (empty: for all) against the settings. Raises UsageError."""
    if settings.isolate and not tenant:
        raise UsageError(
            "PREHEAT_ISOLATE=tenant wants an instance for each tenant: `preheat up` starts them, or "
            "PREHEAT_TENANT says whose this one is"
        )
    if tenant and not (settings.api_keys or settings.jwt_keys):
        raise UsageError(
            "PREHEAT_TENANT means nothing where nobody is authenticated: set PREHEAT_API_KEYS or "
            "PREHEAT_JWT_KEYS"
        )


def grace_s(settings: Settings, environ: Mapping[str, str]) -> float:
    """Seconds that accepted requests have to finish after SIGTERM."""
    return settings.grace or (GRACE_ON_CLOUD_RUN_S if platform(environ) == "cloudrun" else GRACE_S)


def serve_until(stop: Stop, server: Server, service: Service, grace: float) -> int:
    """Serve what has started until it is told to stop, then drain; gives the exit status."""
    sys.setswitchinterval(SWITCH_S)
    if service.resumes and service.takes_keys:
        from .adapters.deferred import resume

        resume(service)
    stop.wait()
    return drained(server, service, grace)


def drained(server: Server, service: Service, grace: float) -> int:
    """Finish what was accepted, within ``grace`` seconds; gives the exit status."""
    until = time.monotonic() + grace
    done = server.drain(grace)
    service.close(max(until - time.monotonic(), 0.0))
    return 0 if done else 1


def told(error: PreheatError) -> int:
    """Say why it ends; gives the exit status."""
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return 2 if isinstance(error, UsageError) else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port "
            "(PORT, --port) or address (PREHEAT_HOST, --host)"
        ) from None
    return listener


def inherited_listener(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that whoever started this process has opened; None where there is none.

    systemd's protocol (sd_listen_fds(3)): descriptor 3, LISTEN_FDS sockets for the process LISTEN_PID. What
    connects before the start is over waits in its backlog. Raises UsageError for anything but one TCP socket
    that listens.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count:
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # they are not for processes that this starts
        os.environ.pop(name, None)
    if count != "1":
        raise UsageError(f"one socket is served, and LISTEN_FDS is {count!r}: pass one")
    return listening(FIRST_INHERITED, "LISTEN_FDS is set, and descriptor 3")


def listening(descriptor: int, what: str) -> socket.socket:
    """The socket of a descriptor, which is the socket's own from then on. ``what``: it in words. Raises
    UsageError where it is no TCP socket that listens."""
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"{what} is no socket: {error.strerror}") from None
    if listener.family not in (socket.AF_INET, socket.AF_INET6) or not listener.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    ):
        listener.close()
        raise UsageError(f"{what} is no TCP socket that listens")
    listener.set_inheritable(False)
    return listener


class Server:
    """A service on a socket; drains on request."""

    def __init__(self, listener: socket.socket, service: Service) -> None:
        self._service = service
        self._sockets = Sockets(listener, service, self._other)
        self._function: Function | None = None
        self._known = threading.Event()

    def start(self) -> None:
        """Begin to accept: liveness is answered, inference waits for the start."""
        self._sockets.start()

    def serve(self, function: Function) -> None:
        """Name the function whose FastAPI application answers what is not a hot route."""
        self._function = function
        self._known.set()

    def drain(self, grace_s: float) -> bool:
        """Stop accepting, finish what was accepted, close the rest; whether all was done in time.

        What still waits for a turn after half of the time is shed, so that those who sent it are told while
        somebody is there to tell them.
        """
        self._service.drain()
        self._known.set()
        self._sockets.drain()
        began = time.monotonic()
        while not self._sockets.empty:
            now = time.monotonic()
            if now > began + grace_s:
                return False
            if now > began + grace_s / 2:
                self._service.shed_waiting()
            time.sleep(0.01)
        return True

    def _other(self, request: HttpRequest, query: str) -> HttpResponse:
        self._known.wait()
        try:
            if self._function is None:  # it ends before it was known
                raise shutting_down()
            if self._service.tenant:
                tenant_of(self._service, request)
            return self._function.bridge.respond(request, query)
        except PreheatError as error:
            return refused(self._service, from_error(self._service, error))


class _StoppedError(BaseException):
    """SIGTERM came during the start."""


class Stop:
    """The first SIGTERM or SIGINT; the second ends the process at once.

    ``wait`` reads what the interpreter writes the moment a signal arrives (set_wakeup_fd): one that comes
    just before the thread blocks in a lock, as an event does, would not be looked at before the lock is
    released.
    """

    def __init__(self) -> None:
        self.came = False
        self._raises = False
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._writable, False)
        signal.set_wakeup_fd(self._writable)
        signal.signal(signal.SIGTERM, self._received)
        signal.signal(signal.SIGINT, self._received)

    def wait(self) -> None:
        while not self.came:
            os.read(self._readable, 1)

    def end(self) -> None:
        """As a signal would; from any thread."""
        self.came = True
        os.write(self._writable, b"\0")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Do not let it wait for the end of the block: raise _StoppedError in it."""
        self._raises = True
        try:
            if self.came:
                raise _StoppedError
            yield
        finally:
            self._raises = False

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self.came:
            os._exit(128 + number)
        self.came = True
        if self._raises:
            raise _StoppedError


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("error: this takes no arguments; PREHEAT_ARTIFACT names what to serve", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Daemon threads may sit in a session's run: leave without tearing it down under them.
    os._exit(status)
