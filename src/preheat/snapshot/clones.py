"""The template process: started once, forked for each instance; ``copies.py`` has its loop.

A clone never tears down the session that it inherited, which can crash (onnxruntime, pull request 31961): it
leaves by ``os._exit`` after its drain.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..errors import EngineError, PreheatError
from ..takeover import take_over
from .copies import Asked, Copies, own_environ, take_signals, tell
from .template import Template, go_on, prepare, say_restored

if TYPE_CHECKING:
    from ..engine import Engine
    from ..server import Stop

SETTLE_S = 0.1
"""Seconds after which a copy proves its session, and a clone opens one of more threads: its first answer has
the machine to itself."""


def main(control: socket.socket, environ: Mapping[str, str]) -> int:
    """Start, say so, fork on request; gives the exit status, 0 when nobody asks any more or on SIGTERM."""
    try:
        template = prepare(environ, kind="fork", one_thread=True)
    except PreheatError as error:
        from ..server import told

        status = told(error)  # it is in the log when whoever asked hears of it
        tell(control, what="failed", error=str(error), code=error.code)
        return status
    except Exception as error:  # a hook's own
        traceback.print_exc()
        tell(control, what="failed", error=f"{type(error).__name__}: {error}", code="hook")
        return 1
    report = template.report
    return Copies(control, partial(_be_clone, template, environ), ahead=partial(_run_once, template)).run(
        location=template.location, version=report.facts["artifact"]["version"], report=report.to_dict()
    )


def _be_clone(template: Template, environ: Mapping[str, str], asked: Asked) -> int:
    from ..server import Stop

    stop = Stop()
    take_signals()
    own = own_environ(asked)
    os.environ.update(own)
    template.renewal.woken_ns, template.renewal.instance = asked.began_ns, asked.instance
    settle = partial(_settle, template, stop)
    return go_on(template, asked.listener, stop, {**environ, **own}, settle=settle)


def _run_once(template: Template) -> None:
    """In a spare: write to the pages that a first answer will write to. Raises EngineError."""
    from ..warmup import warm

    loaded = template.loaded
    assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it
    warm(loaded.engine, loaded.artifact, once=True)


def _settle(template: Template, stop: Stop) -> None:
    """In a clone, beside its first requests: prove the session, and open the one of more threads.

    The inherited one answers until then; a clone that gets none of more threads keeps it.
    """
    if not prove(template, stop) or template.threads == 1:
        return
    service, loaded = template.function.service, template.loaded
    try:
        variant = loaded.engine.variant
        take_over(service, variant, template.threads, template.function.settings, keep=_inherited.append)
    except PreheatError as error:
        print(f"warning: {error}; one thread runs", file=sys.stderr, flush=True)  # noqa: T201
        return
    loaded.report.facts = {**loaded.report.facts, "threads": template.threads}


def prove(template: Template, stop: Stop) -> bool:
    """In a copy, beside its first requests: whether its session still gives the answers that were recorded.
    Where it does not, the copy ends."""
    from ..warmup import warm

    time.sleep(SETTLE_S)
    service, loaded = template.function.service, template.loaded
    assert loaded.artifact is not None  # noqa: S101 - bootstrap keeps it
    say_restored(template)
    try:
        warm(loaded.engine, loaded.artifact, once=True)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        service.fail(error)
        stop.end()
        return False
    return True


_inherited: list[Engine] = []
"""The template's session, which no clone may tear down."""
