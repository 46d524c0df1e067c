"""CRIU: a process dumped after its warm-up, restored as a container's entry point.

``preheat snapshot create TARGET -o DIR`` makes a folder: ``images`` (CRIU's own, ``images.py``'s heap beside
them), ``snapshot.json``, and ``inherited``: what a restored process gets from whoever restores it.
``python -m preheat.snapshot.criu DIR`` restores it, stays as its parent, hands signals on and ends with its
status; where it cannot be restored, it becomes a server that starts fresh and says why in its report
(``not_restored``).

A listening socket that this process was started with (LISTEN_FDS) is the restored one's, else it opens its
own.

Weights are mapped from the artifact's files, which CRIU leaves out of the images: they must lie at the same
place. The heap is mapped from the snapshot, which may be moved or removed meanwhile, and not written to. The
process id is the dumped one's, so one instance runs in a PID namespace; ``restores.py`` makes one for each.
GPU memory is saved by CRIU's own CUDA plugin, where it is installed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time

from ..errors import FailedStartError, PreheatError, UsageError

# json, signal and what `phases` loads take as long as half of CRIU's restore: they are imported beside it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, NoReturn

DUMP_S = 300.0
"""Seconds that a dump may take."""
RESTORE_S = 20.0
"""Seconds after which a restore is given up."""
READY = "preheat-snapshot-ready "
"""What begins the line that says that a process can be dumped; JSON follows."""
_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""What glibc allocates for other threads lies in the heap, too, which is mapped and not copied."""
GIVEN = ("PREHEAT_HOST", "PREHEAT_TENANT", "PREHEAT_GRACE")
"""Settings that a restore may have of its own; the others are the snapshot's."""
HEAP, HEAP_NAME = "heap.img", "preheat-heap"
"""The heap's file, and what it is called in the images: so a snapshot can be moved."""
_NAME = "snapshot.json"
_INHERITED = "inherited"
_LIKE = ("-v1", "--file-locks", "--manage-cgroups=ignore")
"""What a dump and its restores are told alike. The locks hold an artifact of a store in the cache; a restored
process is in the control groups of whoever restores it."""
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
    import json
    import subprocess

    from .images import lay_heap_aside

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
        env={**_ONE_HEAP, **environ, "PREHEAT_ARTIFACT": target},
        stdin=subprocess.DEVNULL,
        stdout=prints,
        stderr=prints,
        pass_fds=[woken],
        start_new_session=True,
    )
    try:
        inherited = [f"pipe:[{os.fstat(descriptor).st_ino}]" for descriptor in (woken, prints)]
        os.close(prints)  # so that its end is heard
        facts = _until_ready(printed)
        log = os.path.join(images, "dump.log")
        dump = [criu, "dump", "-t", str(process.pid), "-D", images, "-o", log, *_LIKE, *_rights()]
        done = subprocess.run(dump, capture_output=True, timeout=DUMP_S, check=False)  # noqa: S603
        if done.returncode:
            raise CriuError(f"criu dump: {_last_error(_read(log) or done.stderr.decode(errors='replace'))}")
        heap = lay_heap_aside(images)
        with open(os.path.join(folder, _INHERITED), "w") as file:
            file.write(" ".join([*inherited, str(heap)]) + "\n")
        size = sum(entry.stat().st_size for entry in os.scandir(images))
        snapshot = {"schema": 2, "target": target, **facts, "bytes": size, "heap_bytes": heap}
        with open(os.path.join(folder, _NAME), "w") as file:
            file.write(json.dumps(snapshot, indent=1) + "\n")
        return snapshot
    except OSError as error:
        raise CriuError(f"the dump in {folder} cannot be written: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise CriuError(f"criu dump did not end within {DUMP_S:g} s") from None
    finally:
        for descriptor in (woken, wake, printed):
            os.close(descriptor)
        process.kill()
        process.wait()


def read(folder: str) -> dict[str, Any]:
    """What a snapshot says of itself. Raises UsageError where there is none."""
    import json

    try:
        with open(os.path.join(folder, _NAME), "rb") as file:
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
        import signal

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
    with _work_folder(environ) as work:
        spawned, wake = _spawned(folder, work, environ)
        import json
        import signal

        from .. import phases

        signal.pthread_sigmask(signal.SIG_BLOCK, watched())
        began_ns = began_ns or phases.process_start_ns() or phases.FIRST_LINE_NS
        told: dict[str, Any] = {"environ": given, "began_ns": began_ns, "parent": os.getpid()}
        told.update(inherits=inherits, instance=instance)
        with open(wake, "wb") as pipe:
            pid = _restored(spawned, work)
            pipe.write(json.dumps({**told, "now_ns": time.perf_counter_ns()}).encode() + b"\n")
    return pid


def watched() -> set[int]:
    """The signals that whoever stays beside a restored process waits for."""
    import signal

    return {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def stay(pid: int) -> int:
    """Hand signals on to a child until it ends; gives its exit status, 128 and more for a signal. The
    ``watched`` ones are blocked."""
    import signal

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
    names = _read(os.path.join(folder, _INHERITED)).split()
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
        command += [*_LIKE, *_rights(probes)]
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
    import signal

    deadline = time.monotonic() + RESTORE_S
    while not (done := os.waitpid(spawned, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(spawned, signal.SIGKILL)
            os.waitpid(spawned, 0)
            raise CriuError(f"criu restore did not end within {RESTORE_S:g} s")
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
    if done[1]:
        raise CriuError(f"criu restore: {_last_error(_read(os.path.join(work, 'log')))}")
    return int(_read(os.path.join(work, "pid")))


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
    import json

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
