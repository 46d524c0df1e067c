"""Functions under AWS's own Runtime Interface Emulator and runtime client, on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat.measure.client import connect, free_port, read_response
from preheat.measure.lambda_runtime import command, find_rie, http_event, invocation, lambda_environ
from preheat.measure.start import placed, stop

from ...conftest import ROOT


class Emulated:
    """A function's ``app.py`` under the emulator, which starts it when the first event comes."""

    def __init__(self, app: Path, cache: Path, **environ: str) -> None:
        self.port = free_port()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREHEAT_", "AWS_"))}
        settings = {**inherited, "PREHEAT_CACHE": str(cache), **environ}
        rie = find_rie("", {"LAMBDA_RIE": os.environ.get("LAMBDA_RIE", "")})
        words = placed(command(rie, str(app)), self.port)
        self.process = subprocess.Popen(
            words, env=lambda_environ(settings, str(app)), stdout=self._printed, stderr=subprocess.STDOUT
        )

    def invoke(self, event: Any, timeout: float = 60, **headers: str) -> Any:
        """The invocation's result, as JSON; text where it is none."""
        deadline = time.monotonic() + timeout
        with connect(self.port, deadline=deadline, alive=lambda: self.process.poll() is None) as client:
            client.sendall(invocation(event, {n.replace("_", "-"): v for n, v in headers.items()}))
            body = read_response(client, deadline=deadline).body
        try:
            return json.loads(body)
        except ValueError:
            return body.decode(errors="replace")

    def http(self, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        """The result of a Function URL's event; header names with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.invoke(http_event(method, path, body, named))

    def log(self) -> str:
        """What it has printed so far."""
        self._printed.seek(0)
        return self._printed.read().decode(errors="replace")

    def stop(self) -> None:
        stop(self.process)
        self._printed.close()


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Callable[..., Emulated]]:
    """Starts functions under the emulator: a name in ``functions/`` or the path of an app.py."""
    with contextlib.ExitStack() as running:

        def start(app: str | Path, **environ: str) -> Emulated:
            path = ROOT / "functions" / app / "app.py" if isinstance(app, str) else app
            made = Emulated(path, tmp_path / "lambda-cache", **environ)
            running.callback(made.stop)
            return made

        yield start
