"""The sending process, and its workers, as the command sees them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import PreheatError, UsageError
from ..measure.client import free_port
from ..measure.start import last_line, stop

PARENT = "LOADTEST_PARENT"
"""Names the process with which a worker of this host ends."""
READY_S = 90.0


class GeneratorError(PreheatError):
    """The load could not be sent from here."""

    code = "generator"


def folder() -> Path:
    """``loadtests/``: beside the modules of an installed package, at the root of a checkout."""
    here = Path(__file__).resolve().parent
    for found in (here / "loadtests", here.parents[2] / "loadtests"):
        if (found / "locustfile.py").exists():
            return found
    raise UsageError("loadtests/locustfile.py is missing from this installation; install preheat[load] anew")


class Generator:
    """Started by ``with``; ended with the block, its workers too.

    ``workers``: processes that send, 0 for one without a master. ``bind``: where the master listens for
    workers that are started by hand, ``HOST:PORT``; empty: they are started here.
    """

    def __init__(self, workers: int = 0, bind: str = "") -> None:
        if find_spec("locust") is None:
            raise UsageError("preheat load needs locust; install it with `pip install 'preheat[load]'`")
        self._workers, self._bind = workers, bind
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Generator:
        host, port = _place(self._bind) if self._bind else ("127.0.0.1", free_port())
        script = str(folder() / "locustfile.py")
        command = [
            sys.executable,
            script,
            "--host",
            host,
            "--port",
            str(port),
            "--workers",
            str(self._workers),
        ]
        try:
            main = self._start(command, pipes=True)
            for _ in range(0 if self._bind else self._workers):
                address = ["--master-host", host, "--master-port", str(port)]
                self._start([sys.executable, "-m", "locust", "-f", script, "--worker", *address], pipes=False)
            threading.Thread(target=self._read, args=(main,), daemon=True).start()
            self._await("ready", READY_S, lambda _: None)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            stop(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._printed.close()

    def run(self, work: Mapping[str, Any], seen: Callable[[Mapping[str, Any]], None]) -> Mapping[str, Any]:
        """Send one segment; ``seen`` is given each batch of samples as it comes. Raises GeneratorError where
        the process or a worker ends."""
        stdin = self._processes[0].stdin
        assert stdin is not None  # noqa: S101 - piped
        try:
            stdin.write(json.dumps({"segment": work}).encode() + b"\n")
            stdin.flush()
        except OSError:
            raise GeneratorError(f"the sending process has ended: {self._last_words()}") from None
        return self._await("done", None, seen)

    def _start(self, command: Sequence[str], *, pipes: bool) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env={**os.environ, PARENT: str(os.getpid())},
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self._printed,
            stderr=self._printed,
            start_new_session=True,  # Ctrl-C is for the command, which then asks for what was seen
        )
        self._processes.append(process)
        return process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - piped
        try:
            for line in process.stdout:
                self._lines.put(json.loads(line))
        except ValueError:
            pass  # not of ours, or closed: its end is what matters
        self._lines.put(None)

    def _await(
        self, wanted: str, seconds: float | None, seen: Callable[[Mapping[str, Any]], None]
    ) -> Mapping[str, Any]:
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                raise GeneratorError(f"the sending process was not ready: {self._last_words()}") from None
            if line is None:
                raise GeneratorError(f"the sending process has ended: {self._last_words()}")
            if "error" in line:
                raise GeneratorError(f"{line['error']}; {self._last_words()}")
            if "samples" in line:
                seen(line)
            if wanted in line:
                return line

    def _last_words(self) -> str:
        return last_line(self._printed) or "it printed nothing"


def _place(bind: str) -> tuple[str, int]:
    host, _, port = bind.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--bind must be HOST:PORT, where workers find this machine, not {bind!r}")
    return host, int(port)
