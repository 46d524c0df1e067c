"""The ``preheat`` command: each command is a plain function that loads what it needs when it is called.

Exit status: 0, 1 (it ran, and the answer is no), 2 (wrong use). Every PreheatError is one line on stderr, and
with ``--json`` an object on stdout too. Progress goes to stderr, results to stdout.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import typer

from ..errors import PreheatError, UsageError
from . import (  # noqa: F401 - each adds its commands
    building,
    containers,
    deploy,
    ledger,
    loading,
    measuring,
    planning,
    serving,
    snapshot,
    store,
    up,
)
from .root import app

_ClickError: Any = typer.BadParameter.__mro__[2]
"""click's ClickException, the base of every error in the arguments; typer carries its own copy of click."""


def run(arguments: list[str] | None = None) -> int:
    """Run a command; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = app(arguments, prog_name="preheat", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except PreheatError as error:
        return _fail(arguments, str(error), error.code, 2 if isinstance(error, UsageError) else 1)
    except _ClickError as error:
        message = error.format_message()  # empty where the help was shown instead
        return _fail(arguments, message, "usage", 2) if message else 2
    except (KeyboardInterrupt, typer.Abort):
        return _fail(arguments, "interrupted", "interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; the interpreter would complain once more
        return 1


def _fail(arguments: list[str], message: str, code: str, status: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"error": message, "code": code}) + "\n")
    return status


def _terminated(number: int, frame: object) -> None:  # noqa: ARG001 - what a signal handler is given
    sys.exit(128 + number)  # unwinds the stack, so that what is half built is removed
