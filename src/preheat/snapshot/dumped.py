"""``python -m preheat.snapshot.dumped FD``: the process that CRIU dumps, and that goes on when it is
restored.

It starts up to its snapshot, says so on standard output, and reads from the pipe FD. There it is dumped. A
restore writes one line of JSON into that pipe: ``environ``; ``began_ns``, when the restore began, and
``now_ns``, both by the clock of whoever writes; ``parent``, the process that restores it and stays beside it,
and ``inherits``, whether that has a socket for it as its descriptor 3; ``instance``, its id, where that was
drawn, and it is to prove its session after its first answer.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import time
import traceback
from functools import partial

from ..errors import PreheatError, UsageError
from ..settings import Settings
from .criu import READY

_PIDFD_GETFD = 438
"""The system call's number, the same on every architecture."""


def main(descriptor: int) -> int:
    """Start, be dumped, go on; gives the exit status."""
    from .. import server
    from .clones import prove
    from .copies import ends_with
    from .template import go_on, prepare

    try:
        template = prepare(os.environ, kind="criu", one_thread=False)
        facts, report = template.report.facts, template.report.to_dict()
        told = {"artifact": facts["artifact"], "variant": facts["variant"]}
        told.update(location=template.location, report=report)
        print(READY + json.dumps(told), flush=True)  # noqa: T201
        with open(descriptor, "rb") as pipe:
            line = pipe.readline()
        if not line:
            return 0
        restored = json.loads(line)
        if not ends_with(restored["parent"]):
            return 1
        for name in [name for name in os.environ if not name.startswith(("PREHEAT_", "PYTHON", "PATH"))]:
            del os.environ[name]
        os.environ.update(restored["environ"])
        stop = server.Stop()
        settings = Settings.from_environ(os.environ)
        if restored["inherits"]:
            listener = _taken_over(restored["parent"])
        else:
            listener = server.listen(settings.host, settings.port)
        # CRIU lets this process's clock go on from where it stood; what measures from outside has another.
        offset_ns = time.perf_counter_ns() - restored["now_ns"]
        template.renewal.woken_ns = restored["began_ns"] + offset_ns
        template.renewal.facts["clock_offset_ns"] = offset_ns
        template.renewal.instance = restored["instance"]
        settle = partial(prove, template, stop) if restored["instance"] else None
        return go_on(template._replace(settings=settings), listener, stop, os.environ, settle=settle)
    except PreheatError as error:
        return server.told(error)
    except Exception:  # a hook's own
        traceback.print_exc()
        return 1


def _taken_over(pid: int) -> socket.socket:
    """A copy of another process's listening socket (pidfd_getfd(2)): CRIU gives a process only what it had.
    Raises UsageError."""
    from ..server import FIRST_INHERITED, listening

    other = os.pidfd_open(pid)
    found = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, other, FIRST_INHERITED, 0)
    os.close(other)
    if found < 0:
        why = os.strerror(ctypes.get_errno())
        raise UsageError(f"LISTEN_FDS is set, and the socket cannot be taken over: {why}")
    return listening(found, "LISTEN_FDS is set, and descriptor 3")


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
