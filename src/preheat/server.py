"""``python -m preheat.server``: the container's entry point, and what ``preheat serve`` runs.

The socket is opened first, then the model is started on the main thread while connections are accepted,
liveness is answered and requests wait. HTTP/1.1 is parsed by llhttp (httptools); each connection has a
thread, because the core is synchronous and asyncio's import would cost more than the threads do.
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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .adapters.connection import Connection
from .adapters.observe import refused
from .adapters.routes import HttpRequest, HttpResponse, from_error
from .errors import PreheatError, UsageError
from .function import Function, platform, target
from .service import Service, from_settings
from .settings import Settings

if TYPE_CHECKING:
    from types import FrameType

GRACE_S = 25.0
"""Seconds that accepted requests have to finish after SIGTERM; Knative and Cloud Run kill after 30 or 10."""
MAX_CONNECTIONS = 1024


def main(environ: Mapping[str, str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Exits 0 when drained, 1 where the start failed, 2 on wrong use."""
    environ = os.environ if environ is None else environ
    clock = phases.PhaseClock()
    # numpy's BLAS would start a thread a CPU at import, a third of the import's time, and nothing here uses
    # it: onnxruntime has kernels of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
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
        server = Server(listen(settings.host, settings.port), service)
    except PreheatError as error:
        return _told(error)
    service.defers = True
    server.start()
    wait_for_signal = _on_signals()
    try:
        with clock.phase(phases.Phase.IMPORT, phases.FIRST_LINE_NS) as attributes:
            attributes["of"] = "server, function"
            function = target(settings.artifact, environ)
        function.service = service
        server.serve(function)
        function.start(clock)
    except PreheatError as error:
        service.fail(error)
        server.drain(GRACE_S)  # those who wait are answered first
        return _told(error)
    gc.freeze()
    gc.enable()
    if service.resumes and service.takes_keys:
        from .adapters.deferred import resume

        resume(service)
    wait_for_signal()
    until = time.monotonic() + GRACE_S
    drained = server.drain(GRACE_S)
    service.close(max(until - time.monotonic(), 0.0))
    return 0 if drained else 1


def _told(error: PreheatError) -> int:
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
            f"cannot listen on {host}:{port}: {error.strerror}; choose another PORT or PREHEAT_HOST"
        ) from None
    return listener


class Server:
    """Accepts connections and gives each a thread; drains on request."""

    def __init__(self, listener: socket.socket, service: Service) -> None:
        self._listener = listener
        self._service = service
        self._function: Function | None = None
        self._known = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Connection] = set()

    def start(self) -> None:
        """Begin to accept: liveness is answered, inference waits for the start."""
        threading.Thread(target=self._accept, name="preheat-accept", daemon=True).start()

    def serve(self, function: Function) -> None:
        """Name the function whose FastAPI application answers what is not a hot route."""
        self._function = function
        self._known.set()

    def drain(self, grace_s: float) -> bool:
        """Stop accepting, finish what was accepted, close the rest; whether all was done in time."""
        self._service.drain()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept(), which close() does not
        self._listener.close()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            with self._lock:
                for connection in self._open:
                    connection.close_if_idle()
                if not self._open:
                    return True
            time.sleep(0.01)
        return False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return  # closed: draining
                time.sleep(0.05)  # out of file descriptors, say: what is open may close
                continue
            connection = Connection(client, self._service, self._other)
            with self._lock:
                full = len(self._open) >= MAX_CONNECTIONS
                if not full:
                    self._open.add(connection)
            if full:
                connection.refuse()
            else:
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                self._open.discard(connection)

    def _other(self, request: HttpRequest, query: str) -> HttpResponse:
        self._known.wait()
        assert self._function is not None  # noqa: S101 - what was waited for
        try:
            return self._function.bridge.respond(request, query)
        except PreheatError as error:
            return refused(self._service, from_error(self._service, error))


def _on_signals() -> Callable[[], None]:
    """What waits for the first SIGTERM or SIGINT; the second ends the process at once.

    It reads what the interpreter writes the moment a signal arrives (set_wakeup_fd): one that comes just
    before the thread blocks in a lock, as an event does, would not be looked at before the lock is released.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    stopped: list[int] = []

    def received(number: int, _frame: FrameType | None) -> None:
        if stopped:
            os._exit(128 + number)
        stopped.append(number)

    def wait() -> None:
        while not stopped:
            os.read(readable, 1)

    signal.signal(signal.SIGTERM, received)
    signal.signal(signal.SIGINT, received)
    return wait


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("error: this takes no arguments; PREHEAT_ARTIFACT names what to serve", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Daemon threads may sit in a session's run: leave without tearing it down under them.
    os._exit(status)
