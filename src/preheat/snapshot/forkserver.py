"""A template process and its clones: an instance by fork, or by CRIU, its model loaded and warmed already.

``Template`` is the side of whoever wants instances (`preheat up`, `preheat measure`); it needs no model's
library. The process is ``python -m preheat.snapshot.forkserver 3``, with the environment of a server and, as
descriptor 3, one end of a Unix socket pair of whole messages (SOCK_SEQPACKET), JSON each:

==========  ==========================================================================================
to it       ``{"environ": {…}}`` with one listening socket (SCM_RIGHTS): make a clone that serves it; and a
            second descriptor, for what a restored one prints
from it     ``ready`` (location, version, report), or ``failed`` (error, code), once
            ``cloned`` (pid, instance) or ``refused`` (error, code), for each request, in order
            ``ended`` (pid, status), when a clone has
            ``spare`` (pid), when one was forked ahead, to be the next clone; 0 when there is none
==========  ==========================================================================================

Clones are the template's children. Where it dies they go on, and are children then of the nearest subreaper
(PR_SET_CHILD_SUBREAPER) above it. When the socket closes, the template
ends; told by SIGTERM first (``close``) alone, else with its clones: whoever had asked for them is gone.

With a second argument, a folder, it makes a dump by CRIU there, and its clones are restores
(``restores.py``).
"""

from __future__ import annotations

from .. import phases  # noqa: F401 # isort: skip - the first mark: before anything else is imported

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from threading import RLock
from typing import Any, NamedTuple

from ..errors import FailedStartError, PreheatError, TimedOutError

START_S = 180.0
"""Seconds that a template has to be ready, and its first clones wait for it."""
CLONE_S = 10.0
"""Seconds that a ready template has to fork."""
ALIAS_S = 5.0
"""Seconds that a store has to say what an alias names."""
MAX_MESSAGE = 1 << 18
_CONTROL = 3


class Clone(NamedTuple):
    pid: int
    instance: str
    """Its id, which ``x-preheat-instance`` tells."""


class Ended(NamedTuple):
    pid: int
    status: int | None
    """Exit status, negative for a signal; None where it is a child of neither and nobody told."""


class Template:
    """One template process. Safe to call from several threads; a call that waits holds up the others.

    ``environ``: the whole environment, PREHEAT_ARTIFACT in it. ``output``: a descriptor for what the template
    and its clones print; None for this process's own. ``images``: a new folder of nobody else's, for a dump
    that instances are restored from by CRIU; it stays, for whoever named it to remove. None: they are forked.
    """

    def __init__(
        self, environ: Mapping[str, str], *, output: int | None = None, images: str | None = None
    ) -> None:
        self._environ = dict(environ)
        self._images = images
        self._output = output
        self._code_at = self._code()
        self._lock = RLock()
        self._control: socket.socket | None = None
        self._poll = select.epoll()
        self._running: dict[int, int] = {}
        """Clones, each with its pidfd, once the template is gone."""
        self._spare = 0
        """The process id of the spare; 0 for none."""
        self._ended: list[Ended] = []
        self._answers: list[dict[str, Any]] = []
        self._failure: PreheatError | None = None
        self.pid = 0
        self.status: int | None = None
        """The template's own exit status, once it has ended."""
        self.ready = False
        self.location = ""
        """Where its artifact lies; told when it is ready, as are the next two."""
        self.version = ""
        self.report: Mapping[str, Any] = {}
        """How the template itself started."""

    def start(self) -> None:
        """Start the process; it is not waited for."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open(os.devnull, os.O_RDWR)
        actions: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, null, 0)]
        if self._output is not None:
            actions += [(os.POSIX_SPAWN_DUP2, self._output, number) for number in (1, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), _CONTROL))
        command = [sys.executable, "-m", "preheat.snapshot.forkserver", str(_CONTROL)]
        command += [self._images] if self._images is not None else []
        with theirs:
            try:
                # Not subprocess, whose import the template itself would pay. A group of its own: Ctrl-C at a
                # terminal is for whoever started it, who ends the clones in order.
                self.pid = os.posix_spawn(
                    sys.executable,
                    command,
                    self._environ,
                    file_actions=actions,
                    setpgroup=0,
                    setsigmask=[],
                    setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
                )
            finally:
                os.close(null)
        self._control = ours
        ours.setblocking(False)
        self._poll.register(ours, select.EPOLLIN)

    def fileno(self) -> int:
        """A descriptor that can be read when ``ended`` or ``ready`` may have news."""
        return self._poll.fileno()

    def wait_ready(self, timeout: float = START_S) -> None:
        """Wait for the template. Raises FailedStartError with its reason, TimedOutError."""
        with self._lock:
            deadline = time.monotonic() + timeout
            while not self.ready:
                self._check()
                self._read(deadline, "the template was not ready in time")

    def clone(
        self, listener: socket.socket, environ: Mapping[str, str] | None = None, *, output: int | None = None
    ) -> Clone:
        """Fork or restore an instance that serves ``listener``, which stays open here; waits for the
        template, not for the instance. ``environ``: PREHEAT_TENANT, PREHEAT_CGROUP, and names that are not
        Preheat's. ``output``: a descriptor for what a restored one prints; None for the template's.

        Raises FailedStartError where there is no template or it cannot be forked now, TimedOutError.
        """
        with self._lock:
            self.wait_ready()
            self._check()
            assert self._control is not None  # noqa: S101 - it is ready
            message = json.dumps({"environ": dict(environ or {})}).encode()
            deadline = time.monotonic() + CLONE_S
            try:
                sent = [listener.fileno(), *([output] if output is not None else [])]
                socket.send_fds(self._control, [message], sent)
            except OSError as error:
                self._gone()
                raise FailedStartError(f"the template cannot be asked: {error.strerror}") from None
            while not self._answers:
                self._check()
                self._read(deadline, "the template did not fork in time")
            answer = self._answers.pop(0)
            if answer["what"] == "refused":
                raise FailedStartError(answer["error"], code=answer["code"])
            return Clone(answer["pid"], answer["instance"])

    def ended(self) -> list[Ended]:
        """The clones that have ended since the last call. Never waits."""
        with self._lock:
            self._read(0.0, None)
            self._reap_orphans()
            ended, self._ended = self._ended, []
            return ended

    @property
    def running(self) -> list[int]:
        """Process ids of the clones that have not ended, as far as was heard."""
        with self._lock:
            return list(self._running)

    @property
    def failure(self) -> PreheatError | None:
        """Why the template did not start, as far as was heard; None where it did, or may still."""
        return self._failure

    @property
    def alive(self) -> bool:
        """Whether the template runs, as far as was heard; ``ended`` hears more."""
        return self._control is not None

    def stale(self) -> bool:
        """Whether the artifact is another one by now than the template's: its alias has moved, its folder was
        built anew; or the ``app.py`` was changed. Asks the store, so it may take seconds. Raises StoreError
        or ArtifactError where that cannot be told: the template goes on with what it has."""
        if not self.ready:
            return False
        if self._code_at != self._code():
            return True
        from .. import manifest
        from ..settings import Settings
        from ..stores import Reference, open_store

        place = open_store(self.location)
        if isinstance(place, Reference):
            from ..stores.layout import resolve
            from ..stores.object import Bucket, Deadline

            settings = Settings.from_environ(self._environ)
            wait = min(ALIAS_S, settings.fetch_timeout)
            found = f"sha256:{resolve(Bucket(place.root, Deadline(wait)), place).version}"
        else:
            found = manifest.load(place.read(manifest.FILENAME, manifest.MAX_BYTES)).version
        return found != self.version

    def _code(self) -> int:
        """When the ``app.py`` was changed last; 0 where there is none."""
        path = self._environ.get("PREHEAT_ARTIFACT", "")
        try:
            return os.stat(path).st_mtime_ns if path.endswith(".py") else 0
        except OSError:
            return 0

    def close(self) -> None:
        """End the template; its clones go on, and ``ended`` still tells of them."""
        with self._lock:
            if self._control is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGTERM)
                self._gone()

    def _check(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(str(self._failure), code=self._failure.code)
        if self._control is None:
            raise FailedStartError("the template has ended", code="template")

    def _read(self, deadline: float, late: str | None) -> None:
        """Take in what has come; wait for the first of it until the deadline. ``late``: what is said then."""
        if self._control is None:
            return
        waiting = select.poll()
        waiting.register(self._control, select.POLLIN)
        if not waiting.poll(max(deadline - time.monotonic(), 0.0) * 1000):
            if late is not None:
                raise TimedOutError(late)
            return
        while self._control is not None:
            try:
                data = self._control.recv(MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone()
                return
            self._take(json.loads(data))

    def _take(self, message: dict[str, Any]) -> None:
        what = message["what"]
        if what == "ready":
            self.ready, self.report = True, message["report"]
            self.location, self.version = message["location"], message["version"]
        elif what == "failed":
            self._failure = FailedStartError(message["error"], code=message["code"])
        elif what == "spare":
            self._spare = message["pid"]
        elif what == "ended":
            self._running.pop(message["pid"], None)
            self._ended.append(Ended(message["pid"], message["status"]))
        else:
            self._answers.append(message)
            if what == "cloned":
                self._running[message["pid"]] = -1
                if message["pid"] == self._spare:
                    self._spare = 0

    def _gone(self) -> None:
        """The template is no more, or soon: its clones are watched from here."""
        assert self._control is not None  # noqa: S101 - it was there until now
        control, self._control = self._control, None
        self._poll.unregister(control)
        with contextlib.suppress(OSError):
            control.shutdown(socket.SHUT_WR)  # what it has said is heard still
        with contextlib.suppress(ChildProcessError):
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with control, contextlib.suppress(OSError):
            while data := control.recv(MAX_MESSAGE):
                self._take(json.loads(data))
        if self._spare:  # the kernel has killed it; it comes to whoever the clones come to
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._spare, 0)
            self._spare = 0
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                self._running[pid] = os.pidfd_open(pid)
                self._poll.register(self._running[pid], select.EPOLLIN)

    def _reap_orphans(self) -> None:
        """After the template's end: which of its clones have ended; their status where they came to us."""
        if self._control is not None:
            return
        for pid, descriptor in list(self._running.items()):
            waiting = select.poll()
            if descriptor >= 0:
                waiting.register(descriptor, select.POLLIN)
                if not waiting.poll(0):
                    continue
            status = None
            with contextlib.suppress(ChildProcessError):
                found, raw = os.waitpid(pid, os.WNOHANG)
                status = os.waitstatus_to_exitcode(raw) if found else None
            if descriptor >= 0:
                self._poll.unregister(descriptor)
                os.close(descriptor)
            del self._running[pid]
            self._ended.append(Ended(pid, status))


def main() -> int:
    if len(sys.argv) not in (2, 3) or not sys.argv[1].isdigit():
        sys.stderr.write("error: this is started by preheat.snapshot.forkserver.Template\n")
        return 2
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        if len(sys.argv) == 3:
            from . import restores

            return restores.main(control, os.environ, sys.argv[2])
        from . import clones

        return clones.main(control, os.environ)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as the server: no session is torn down under anybody
