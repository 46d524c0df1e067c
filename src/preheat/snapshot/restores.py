"""The restore server: one dump by CRIU, restored for each instance; ``copies.py`` has its loop.

A restored process has the id that was dumped, so each gets a PID namespace of its own, and /proc as that
shows it; first in it is a process that stays as its parent. Without the right to namespaces one instance at a
time can be restored. What cannot be restored starts fresh, and says why in its report (``not_restored``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ..errors import PreheatError
from ..settings import Settings
from ..stores import Reference, open_store
from . import criu, dump
from .copies import Asked, Copies, ends_with, own_environ, take_signals, tell

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 0x4000, 0x80000
_libc = ctypes.CDLL(None, use_errno=True)


def main(control: socket.socket, environ: Mapping[str, str], folder: str) -> int:
    """Make the dump in ``folder``, say so, restore on request; gives the exit status."""
    from ..server import told

    try:
        os.mkdir(folder, 0o700)
        snapshot = dump.create(environ["PREHEAT_ARTIFACT"], folder, environ)
        held = _hold(snapshot, environ)
    except PreheatError as error:
        status = told(error)
        tell(control, what="failed", error=str(error), code=error.code)
        return status
    except OSError as error:
        said = f"the dump in {folder} cannot be made: {error.strerror}"
        sys.stderr.write(f"error: {said}\n")
        tell(control, what="failed", error=said, code="images")
        return 1
    with held:
        copies = Copies(control, partial(_restore, folder, environ), _fork_apart)
        return copies.run(
            location=snapshot["location"], version=snapshot["artifact"]["version"], report=snapshot["report"]
        )


@contextlib.contextmanager
def _hold(snapshot: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[None]:
    """Hold an artifact of a store against eviction from the cache, while nobody has it open."""
    if not isinstance(open_store(snapshot["location"]), Reference):
        yield
        return
    from ..cache import Cache

    settings = Settings.from_environ(environ)
    cache = Cache(settings.cache_dir(environ), settings.cache_bytes)
    descriptor = cache.use(snapshot["artifact"]["version"])
    try:
        yield
    finally:
        os.close(descriptor)


def _fork_apart() -> int:
    """Fork a first process of a new PID namespace (pid_namespaces(7)); of this one, where that may not be."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    apart = _libc.unshare(_CLONE_NEWPID) == 0
    try:
        return os.fork()
    finally:
        if apart:
            _libc.setns(own, _CLONE_NEWPID)  # else this process could have no other children
        os.close(own)


def _restore(folder: str, environ: Mapping[str, str], asked: Asked) -> int:
    """In the first process of a namespace: restore one, stay beside it; gives its exit status."""
    from ..server import FIRST_INHERITED  # loaded since ``main``

    os.dup2(asked.listener.detach(), FIRST_INHERITED)
    if asked.output >= 0:
        for descriptor in (1, 2):
            os.dup2(asked.output, descriptor)
    made = {**environ, **own_environ(asked)}
    apart = os.getpid() == 1
    try:
        if apart:
            _show_own_processes()
        pid = criu.resume(folder, made, asked.began_ns, inherits=True, instance=asked.instance)
    except criu.CriuError as error:
        pid = _fresh(made, str(error))
    return criu.stay(pid)


def _fresh(environ: Mapping[str, str], reason: str) -> int:
    """Not this process itself: what is first in a namespace ignores signals that it sends itself."""
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        take_signals()
        if not ends_with(parent):
            os._exit(1)
        made = {**environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        criu.start_fresh(environ["PREHEAT_ARTIFACT"], made, reason)
    finally:
        os._exit(127)


def _show_own_processes() -> None:
    """Mount /proc anew, for this namespace alone. Raises CriuError."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    if (
        _libc.unshare(_CLONE_NEWNS)
        or _libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
        or _libc.mount(b"proc", b"/proc", b"proc", flags, None)
    ):
        why = os.strerror(ctypes.get_errno())
        raise criu.CriuError(f"a PID namespace has no /proc of its own: {why}")
