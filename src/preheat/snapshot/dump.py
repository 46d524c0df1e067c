"""``preheat snapshot create TARGET -o DIR``: a process dumped by CRIU after its warm-up.

==================  ==================================================================================
``images/``         CRIU's own, and the heap beside them (``images.py``): a process's memory
``inherited``       what a restored process gets from whoever restores it, in CRIU's names; the heap's size
``snapshot.json``   what it is a snapshot of, and how that started
``restore.py``      what restores it, as ``criu.command`` says
==================  ==================================================================================
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FailedStartError, UsageError
from .criu import (
    ENTRY,
    INHERITED,
    LIKE,
    NAME,
    READY,
    CriuError,
    check,
    find,
    images_of,
    last_error,
    rights,
    text_of,
)
from .images import lay_heap_aside

DUMP_S = 300.0
"""Seconds that a dump may take."""
_ONE_HEAP = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""What glibc allocates for other threads, and in large pieces, lies in the heap, too, which is mapped and not
copied (mallopt(3)). The sizes are those that its own thresholds grow to at most."""
_FIRST_PID, _LAST_PID = 20000, 30000
"""Where the dumped process's id is put, so that it is free when it is restored."""
_ENTRY_TEXT = """\
# Restores this snapshot. Without what `site` looks for: it needs none of that.
import os
import sys

sys.path.append({root!r})

from preheat.snapshot import criu

criu.run(os.path.dirname(os.path.abspath(__file__)))
"""


def create(location: str, folder: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Start a target up to its snapshot, and dump it into a new folder; gives what ``snapshot.json`` holds.

    Raises UsageError, CriuError, and FailedStartError where the target does not start.
    """
    criu = find(environ)
    check(criu)
    images = images_of(folder)
    if os.path.exists(os.path.join(folder, NAME)):
        raise UsageError(f"{folder} holds a snapshot already: name a new folder")
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)  # what restores it lies there, and is run
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
        dump = [criu, "dump", "-t", str(process.pid), "-D", images, "-o", log, *LIKE, *rights()]
        done = subprocess.run(dump, capture_output=True, timeout=DUMP_S, check=False)  # noqa: S603
        if done.returncode:
            raise CriuError(f"criu dump: {last_error(text_of(log) or done.stderr.decode(errors='replace'))}")
        heap = lay_heap_aside(images)
        _write(folder, INHERITED, " ".join([*inherited, str(heap)]) + "\n")
        size = sum(entry.stat().st_blocks * 512 for entry in os.scandir(images))  # a heap has holes
        snapshot = {"schema": 2, "target": target, **facts, "bytes": size, "heap_bytes": heap}
        _write(folder, ENTRY, _ENTRY_TEXT.format(root=str(Path(__file__).parents[2])))
        _write(folder, NAME, json.dumps(snapshot, indent=1) + "\n")
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


def _write(folder: str, name: str, text: str) -> None:
    """A file that nobody else may write to: it is run, or says what is."""
    descriptor = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _choose_pid() -> None:
    """Let the next process have an id that is far from those of a container's first processes."""
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
