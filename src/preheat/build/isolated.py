"""Call a function of this package in a fresh process: a JSON object in, a JSON object out.

What the function prints, and what the libraries under it print, goes to a file that is shown only if it
fails. A PreheatError that it raises is raised here again, of the same class.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from typing import Any

from ..errors import BuildError, PreheatError

_START = """
import sys
sys.path.append(sys.argv[1])  # last: it may be where every installed package lies
from preheat.build.isolated import serve
serve(sys.argv[2])
"""


class CrashError(BuildError):
    """The process ended without an answer: a signal, an exception that is not ours, or its time was up."""

    code = "crash"


def call(module: str, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
    """Run ``main(request)`` of a module, given by its full name, in a fresh interpreter.

    ``timeout`` in seconds. Raises what main raised if that is a PreheatError, else CrashError with the last
    line that it printed.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-P", "-c", _START, root, module]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as printed,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=printed, env=_environ()) as process,
    ):
        try:
            reply, _ = process.communicate(json.dumps(request).encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            raise CrashError(f"took more than {timeout:.0f} s and was stopped") from None
        finally:
            process.kill()  # does nothing to a process that has ended
        if process.returncode != 0:
            raise CrashError(_cause(process.returncode, _tail(printed.fileno())))
    answer: dict[str, Any] = json.loads(reply)
    if "error" in answer:
        raise _error_class(answer["code"])(answer["error"], code=answer["code"])
    return answer["value"]  # type: ignore[no-any-return]  # what main gave


def _environ() -> dict[str, str]:
    """This process's environment, without a way to a model hub, and the same hash seed every time."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONHASHSEED": "0"}


def _tail(descriptor: int) -> str:
    """The last line that holds something, of what was printed."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    text = os.pread(descriptor, 65536, max(size - 65536, 0)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _cause(status: int, last_line: str) -> str:
    if status >= 0:
        return last_line or f"ended with status {status}"
    import signal

    name = signal.Signals(-status).name
    hint = " (out of memory?)" if -status == signal.SIGKILL else ""
    return f"was ended by {name}{hint}" + (f": {last_line}" if last_line else "")


def _error_class(code: str) -> type[PreheatError]:
    """The class that carries this code, BuildError where none does."""
    todo: list[type[PreheatError]] = [PreheatError]
    while todo:
        kind = todo.pop()
        if kind.code == code:
            return kind
        todo.extend(kind.__subclasses__())
    return BuildError


def serve(module: str) -> None:
    """The other side of call: one request from stdin, one answer to what was stdout."""
    reply = os.dup(1)
    os.dup2(2, 1)  # what anything prints from here on is not the answer
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = {"value": import_module(module).main(request)}
    except PreheatError as error:
        answer = {"error": str(error), "code": error.code}
    with os.fdopen(reply, "wb") as out:
        out.write(json.dumps(answer).encode())
        out.flush()
    # Not a plain return: libraries that crash while the interpreter winds down must not undo an answer.
    sys.stderr.flush()
    os._exit(0)
