"""A rehearsal: one init, the before-hooks, N clones; each with its after-hooks and one invocation."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import __version__
from ..errors import PreheatError, UsageError
from ..measure import target
from ..measure.client import Response
from ..measure.lambda_runtime import answer, http_event, lambda_environ
from ..measure.start import last_line
from ..measure.summary import summary
from . import findings
from .findings import Finding
from .runtime_api import CREDENTIALS, RuntimeApi

AFTER_HOOKS_S = 10.0
"""What Lambda gives the after-hooks of a restore, all together."""
INIT_S = 130.0
"""What Lambda gives the init of a SnapStart function, before-hooks included."""
ANSWER_S = 30.0
SEARCHED = 2
"""Clones whose whole memory is searched."""

Progress = Callable[[str, int, int], None]


class Ended(PreheatError):
    """The function's process said that it failed, or went silent."""

    code = "rehearsal"


def rehearse(
    location: str, environ: Mapping[str, str], *, clones: int, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Rehearse a function's restore; gives the report that ``--json`` prints.

    Raises UsageError for what is no function, PreheatError where its init fails.
    """
    subject = target.find(location, environ)
    if not location.endswith(".py"):
        raise UsageError(f"{location} is no function: a rehearsal needs the app.py with its handler")
    progress("init", 0, clones)
    with Process(subject) as second:  # another start: what is the same in both was never random
        other = second.until("snapshot", INIT_S)
    with Process(subject) as process:
        snapshot = process.until("snapshot", INIT_S)
        init_ms = (snapshot["ns"] - process.began_ns) / 1e6
        before = _hook_times(process.heard)
        found = findings.at_snapshot(snapshot)
        restored: list[dict[str, Any]] = []
        for index in range(clones):
            progress("clone", index, clones)
            clone = process.clone(index + 1)
            found += clone.pop("findings")
            restored.append(clone)
            if clone["failed"]:
                break
    examined = [clone["examined"] for clone in restored if clone["examined"]]
    found += findings.repeated(examined, snapshot, other) + findings.kept(examined)
    good = [clone for clone in restored if not clone["failed"]]
    names = list(dict.fromkeys(name for clone in restored for name in clone["hooks"]))
    return {
        "preheat": __version__,
        "target": location,
        "clones": len(restored),
        "init_ms": round(init_ms, 3),
        "before": [{"name": name, "ms": ms} for name, ms in before.items()],
        "after": [
            {"name": n, "ms": summary([c["hooks"][n] for c in restored if n in c["hooks"]])} for n in names
        ],
        "restore_ms": summary([c["restore_ms"] for c in good]) if good else None,
        "first_answer_ms": summary([c["first_answer_ms"] for c in good]) if good else None,
        "samples": [c["first_answer_ms"] for c in good],
        "findings": [finding._asdict() for finding in dict.fromkeys(found)],
    }


class Process:
    """A function's process, initialised up to its snapshot; a context manager."""

    def __init__(self, subject: target.Target) -> None:
        self._subject = subject
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.heard: list[dict[str, Any]] = []
        self._api = RuntimeApi(self._said.put)
        self._folder = tempfile.TemporaryDirectory(prefix="preheat-rehearsal-")
        ours, theirs = socket.socketpair()
        self._control = ours
        self._lines = ours.makefile("rwb", buffering=0)
        app = os.path.abspath(subject.location)
        handler = f"{os.path.basename(app).removesuffix('.py')}.handler"
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        self.began_ns = time.perf_counter_ns()
        with theirs:
            inside = [sys.executable, "-m", "preheat.rehearse.inside", handler, str(theirs.fileno())]
            self._process = subprocess.Popen(
                [*inside, os.path.dirname(app)],
                env=_environ(subject.environ, app, self._api.address, self._folder.name),
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        threading.Thread(target=self._listen, daemon=True).start()
        path, body, headers, self._check = target.conversation(subject)
        self._event = http_event("POST", path, body, headers)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._api.close()
        self._lines.close()
        self._control.close()
        self._printed.close()
        self._folder.cleanup()

    def until(self, what: str, seconds: float) -> dict[str, Any]:
        """The next thing of a kind that is said, by the process or at its Runtime API. Raises Ended."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                said = self._said.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise Ended(f"nothing came within {seconds:g} s{self._running()}") from None
            self.heard.append(said)
            if said["what"] == what:
                return said
            if said["what"] in ("init error", "restore error", "error"):
                raise Ended(_reason(said))
            if said["what"] == "gone":
                raise Ended(f"the process ended: {self._last_words()}")
            if said["what"] == "ended":
                raise Ended(f"the clone ended with {said['status']}{self._running()}: {self._last_words()}")

    def clone(self, number: int) -> dict[str, Any]:
        """Take a clone, let it restore and answer once, and end it."""
        self.heard = []
        self._api.next_clone()
        result: dict[str, Any] = {"failed": True, "examined": None, "findings": []}
        began = time.perf_counter_ns()
        self._send({"do": "clone", "search": number <= SEARCHED})
        pid = 0
        try:
            pid = self.until("cloned", AFTER_HOOKS_S)["pid"]
            ready = next((s for s in self.heard if s["what"] == "ready"), None) or self.until(
                "ready", AFTER_HOOKS_S
            )
            result["examined"] = self.until("examined", 60.0)
            asked = time.perf_counter_ns()
            self._api.invoke(self._event)
            body = self.until("response", ANSWER_S)["body"]
            answered = time.perf_counter_ns()
            self.until("next", ANSWER_S)  # Lambda freezes an instance when it asks for the next event
            restore_ns = ready["ns"] - began
            result["restore_ms"] = round(restore_ns / 1e6, 3)
            result["first_answer_ms"] = round((restore_ns + answered - asked) / 1e6, 3)
            result["findings"] = self._wrong(answer(Response(200, {}, body)))
            result["failed"] = False
        except (Ended, ValueError) as error:
            kind = "answer" if result["examined"] else "hook"
            name = "the first invocation" if result["examined"] else self._hook() or "the restore"
            result["findings"] = [Finding(kind, name, str(error))]
        finally:
            result["hooks"] = _hook_times(self.heard)
            if pid and not any(said["what"] == "ended" for said in self.heard):
                os.kill(pid, signal.SIGKILL)  # its session is never torn down: that can crash after a fork
                with contextlib.suppress(Ended):
                    self.until("ended", 5.0)
        return result

    def _wrong(self, response: Response) -> list[Finding]:
        found = []
        problem = self._check(response)
        if problem is not None:
            found.append(Finding("answer", "the session", f"gives another answer after a restore: {problem}"))
        if response.headers.get("x-preheat-start") != "restored":
            found.append(
                Finding("answer", "x-preheat-start", "is not 'restored': the report is the snapshot's")
            )
        return found

    def _hook(self) -> str:
        """The hook that has begun and not ended."""
        hooks = [said for said in self.heard if said["what"] == "hook"]
        return str(hooks[-1]["name"]) if hooks and hooks[-1]["began"] else ""

    def _running(self) -> str:
        return f" while {self._hook()} ran" if self._hook() else ""

    def _send(self, command: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(command).encode() + b"\n")

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self._lines.readline():
                self._said.put(json.loads(line))
        self._said.put({"what": "gone"})

    def _last_words(self) -> str:
        return last_line(self._printed) or "it printed nothing"


def _environ(environ: Mapping[str, str], app: str, address: str, folder: str) -> dict[str, str]:
    """A published version's environment on Lambda with SnapStart; its temporary folder is its own."""
    kept = {
        n: v for n, v in environ.items() if not n.startswith("AWS_") or n == "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
    }
    return {
        "PREHEAT_CACHE": os.path.join(folder, "preheat"),
        **lambda_environ(target.with_bytecode(kept), app),
        "TMPDIR": folder,
        "AWS_LAMBDA_RUNTIME_API": address,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "AWS_LAMBDA_FUNCTION_NAME": "rehearsal",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{address}{CREDENTIALS}",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "rehearsal",
    }


def _hook_times(heard: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of each hook that ended, in the order in which they ran."""
    begun: dict[str, int] = {}
    taken: dict[str, float] = {}
    for said in heard:
        if said["what"] == "hook" and said["began"]:
            begun[said["name"]] = said["ns"]
        elif said["what"] == "hook":
            taken[said["name"]] = round((said["ns"] - begun[said["name"]]) / 1e6, 3)
    return taken


def _reason(said: Mapping[str, Any]) -> str:
    try:
        document = json.loads(said["body"])
        return f"{document['errorType']}: {document['errorMessage']}"
    except (ValueError, KeyError, TypeError):
        return f"{said['what']}: {said['body'][:300]!r}"
