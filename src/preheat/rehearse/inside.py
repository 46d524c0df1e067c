"""``python -m preheat.rehearse.inside app.handler FD``: the function's process in a rehearsal.

Runs AWS's own ``awslambdaric.bootstrap``. Where that waits for its restore, this process is the snapshot: it
clones itself whenever it is told to over FD, and each clone goes on as a restored instance does.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from awslambdaric import bootstrap, lambda_runtime_hooks_runner
from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

from . import examine
from .raw_fork import raw_fork


class Control:
    """The line to the rehearsal: one JSON object a line, both ways."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._file = socket.socket(fileno=descriptor).makefile("rwb", buffering=0)

    def tell(self, what: str, **fields: Any) -> None:
        self._file.write(json.dumps({"what": what, "ns": time.perf_counter_ns(), **fields}).encode() + b"\n")

    def told(self) -> Any:
        """The next command; None where the rehearsal is over."""
        line = self._file.readline()
        return json.loads(line) if line else None


class Client(LambdaRuntimeClient):  # type: ignore[misc] # awslambdaric has no types
    """Lambda's own client; the snapshot is taken where it asks to be restored."""

    def __init__(self, address: str, control: Control, folder: str, baseline: examine.Baseline) -> None:
        super().__init__(address)
        self._control, self._folder, self._baseline = control, folder, baseline
        self._ready = self._search = False

    def restore_next(self) -> None:
        self._baseline.taken_ns, self._baseline.taken_at = time.perf_counter_ns(), time.time()
        found = examine.snapshot(self._baseline, self._folder, self._control.descriptor)
        self._control.tell("snapshot", **found)
        while (command := self._control.told()) is not None:
            if command["do"] == "clone":
                pid = raw_fork()
                if pid == 0:
                    self._search = bool(command["search"])
                    self._control.tell("woken")
                    super().restore_next()
                    return
                self._control.tell("cloned", pid=pid)
                _, status = os.waitpid(pid, 0)
                self._control.tell("ended", status=os.waitstatus_to_exitcode(status))
        os._exit(0)  # never torn down: the session belongs to nobody else, and nobody waits

    def wait_next_invocation(self) -> Any:
        if not self._ready:
            self._ready = True
            self._control.tell("ready")
            deep = examine.restored(self._baseline, self._folder, search=self._search)
            self._control.tell("examined", **deep)
        return super().wait_next_invocation()


def main(handler: str, descriptor: int, folder: str) -> None:
    control = Control(descriptor)
    baseline = examine.Baseline()
    _time_hooks(control)
    bootstrap.run(handler, Client(os.environ["AWS_LAMBDA_RUNTIME_API"], control, folder, baseline))


def _time_hooks(control: Control) -> None:
    """Let each hook of Lambda's registry be told as it begins and ends."""
    from snapshot_restore_py import get_after_restore, get_before_snapshot

    def timed(when: str, registry: Callable[[], list[Any]], run: Callable[[], None]) -> Callable[[], None]:
        def running() -> None:
            entries = registry()
            entries[:] = [(_told(control, when, hook), given, named) for hook, given, named in entries]
            run()

        return running

    runner = lambda_runtime_hooks_runner
    runner.run_before_snapshot = timed("before", get_before_snapshot, runner.run_before_snapshot)
    runner.run_after_restore = timed("after", get_after_restore, runner.run_after_restore)


def _told(control: Control, when: str, hook: Any) -> Callable[..., None]:
    name = f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', repr(hook))}"

    def run(*given: Any, **named: Any) -> None:
        control.tell("hook", when=when, name=name, began=True)
        hook(*given, **named)
        control.tell("hook", when=when, name=name, began=False)

    return run


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
