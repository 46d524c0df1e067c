"""CRIU: a process dumped after its warm-up, restored as a container's entry point.

``preheat snapshot create TARGET -o DIR`` makes a folder: ``images`` (CRIU's own) and ``snapshot.json``.
``python -m preheat.snapshot.criu DIR`` restores it, stays as its parent, hands signals on and ends with its
status; where it cannot be restored, it becomes a server that starts fresh and says why in its report
(``not_restored``).

A listening socket that this process was started with (LISTEN_FDS) is the restored one's, else it opens its
own.

Weights are mapped from the artifact's files, which CRIU leaves out of the images: they must lie at the same
place. The process id is the dumped one's, so one instance runs in a PID namespace; ``restores.py`` makes one
for each. GPU memory is saved by CRIU's own CUDA plugin, where it is installed.
"""

from __future__ import annotations

from .. import phases  # isort: skip - the first mark: before anything else is imported

import contextlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from ..errors import FailedStartError, PreheatError, UsageError

DUMP_S = 300.0
"""Seconds that a dump may take."""
RESTORE_S = 20.0
"""Seconds after which a restore is given up."""
READY = "preheat-snapshot-ready "
"""What begins the line that says that a process can be dumped; JSON follows."""
GIVEN = ("PREHEAT_HOST", "PREHEAT_TENANT", "PREHEAT_GRACE")
"""Settings that a restore may have of its own; the others are the snapshot's."""
_NAME = "snapshot.json"
_LIKE = ("-v1", "--file-locks", "--manage-cgroups=ignore")
"""What a dump and its restores are told alike. The locks hold an artifact of a store in the cache; a restored
process is in the control groups of whoever restores it."""
WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
"""The signals that whoever stays beside a restored process waits for."""
_CAP_SYS_ADMIN = 21
_FIRST_PID, _LAST_PID = 20000, 30000
"""Where the dumped process's id is put, so that it is free when it is restored."""


class CriuError(PreheatError):
    """CRIU is missing, lacks rights, or refuses."""

    code = "criu"


def find(environ: Mapping[str, str]) -> str:
    """CRIU's program. Raises CriuError where there is none."""
    for folder in [*environ.get("PATH", "").split(os.pathsep), "/usr/local/sbin", "/usr/sbin"]:
        path = os.path.join(folder, "criu")
        if folder and os.access(path, os.X_OK):
            return path
    raise CriuError("criu is not installed: version 4 or later is needed, in a folder of PATH")


def images_of(folder: str) -> str:
    """Where a snapshot's images lie."""
    return os.path.join(os.path.abspath(folder), "images")


def check(criu: str) -> None:
    """Raises CriuError with what ``criu check`` says, where it says no."""
    import subprocess

    probes = _probes()
    made = {**os.environ, **_remembering(probes)}
    command = [criu, "check", *_rights(probes)]
    done = subprocess.run(command, env=made, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CriuError(f"criu check: {_last_error(done.stdout + done.stderr)}")


def create(location: str, folder: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Start a target up to its snapshot, and dump it into a new folder; gives what ``snapshot.json`` holds.

    Raises UsageError, CriuError, and FailedStartError where the target does not start.
    """
    import subprocess

    criu = find(environ)
    check(criu)
    images = images_of(folder)
    if os.path.exists(os.path.join(folder, _NAME)):
        raise UsageError(f"{folder} holds a snapshot already: name a new folder")
    try:
        os.makedirs(images, mode=0o700, exist_ok=True)
        os.chmod(images, 0o700)  # the process's memory: its environment and settings are in it
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}") from None
    target = location if "://" in location else os.path.abspath(location)
    woken, wake = os.pipe()
    printed, prints = os.pipe()
    _choose_pid()
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "preheat.snapshot.dumped", str(woken)],
        env={**environ, "PREHEAT_ARTIFACT": target},
        stdin=subprocess.DEVNULL,
        stdout=prints,
        stderr=prints,
        pass_fds=[woken],
        start_new_session=True,
    )
    try:
        inodes = {"wake": os.fstat(woken).st_ino, "output": os.fstat(prints).st_ino}
        os.close(prints)  # so that its end is heard
        facts = _until_ready(printed)
        log = os.path.join(images, "dump.log")
        dump = [criu, "dump", "-t", str(process.pid), "-D", images, "-o", log, *_LIKE, *_rights()]
        done = subprocess.run(dump, capture_output=True, timeout=DUMP_S, check=False)  # noqa: S603
        if done.returncode:
            raise CriuError(f"criu dump: {_last_error(_read(log) or done.stderr.decode(errors='replace'))}")
        snapshot = {
            "schema": 1,
            "target": target,
            **facts,
            **inodes,
            "bytes": sum(entry.stat().st_size for entry in os.scandir(images)),
        }
        with open(os.path.join(folder, _NAME), "w") as file:
            file.write(json.dumps(snapshot, indent=1) + "\n")
        return snapshot
    except subprocess.TimeoutExpired:
        raise CriuError(f"criu dump did not end within {DUMP_S:g} s") from None
    finally:
        for descriptor in (woken, wake, printed):
            os.close(descriptor)
        process.kill()
        process.wait()


def read(folder: str) -> dict[str, Any]:
    """What a snapshot says of itself. Raises UsageError where there is none."""
    try:
        with open(os.path.join(folder, _NAME), "rb") as file:
            found = json.loads(file.read())
        if found["schema"] != 1:
            raise ValueError
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} holds no snapshot; `preheat snapshot create TARGET -o {folder}` makes one"
        ) from None


def restore(folder: str, environ: Mapping[str, str]) -> int:
    """Restore a snapshot and stay until it ends; gives its exit status. Where that is impossible this process
    becomes a server that starts fresh. Raises UsageError where there is no snapshot at all."""
    began_ns = phases.process_start_ns() or phases.FIRST_LINE_NS
    snapshot = read(folder)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    inherits = environ.get("LISTEN_PID") == str(os.getpid()) and bool(environ.get("LISTEN_FDS"))
    given = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
    try:
        pid = resume(folder, snapshot, given, began_ns, inherits=inherits)
    except CriuError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        start_fresh(snapshot["target"], environ, str(error))
    return stay(pid)


def resume(
    folder: str,
    snapshot: Mapping[str, Any],
    environ: Mapping[str, str],
    began_ns: int,
    *,
    inherits: bool,
    instance: str = "",
) -> int:
    """Restore a snapshot as a child of this process, which has WATCHED blocked, and let it go on. Gives its
    process id. Raises CriuError.

    ``inherits``: it serves this process's descriptor 3. ``instance``: its id, where one was drawn already; it
    then proves its session after its first answer: whoever asks has made the snapshot on this very machine.
    """
    pid, wake = _restored(folder, snapshot, environ)
    given = {
        name: value for name, value in environ.items() if name in GIVEN or not name.startswith("PREHEAT_")
    }
    told: dict[str, Any] = {"environ": given, "began_ns": began_ns, "parent": os.getpid()}
    told.update(inherits=inherits, instance=instance, now_ns=time.perf_counter_ns())
    with open(wake, "wb") as pipe:
        pipe.write(json.dumps(told).encode() + b"\n")
    return pid


def stay(pid: int) -> int:
    """Hand signals on to a child until it ends; gives its exit status, 128 and more for a signal. WATCHED
    are blocked."""
    while True:
        number = signal.sigwait(WATCHED)
        if number != signal.SIGCHLD:
            os.kill(pid, number)
            continue
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _restored(folder: str, snapshot: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[int, int]:
    """The process, a child of this one, and the pipe that wakes it. Raises CriuError."""
    criu = find(environ)
    probes, (woken, wake) = _probes(), os.pipe()
    with _work_folder(environ) as work:
        pidfile, log = os.path.join(work, "pid"), os.path.join(work, "log")
        inherit = []
        for descriptor, inode in ((woken, snapshot["wake"]), (1, snapshot["output"])):
            os.set_inheritable(descriptor, True)
            inherit += ["--inherit-fd", f"fd[{descriptor}]:pipe:[{inode}]"]
        command = [criu, "restore", "-D", images_of(folder), "-W", work, "-o", log, "--pidfile", pidfile]
        command += ["--restore-detached", "--restore-sibling", *inherit, *_LIKE, *_rights(probes)]
        spawned = os.posix_spawn(criu, command, {**environ, **_remembering(probes)}, setsigmask=[])
        os.close(woken)
        deadline = time.monotonic() + RESTORE_S
        while not (done := os.waitpid(spawned, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(spawned, signal.SIGKILL)
                os.waitpid(spawned, 0)
                os.close(wake)
                raise CriuError(f"criu restore did not end within {RESTORE_S:g} s")
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        if done[1]:
            os.close(wake)
            raise CriuError(f"criu restore: {_last_error(_read(log))}")
        return int(_read(pidfile)), wake


@contextlib.contextmanager
def _work_folder(environ: Mapping[str, str]) -> Iterator[str]:
    """A folder for CRIU's log; tempfile's import would take longer than all else here."""
    work = os.path.join(environ.get("TMPDIR") or "/tmp", f"preheat-criu-{os.getpid()}-{os.urandom(8).hex()}")  # noqa: S108 - no name that can be guessed
    os.mkdir(work, 0o700)
    try:
        yield work
    finally:
        for name in os.listdir(work):
            os.unlink(os.path.join(work, name))
        os.rmdir(work)


def start_fresh(target: str, environ: Mapping[str, str], reason: str) -> NoReturn:
    """Become a server that starts fresh, and has ``reason`` in its report."""
    sys.stderr.write(f"warning: the snapshot is not restored, the server starts fresh: {reason}\n")
    sys.stderr.flush()
    made = {**environ, "PREHEAT_NOT_RESTORED": reason}
    made.setdefault("PREHEAT_ARTIFACT", target)
    os.execve(sys.executable, [sys.executable, "-m", "preheat.server"], made)  # noqa: S606


def _choose_pid() -> None:
    """Let the next process have an id that is far from those of a container's first processes."""
    import random  # not at the top: a restore needs none of it

    try:
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(random.randrange(_FIRST_PID, _LAST_PID)))  # noqa: S311 - not a secret
    except OSError:  # without the right to it, whatever id comes
        pass


def _until_ready(printed: int) -> dict[str, Any]:
    """Read what the process prints until it can be dumped. Raises PreheatError with its reason where it
    ends."""
    lines: list[str] = []
    with open(os.dup(printed), encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(READY):
                return dict(json.loads(line.removeprefix(READY)))
            lines.append(line.strip())
    said = [line for line in lines if line and not line.startswith("{")]
    raise FailedStartError(
        f"the target does not start: {said[-1].removeprefix('error: ') if said else 'it said nothing'}"
    )


def _rights(probes: str = "") -> list[str]:
    """Without CAP_SYS_ADMIN it needs CAP_CHECKPOINT_RESTORE, and to be told. With --unprivileged it keeps
    what it found of the kernel in XDG_RUNTIME_DIR, for root too; else in /run, if that is a tmpfs."""
    return [] if _is_admin() and not probes else ["--unprivileged"]


def _probes() -> str:
    """A folder of this user's own for what CRIU finds of the kernel, which takes it 20 ms at each restore. It
    keeps that on a tmpfs only, gone with the boot that it is true for. Empty where there can be none."""
    place = f"/dev/shm/preheat-criu-{os.geteuid()}"  # noqa: S108 - held against its owner below
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o700)
        found = os.lstat(place)
    except OSError:
        return ""
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return place if own else ""


def _is_admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN (capabilities(7))."""
    effective = next(line for line in _read("/proc/self/status").splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _remembering(probes: str) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": probes} if probes else {}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _last_error(log: str) -> str:
    """The line of CRIU's log that says why; its first error, because others follow from it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and "rlimit" not in line]  # it goes on without
    return (errors or lines[-1:] or ["it said nothing"])[0][:300]


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("error: this takes one argument, the snapshot's folder\n")
        return 2
    try:
        return restore(sys.argv[1], os.environ)
    except PreheatError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
