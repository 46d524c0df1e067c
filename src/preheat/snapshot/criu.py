"""CRIU: a dumped process (``dump.py``) restored, as a container's entry point.

``python -IS DIR/restore.py`` (``command``), or ``python -m preheat.snapshot.criu DIR``, which takes longer to
come up, restores it, stays as its parent, hands signals on and ends with its status; where it cannot be
restored, it becomes a server that starts fresh and says why in its report (``not_restored``).

A listening socket that this process was started with (LISTEN_FDS) is the restored one's, else it opens its
own.

Weights are mapped from the artifact's files, which CRIU leaves out of the images: they must lie at the same
place. The heap is mapped from the snapshot, which may be moved or removed meanwhile, and not written to. The
process id is the dumped one's, so one instance runs in a PID namespace; ``restores.py`` makes one for each.
GPU memory is saved by CRIU's own CUDA plugin, where it is installed.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what `signal` has it from, without its enums
import os
import stat
import sys
import time

from ..errors import PreheatError, UsageError

# json, signal, contextlib and what `phases` loads take half as long as CRIU's restore: so they are imported
# beside it, and what is imported before it is there in any Python.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

RESTORE_S = 20.0
"""Seconds after which a restore is given up."""
READY = "preheat-snapshot-ready "
"""What begins the line that says that a process can be dumped; JSON follows."""
GIVEN = ("PREHEAT_HOST", "PREHEAT_TENANT", "PREHEAT_GRACE")
"""Settings that a restore may have of its own; the others are the snapshot's."""
HEAP, HEAP_NAME = "heap.img", "preheat-heap"
"""The heap's file, and what it is called in the images: so a snapshot can be moved."""
NAME = "snapshot.json"
ENTRY = "restore.py"
INHERITED = "inherited"
LIKE = ("-v1", "--file-locks", "--manage-cgroups=ignore")
"""What a dump and its restores are told alike. The locks hold an artifact of a store in the cache; a restored
process is in the control groups of whoever restores it."""
_CAP_SYS_ADMIN = 21


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


def command(folder: str) -> list[str]:
    """What restores a snapshot, as a container's entry point: an interpreter that looks for no packages."""
    return [sys.executable, "-IS", os.path.join(folder, ENTRY)]


def check(criu: str) -> None:
    """Raises CriuError with what ``criu check`` says, where it says no."""
    import subprocess

    probes = _probes()
    made = {**os.environ, **_remembering(probes)}
    command = [criu, "check", *rights(probes)]
    done = subprocess.run(command, env=made, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CriuError(f"criu check: {last_error(done.stdout + done.stderr)}")


def read(folder: str) -> dict[str, Any]:
    """What a snapshot says of itself. Raises UsageError where there is none."""
    import json

    try:
        with open(os.path.join(folder, NAME), "rb") as file:
            found = json.loads(file.read())
        if found["schema"] != 2:
            raise ValueError
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} holds no snapshot; `preheat snapshot create TARGET -o {folder}` makes one"
        ) from None


def restore(folder: str, environ: Mapping[str, str]) -> int:
    """Restore a snapshot and stay until it ends; gives its exit status. Where that is impossible this process
    becomes a server that starts fresh. Raises UsageError where there is no snapshot at all."""
    inherits = environ.get("LISTEN_PID") == str(os.getpid()) and bool(environ.get("LISTEN_FDS"))
    given = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
    try:
        pid = resume(folder, given, inherits=inherits)
    except CriuError as error:
        reason, target = str(error), read(folder)["target"]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched())
        start_fresh(target, environ, reason)
    return stay(pid)


def resume(
    folder: str, environ: Mapping[str, str], began_ns: int = 0, *, inherits: bool, instance: str = ""
) -> int:
    """Restore a snapshot as a child of this process, which has ``watched`` blocked from then on, and let the
    child go on. Gives its process id. Raises CriuError.

    ``began_ns``: ``perf_counter_ns`` when it was asked for; 0: when this process began. ``inherits``: it
    serves this process's descriptor 3. ``instance``: its id, where one was drawn already; it then proves its
    session after its first answer: whoever asks has made the snapshot on this very machine.
    """
    given = {
        name: value for name, value in environ.items() if name in GIVEN or not name.startswith("PREHEAT_")
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, watched())
    work = ""
    try:
        work = _work_folder(environ)
        spawned, wake = _spawned(folder, work, environ)
        import json

        from .. import phases

        began_ns = began_ns or phases.process_start_ns() or phases.FIRST_LINE_NS
        told: dict[str, Any] = {"environ": given, "began_ns": began_ns, "parent": os.getpid()}
        told.update(inherits=inherits, instance=instance)
        with open(wake, "wb") as pipe:
            pid = _restored(spawned, work)
            pipe.write(json.dumps({**told, "now_ns": time.perf_counter_ns()}).encode() + b"\n")
    except (OSError, ValueError) as error:
        raise CriuError(f"criu restore: {error}") from None
    finally:
        if work:
            _remove(work)
    return pid


def watched() -> set[int]:
    """The signals that whoever stays beside a restored process waits for."""
    return {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def stay(pid: int) -> int:
    """Hand signals on to a child until it ends; gives its exit status, 128 and more for a signal. The
    ``watched`` ones are blocked."""
    while True:
        number = signal.sigwait(watched())
        if number != signal.SIGCHLD:
            os.kill(pid, number)
            continue
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _spawned(folder: str, work: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """CRIU at its restore, and the pipe that wakes the restored process. Raises CriuError."""
    criu, images, probes = find(environ), images_of(folder), _probes()
    names = text_of(os.path.join(folder, INHERITED)).split()
    if len(names) != 3:
        raise CriuError(f"{folder} does not say what a restored process inherits")
    woken, wake = os.pipe()
    passed = {woken: names[0], 1: names[1]}
    opened = [woken]
    try:
        if names[2] != "0":
            heap = _opened_heap(images, int(names[2]))
            opened.append(heap)
            passed[heap] = HEAP_NAME
        command = [criu, "restore", "-D", images, "-W", work, "-o", os.path.join(work, "log")]
        command += ["--pidfile", os.path.join(work, "pid"), "--restore-detached", "--restore-sibling"]
        for descriptor, name in passed.items():
            os.set_inheritable(descriptor, True)
            command += ["--inherit-fd", f"fd[{descriptor}]:{name}"]
        command += [*LIKE, *rights(probes)]
        return os.posix_spawn(criu, command, {**environ, **_remembering(probes)}, setsigmask=[]), wake
    except BaseException:
        os.close(wake)
        raise
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _opened_heap(images: str, size: int) -> int:
    """The heap's file, as long as it was: what is not there would end the restored process (SIGBUS). Raises
    CriuError."""
    path = os.path.join(images, HEAP)
    try:
        heap = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CriuError(f"{path}: {error.strerror}") from None
    if os.fstat(heap).st_size != size:
        os.close(heap)
        raise CriuError(f"{path} has not its {size} bytes")
    return heap


def _restored(spawned: int, work: str) -> int:
    """Wait for CRIU; gives the id of the process that it has restored. Raises CriuError."""
    deadline = time.monotonic() + RESTORE_S
    while not (done := os.waitpid(spawned, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(spawned, signal.SIGKILL)
            os.waitpid(spawned, 0)
            raise CriuError(f"criu restore did not end within {RESTORE_S:g} s")
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
    if done[1]:
        raise CriuError(f"criu restore: {last_error(text_of(os.path.join(work, 'log')))}")
    return int(text_of(os.path.join(work, "pid")))


def _work_folder(environ: Mapping[str, str]) -> str:
    """A new folder for CRIU's log; tempfile's import would take longer than all else here."""
    work = os.path.join(environ.get("TMPDIR") or "/tmp", f"preheat-criu-{os.getpid()}-{os.urandom(8).hex()}")  # noqa: S108 - no name that can be guessed
    os.mkdir(work, 0o700)
    return work


def _remove(work: str) -> None:
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


def rights(probes: str = "") -> list[str]:
    """Without CAP_SYS_ADMIN it needs CAP_CHECKPOINT_RESTORE, and to be told. With --unprivileged it keeps
    what it found of the kernel in XDG_RUNTIME_DIR, for root too; else in /run, if that is a tmpfs."""
    return [] if _is_admin() and not probes else ["--unprivileged"]


def _probes() -> str:
    """A folder of this user's own for what CRIU finds of the kernel, which takes it 20 ms at each restore. It
    keeps that on a tmpfs only, gone with the boot that it is true for. Empty where there can be none."""
    place = f"/dev/shm/preheat-criu-{os.geteuid()}"  # noqa: S108 - held against its owner below
    try:
        try:  # noqa: SIM105 - contextlib is not loaded here
            os.mkdir(place, 0o700)
        except FileExistsError:  # whose it is, is looked at
            pass
        found = os.lstat(place)
    except OSError:
        return ""
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return place if own else ""


def _is_admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN (capabilities(7))."""
    effective = next(line for line in text_of("/proc/self/status").splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_SYS_ADMIN & 1)


def _remembering(probes: str) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": probes} if probes else {}


def text_of(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def last_error(log: str) -> str:
    """The line of CRIU's log that says why; its first error, because others follow from it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line and "rlimit" not in line]  # it goes on without
    return (errors or lines[-1:] or ["it said nothing"])[0][:300]


def run(folder: str) -> NoReturn:
    """Restore a snapshot, as ``command`` and this module's own do, and end as it ends."""
    try:
        status = restore(folder, os.environ)
    except PreheatError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 2 if isinstance(error, UsageError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("error: this takes one argument, the snapshot's folder\n")
        sys.exit(2)
    run(sys.argv[1])
