"""Which instances a gateway has, kept outside of it: after it was killed, the next one ends what it left.

A folder a gateway under the state folder, locked while it lives; in it a file an instance, named by the
process's id, holding its start time, so that no other process is ever taken for it. Dumps that instances are
restored from lie there too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import UsageError

LOCK = "lock"
ENDS_S = 3.0
"""Seconds that a left instance has to end after SIGTERM."""


def default_folder(environ: Mapping[str, str]) -> Path:
    """The user's runtime folder, else one of the user's own among the temporary ones."""
    base = environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "preheat" if base else Path(tempfile.gettempdir()) / f"preheat-{os.getuid()}"


class Records:
    """One gateway's folder. Ends first what gateways left that are gone. Raises UsageError where none can be
    made."""

    def __init__(self, state: Path) -> None:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            if state.stat().st_uid != os.getuid():
                raise UsageError(f"{state} belongs to another user; name a state folder with --state")
            with _locked(state / LOCK):
                self.ended = _end_left(state)
                """How many instances of others were ended."""
                self.folder = Path(tempfile.mkdtemp(prefix="up-", dir=state))
                self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UsageError(
                f"the state folder {state} cannot be written: {error.strerror}; name another with --state"
            ) from error

    def add(self, pid: int) -> None:
        """Note an instance. Raises OSError: on a full disk, too."""
        (self.folder / str(pid)).write_text(str(started(pid)))

    def remove(self, pid: int) -> None:
        (self.folder / str(pid)).unlink(missing_ok=True)

    def close(self) -> None:
        """Forget this gateway, which has no instance any more."""
        _forget(self.folder)
        os.close(self._lock)


def _end_left(state: Path) -> int:
    """End the instances of gateways that are gone, and forget these; gives how many instances were ended."""
    ended = 0
    for folder in sorted(state.glob("up-*")):
        # One that is locked lives.
        with contextlib.suppress(BlockingIOError), _locked(folder / LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            left = [(int(file.name), file.read_text()) for file in folder.iterdir() if file.name.isdigit()]
            ended += _end(left)
            _forget(folder)
    return ended


def _forget(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # dumps of instances too


@contextlib.contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def started(pid: int) -> int | None:
    """When a process started, in ticks since boot (proc(5), field 22 of ``stat``); None where it is no more,
    a zombie included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _end(instances: list[tuple[int, str]]) -> int:
    """SIGTERM to all of them, then SIGKILL to those that stay; returns when they have ended, and how many
    were there."""
    there = []
    for pid, text in instances:
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            if str(started(pid)) == text:  # looked at after it is held: it is this process or none
                there.append(descriptor)
            else:
                os.close(descriptor)
    left = there
    for number in (signal.SIGTERM, signal.SIGKILL):
        for descriptor in left:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, number)
        until = time.monotonic() + ENDS_S
        while left and (rest := until - time.monotonic()) > 0:
            ended, _, _ = select.select(left, [], [], rest)
            left = [descriptor for descriptor in left if descriptor not in ended]
    for descriptor in there:
        os.close(descriptor)
    return len(there)
