"""The process that copies are made of: it sleeps in one poll, in its only thread, and makes a copy on
request. ``forkserver.py`` has the protocol; ``clones.py`` and ``restores.py`` say what a copy is.

One may be forked before anybody asks, and wait: a ``Spare``. What a fork costs, and the pages that a copy
makes its own, are paid by then.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import PreheatError, UsageError

if TYPE_CHECKING:
    from types import FrameType

MAX_MESSAGE = 1 << 16
_WAITS = b"\1"
SPARE_S = 0.25
"""Seconds in which nobody asks for a copy, until one is forked ahead: not beside a first answer."""
CGROUP = "PREHEAT_CGROUP"
"""In a copy's environment: the cgroup's folder that it puts itself into first."""
OWN = ("PREHEAT_TENANT", CGROUP)
"""Settings that copies of one process may differ in."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Asked(NamedTuple):
    """A copy that somebody wants."""

    listener: socket.socket
    """The socket that it serves."""
    output: int
    """A descriptor for what it prints; -1 for this process's own."""
    environ: Mapping[str, str]
    """What is its own in its environment."""
    instance: str
    """Its id."""
    began_ns: int
    """``perf_counter_ns`` when it was asked for."""


class Spare:
    """A process that waits to be a copy. ``ours``: our end of a pair of sockets, by which it is asked. It
    ends with the process that forked it; signals that are sent to it wait until it is a copy."""

    def __init__(self, pid: int, ours: socket.socket) -> None:
        self.pid = pid
        self.ours = ours

    def waits(self) -> bool:
        """Whether it has done what it does ahead."""
        try:
            return self.ours.recv(1, socket.MSG_DONTWAIT) == _WAITS
        except OSError:
            return False

    def becomes(self, asked: Asked) -> bool:
        """Let it be what somebody wants; False where it is no more."""
        message = {"environ": dict(asked.environ), "instance": asked.instance, "began_ns": asked.began_ns}
        sent = [asked.listener.fileno(), *([asked.output] if asked.output >= 0 else [])]
        try:
            socket.send_fds(self.ours, [json.dumps(message).encode()], sent)
        except OSError:
            return False
        return True

    @staticmethod
    def wait(theirs: socket.socket) -> Asked | None:
        """In the process itself: what it is to be; None where it is not needed any more."""
        with theirs:
            try:
                theirs.send(_WAITS)
                data, descriptors, _, _ = socket.recv_fds(theirs, MAX_MESSAGE, 2)
            except OSError:  # the template ends, and has closed its end
                return None
        if not data:
            return None
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        output = descriptors[1] if len(descriptors) == 2 else -1
        return Asked(socket.socket(fileno=descriptors[0]), output, **json.loads(data))


class Copies:
    """``child``: what a copy does, with _SIGNALS blocked and no descriptor of this process's own; gives its
    exit status. ``fork``: how its process is made, by ``os.fork`` where not told. ``ahead``: what a spare
    does before it waits; without it there is none."""

    def __init__(
        self,
        control: socket.socket,
        child: Callable[[Asked], int],
        fork: Callable[[], int] | None = None,
        ahead: Callable[[], object] | None = None,
    ) -> None:
        self._control = control
        self._child = child
        self._fork = fork or os.fork
        self._ahead = ahead
        self._spare: Spare | None = None
        self._pid = os.getpid()
        self._stopping = False
        self._pids: set[int] = set()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        control.setblocking(False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._signalled)

    def run(self, **ready: Any) -> int:
        """Say that copies can be made, with what is known of them; make them until nobody asks any more, or
        SIGTERM comes. Gives the exit status."""
        tell(self._control, what="ready", **ready)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while not self._stopping:
            if not poll.poll(self._spare_ms()):
                self._make_spare()
                continue
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
                    for pid in self._pids:
                        os.kill(pid, signal.SIGTERM)
                break
            self._answer(data, descriptors, time.perf_counter_ns())
        return 0

    def _answer(self, data: bytes, descriptors: list[int], began_ns: int) -> None:
        """A request for a copy: answered by its id, or by why there is none."""
        from ..server import listening

        listener = None
        try:
            if len(descriptors) not in (1, 2):
                raise UsageError(f"a clone serves one socket, and {len(descriptors)} came")
            output = descriptors[1] if len(descriptors) == 2 else -1
            listener = listening(descriptors.pop(0), "what a clone shall serve")
            environ = json.loads(data)["environ"]
            for name in environ:
                if name.startswith("PREHEAT_") and name not in OWN:
                    raise UsageError(f"{name} is the template's: clones may differ in {' and '.join(OWN)}")
            check_threads()
            asked = Asked(listener, output, environ, os.urandom(8).hex(), began_ns)
            pid = self._made(asked)
            self._pids.add(pid)
            tell(self._control, what="cloned", pid=pid, instance=asked.instance)
        except PreheatError as error:
            tell(self._control, what="refused", error=str(error), code=error.code)
        except OSError as error:  # no memory, or as many processes as there may be
            said = f"the template cannot be forked: {error.strerror}"
            tell(self._control, what="refused", error=said, code="fork")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if listener is not None:
                listener.close()

    def _made(self, asked: Asked) -> int:
        spare = self._spare
        if spare is not None and spare.waits():
            self._spare = None
            with spare.ours:
                if spare.becomes(asked):
                    return spare.pid
        return self._forked(partial(self._be_copy, asked))

    def _be_copy(self, asked: Asked) -> int:
        _enter(asked.environ.get(CGROUP, ""))
        return self._child(asked)

    def _spare_ms(self) -> float | None:
        """Milliseconds until a spare is made where nothing else happens; None for none."""
        return SPARE_S * 1e3 if self._ahead is not None and self._spare is None else None

    def _make_spare(self) -> None:
        try:
            check_threads()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                pid = self._forked(partial(self._be_spare, ours, theirs))
            except OSError:
                ours.close()
                raise
            finally:
                theirs.close()
        except (OSError, UsageError):  # whoever asks for a copy is told
            self._ahead = None
            return
        self._spare = Spare(pid, ours)
        tell(self._control, what="spare", pid=pid)

    def _be_spare(self, ours: socket.socket, theirs: socket.socket) -> int:
        ours.close()
        assert self._ahead is not None  # noqa: S101 - it is why there is one
        if not ends_with(self._pid, signal.SIGKILL):
            return 1
        self._ahead()
        asked = Spare.wait(theirs)
        if asked is None or not outlives(self._pid):
            return 0
        return self._be_copy(asked)

    def _forked(self, work: Callable[[], int]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none is lost between two handlers
        try:
            pid = self._fork()
            if pid == 0:
                self._be_child(work)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be_child(self, work: Callable[[], int]) -> None:
        status = 1
        try:
            self._control.close()
            signal.set_wakeup_fd(-1)
            for descriptor in (self._woken, self._wake):
                os.close(descriptor)
            if self._spare is not None:
                self._spare.ours.close()
            status = work()
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
        """Tell of the copies that ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid in self._pids:
                    self._pids.remove(pid)
                    tell(self._control, what="ended", pid=pid, status=os.waitstatus_to_exitcode(status))
                elif self._spare is not None and pid == self._spare.pid:  # what it does ahead fails
                    self._spare.ours.close()
                    self._spare = self._ahead = None
                    tell(self._control, what="spare", pid=0)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True


def take_signals() -> None:
    """In a copy that has handlers of its own now: let signals come."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def ends_with(parent: int, number: int = signal.SIGTERM) -> bool:
    """End by a signal when the parent does, however that comes (prctl(2), PR_SET_PDEATHSIG): nobody would
    hand signals on. False where it has ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent


def outlives(parent: int) -> bool:
    """Take ``ends_with`` back. False where the parent has ended."""
    return ends_with(parent, 0)


def check_threads() -> None:
    """Raises UsageError where this process cannot be forked."""
    if threads_now() > 1:
        raise UsageError("the template has more than one thread now, and cannot be forked")


def threads_now() -> int:
    """Threads of this process, those of libraries included."""
    return len(os.listdir("/proc/self/task"))


def own_environ(asked: Asked) -> dict[str, str]:
    """What a copy adds to its environment."""
    return {name: value for name, value in asked.environ.items() if name != CGROUP}


def tell(control: socket.socket, **message: Any) -> None:
    """One message, whole; what nobody reads any more is lost."""
    control.setblocking(True)
    with contextlib.suppress(OSError):
        control.send(json.dumps(message).encode())
    control.setblocking(False)


def _enter(cgroup: str) -> None:
    """Put this process into a cgroup (v2). Raises UsageError: nothing is served outside of its limits."""
    if not cgroup:
        return
    try:
        with open(os.path.join(cgroup, "cgroup.procs"), "w") as file:
            file.write("0")
    except OSError as error:
        raise UsageError(f"{CGROUP}: {cgroup} cannot be entered: {error.strerror}") from None
