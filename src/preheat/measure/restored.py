"""Starts that are no fresh process: clones of a template, and restores by CRIU.

What is made once and copied is made before the rounds; a start of a clone is counted from the request that
was written to its socket, while nobody was there to read it, to the answer.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Iterator

from ..errors import PreheatError
from ..snapshot import criu, dump
from ..snapshot.forkserver import Clone, Template
from .client import HOST, read_response
from .start import START_S, STOP_S, Contender, Start, ask_for_phases, expect_ok, pss_mib

KINDS = ("fresh", "fork", "criu")


@contextlib.contextmanager
def restoring(server: Contender, kind: str) -> Iterator[Contender]:
    """A server's contender that is started as ``kind`` says, for the length of a block. Raises PreheatError
    where there can be no template or snapshot."""
    if kind == "fork":
        with template_of(server) as template:
            label = f"{server.label} by fork"
            yield server._replace(label=label, begin=lambda contender: fork_once(template, contender))
    elif kind == "criu":
        with tempfile.TemporaryDirectory(prefix="preheat-snapshot-") as folder:
            dump.create(server.environ["PREHEAT_ARTIFACT"], folder, server.environ)
            yield server._replace(label=f"{server.label} by criu", command=tuple(criu.command(folder)))
    else:
        yield server


@contextlib.contextmanager
def template_of(server: Contender) -> Iterator[Template]:
    """A server's template, ready, for the length of a block; clones that are left end with it. Raises
    PreheatError where there can be none."""
    with tempfile.TemporaryFile() as printed:
        template = Template(server.environ, output=printed.fileno())
        template.start()
        try:
            template.wait_ready()
            yield template
        finally:
            template.close()
            for pid in template.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def fork_once(template: Template, contender: Contender) -> Start:
    """Write a request to a socket, let a clone serve it, let it tell its phases, and stop it."""
    response = coldstart = pss = problem = None
    clone: Clone | None = None
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection((HOST, port)))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = connected = end = time.perf_counter_ns()
        try:
            client.sendall(contender.request)
            connected = time.perf_counter_ns()
            clone = template.clone(listener)
            response = read_response(client, deadline=time.monotonic() + START_S)
            end = time.perf_counter_ns()
            pss = pss_mib(clone.pid)
            expect_ok(response)
            coldstart = ask_for_phases(port, contender)
        except (OSError, ValueError, PreheatError) as error:
            problem = str(error) or type(error).__name__
        finally:
            if clone is not None:
                _stop(template, clone)
    return Start(begin, connected, end, response, coldstart, pss, problem)


def _stop(template: Template, clone: Clone) -> None:
    """SIGTERM, and SIGKILL where that does not help; returns when the clone has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(clone.pid, number)
        deadline = time.monotonic() + STOP_S
        while time.monotonic() < deadline:
            if any(ended.pid == clone.pid for ended in template.ended()):
                return
            select.select([template], [], [], 0.1)
