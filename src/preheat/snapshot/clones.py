"""The template process: started once, forked for each instance. ``forkserver.py`` has the protocol.

It sleeps in one poll between forks, in its only thread. A clone never tears down the session that it
inherited, which can crash (onnxruntime, pull request 31961): it leaves by ``os._exit`` after its drain.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import EngineError, PreheatError, UsageError
from ..service import State
from .template import Template, give_back, go_on, prepare, say_restored, threads_now

if TYPE_CHECKING:
    from types import FrameType

    from ..server import Stop

SETTLE_S = 0.1
"""Seconds after which a clone proves its session and opens one of more threads: its first answer has the
machine to itself."""
MAX_MESSAGE = 1 << 16
CGROUP = "PREHEAT_CGROUP"
"""In a clone's environment: the cgroup's folder that it puts itself into first."""
CLONED = ("PREHEAT_TENANT", CGROUP)
"""Settings that clones of one template may differ in."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def main(control: socket.socket, environ: Mapping[str, str]) -> int:
    """Start, say so, fork on request; gives the exit status, 0 when nobody asks any more or on SIGTERM."""
    try:
        template = prepare(environ, kind="fork", one_thread=True)
    except PreheatError as error:
        from ..server import told

        status = told(error)  # first: who hears of the failure may end this process
        _tell(control, what="failed", error=str(error), code=error.code)
        return status
    except Exception as error:  # a hook's own
        traceback.print_exc()
        _tell(control, what="failed", error=f"{type(error).__name__}: {error}", code="hook")
        return 1
    return _ForkServer(control, template, environ).run()


class _ForkServer:
    def __init__(self, control: socket.socket, template: Template, environ: Mapping[str, str]) -> None:
        self._control = control
        self._template = template
        self._environ = environ
        self._stopping = False
        self._clones: set[int] = set()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        control.setblocking(False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)

    def run(self) -> int:
        loaded = self._template.function.service.current
        assert loaded is not None  # noqa: S101 - it was started
        _tell(
            self._control,
            what="ready",
            location=self._template.location,
            version=loaded.report.facts["artifact"]["version"],
            report=loaded.report.to_dict(),
        )
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._stopping:
            poll.poll()
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 4)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data, descriptors = b"", []
            if not data:
                if not self._stopping:  # whoever asked is gone, and told nobody to go on
                    for pid in self._clones:
                        os.kill(pid, signal.SIGTERM)
                break
            self._answer(data, descriptors, time.perf_counter_ns())
        return 0

    def _answer(self, data: bytes, descriptors: list[int], began_ns: int) -> None:
        """A request for a clone: answered by its id, or by why there is none."""
        from ..server import listening

        listener = None
        try:
            if len(descriptors) != 1:
                raise UsageError(f"a clone serves one socket, and {len(descriptors)} came")
            listener = listening(descriptors.pop(), "what a clone shall serve")
            environ = json.loads(data)["environ"]
            for name in environ:
                if name.startswith("PREHEAT_") and name not in CLONED:
                    raise UsageError(f"{name} is the template's: clones may differ in {' and '.join(CLONED)}")
            if threads_now() > 1:
                raise UsageError("the template has more than one thread now, and cannot be forked")
            instance = os.urandom(8).hex()
            pid = self._fork(listener, environ, instance, began_ns)
            self._clones.add(pid)
            _tell(self._control, what="cloned", pid=pid, instance=instance)
        except PreheatError as error:
            _tell(self._control, what="refused", error=str(error), code=error.code)
        except OSError as error:  # no memory, or as many processes as there may be
            said = f"the template cannot be forked: {error.strerror}"
            _tell(self._control, what="refused", error=said, code="fork")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if listener is not None:
                listener.close()

    def _fork(self, listener: socket.socket, environ: Mapping[str, str], instance: str, began_ns: int) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none is lost between two handlers
        try:
            pid = os.fork()
            if pid == 0:
                self._be_clone(listener, environ, instance, began_ns)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_clone(
        self, listener: socket.socket, environ: Mapping[str, str], instance: str, began_ns: int
    ) -> NoReturn:
        status = 1
        try:
            from ..server import Stop

            self._control.close()
            stop = Stop()
            for descriptor in (self._woken, self._wake):
                os.close(descriptor)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _enter(environ.get(CGROUP, ""))
            os.environ.update({name: value for name, value in environ.items() if name != CGROUP})
            template = self._template
            template.renewal.woken_ns, template.renewal.instance = began_ns, instance
            settle = partial(_settle, template, stop)
            status = go_on(template, listener, stop, {**self._environ, **environ}, settle=settle)
            if template.function.service.state is State.FAILED:
                status = 1
        except PreheatError as error:
            from ..server import told

            status = told(error)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        """Tell of the clones that ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._clones.discard(pid)
                _tell(self._control, what="ended", pid=pid, status=os.waitstatus_to_exitcode(status))

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True


def _settle(template: Template, stop: Stop) -> None:
    """In a clone, beside its first requests: prove the session, and open the one of more threads.

    The inherited one answers until then. A clone whose session gives other answers than recorded ends; one
    that gets no session of more threads keeps the one that it has.
    """
    from ..compile import compile  # they are loaded: bootstrap needed them
    from ..warmup import warm

    time.sleep(SETTLE_S)
    service = template.function.service
    loaded = service.current
    assert loaded is not None  # noqa: S101 - the template was started
    assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it
    say_restored(template)
    try:
        warm(loaded.engine, loaded.artifact, once=True)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        service.fail(error)
        stop.end()
        return
    if template.threads > 1:
        try:
            opened = compile(loaded.artifact, loaded.engine.variant, threads=template.threads)
            warm(opened, loaded.artifact, once=True)
        except EngineError as error:
            print(f"warning: {error}; one thread runs", file=sys.stderr, flush=True)  # noqa: T201
            return
        _inherited.append(loaded.engine.session)
        loaded.engine.session = opened.session
        give_back()
        loaded.report.facts = {**loaded.report.facts, "threads": template.threads}


_inherited: list[Any] = []
"""The template's session, which no clone may tear down."""


def _enter(cgroup: str) -> None:
    """Put this process into a cgroup (v2). Raises UsageError: nothing is served outside of its limits."""
    if not cgroup:
        return
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
            file.write("0")
    except OSError as error:
        raise UsageError(f"{CGROUP}: {cgroup} cannot be entered: {error.strerror}") from None


def _tell(control: socket.socket, **message: Any) -> None:
    """One message, whole; what nobody reads any more is lost."""
    control.setblocking(True)
    with contextlib.suppress(OSError):
        control.send(json.dumps(message).encode())
    control.setblocking(False)
