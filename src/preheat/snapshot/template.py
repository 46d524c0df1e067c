"""A process that is started up to its snapshot, and how a copy of it goes on: by fork, or by CRIU.

The session's opening is paid once, before any copy: so the variant that runs fastest is opened (objective
``warm``, unless PREHEAT_OBJECTIVE says otherwise), and the recorded request is answered once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from .. import fingerprint
from ..errors import UsageError
from ..function import Function, log, quieten_libraries, target
from ..phases import FIRST_LINE_NS, ColdStartReport, Phase, PhaseClock
from ..principals import principal
from ..service import State
from ..settings import Settings
from ..takeover import give_back
from . import hooks
from .builtin import Renewal
from .copies import threads_now
from .pinned import pinned

if TYPE_CHECKING:
    import socket

    from ..bootstrap import Loaded
    from ..server import Stop

_WORTH_COPYING = 1 << 18
"""Bytes of a mapping from which on its faults cost more than a page of its own."""
THREADS_S = 10.0
"""Seconds that threads of the start have to end."""


class Template(NamedTuple):
    """A function that was started, with everything closed that no copy may share."""

    function: Function
    settings: Settings
    """As they were given; the function's own name one thread where it is forked."""
    renewal: Renewal
    threads: int
    """Threads that a session shall have."""
    location: str
    """The artifact: a folder, or a reference as it was given, its alias not resolved."""

    @property
    def loaded(self) -> Loaded:
        """Its model."""
        loaded = self.function.service.current
        assert loaded is not None  # noqa: S101 - it was started
        return loaded

    @property
    def report(self) -> ColdStartReport:
        """How it started; in a copy, how that did."""
        return self.loaded.report


def prepare(environ: Mapping[str, str], *, kind: str, one_thread: bool) -> Template:
    """Start, answer once, run the before-hooks. ``kind``: what makes copies, ``fork`` or ``criu``.
    ``one_thread``: open the session with a single thread, and raise UsageError where the process keeps
    another.

    Raises what a start raises, and what a hook raises.
    """
    clock = PhaseClock()
    quieten_libraries()
    gc.disable()
    settings = Settings.from_environ(environ)
    if not settings.artifact:
        raise UsageError("nothing to serve: set PREHEAT_ARTIFACT to an artifact folder or an app.py")
    started_as = settings._replace(objective=settings.objective or "warm", tiered="off")
    renewal = Renewal(kind)
    renewal.register()  # before the function's own: the last before a snapshot, the first after a restore
    with pinned(started_as, settings.cache_dir(environ), clock) as location:
        with clock.phase(Phase.IMPORT, FIRST_LINE_NS) as attributes:
            attributes["of"] = "template, function"
            from .. import server  # noqa: F401 - what each copy needs is loaded here

            function = target(location, {**environ, "PREHEAT_ARTIFACT": location})
        threads = settings.thread_count(environ) or (1 if one_thread else fingerprint.machine().cpus)
        function.settings = function.settings._replace(
            objective=started_as.objective,
            tiered=started_as.tiered,
            threads=1 if one_thread else threads,
        )
        renewal.adopt(function, function.service.close)
        function.service.defers = True
        function.start(clock)
    _answer_once(function)
    hooks.run_before()
    if one_thread:
        _wait_for_threads()
    gc.collect()
    give_back()
    gc.freeze()  # the collector writes to no page that copies share
    if one_thread:
        _take_page_tables_along()
    return Template(
        function, settings, renewal, threads, settings.artifact if "://" in location else function.location
    )


def go_on(
    template: Template,
    listener: socket.socket,
    stop: Stop,
    environ: Mapping[str, str],
    *,
    settle: Callable[[], object] | None = None,
) -> int:
    """In a copy: run the after-hooks, serve on ``listener`` until told to stop, drain; gives the exit status.

    ``settle``: runs in a thread beside the first requests, and proves the session; without it that is done
    before anything is answered. Raises what a hook raises, GoldenError, and UsageError where the copy is for
    no tenant and must be.
    """
    from .. import server

    function, renewal, service = template.function, template.renewal, template.function.service
    function.settings = function.settings._replace(  # further models are opened in the copy itself
        threads=template.threads, objective=template.settings.objective
    )
    service.tenant = environ.get("PREHEAT_TENANT", template.settings.tenant)
    server.check_isolation(template.settings, service.tenant)
    began_ns = renewal.woken_ns or time.perf_counter_ns()
    hooks.run_after()
    with renewal.clock.phase(Phase.RESTORE, began_ns) as attributes:
        attributes["of"] = renewal.kind  # and the function's own hooks, which nobody else times
    if settle is None:
        renewal.prove_session()
        say_restored(template)
    else:
        renewal.report()
    serving = server.Server(listener, service)
    serving.serve(function)
    serving.start()
    if settle is not None:
        threading.Thread(target=settle, name="preheat-settle", daemon=True).start()
    gc.enable()
    status = server.serve_until(stop, serving, service, server.grace_s(template.settings, environ))
    return 1 if service.state is State.FAILED else status  # its session was not what it had been


def say_restored(template: Template) -> None:
    """The log line of a restore, as ``cold start`` is a start's."""
    log("restored", **template.report.to_dict())


def _take_page_tables_along() -> None:
    """Let a fork copy the page tables of mapped weights, which the clone's first run would fill again by a
    fault for each 64 KiB: Linux does so for a private mapping that holds a page of its own (mm/memory.c,
    vma_needs_copy), so one byte of each is written, as it is."""
    with open("/proc/self/maps") as file:
        mappings = [line.split() for line in file]
    for mapping in mappings:
        if len(mapping) < 6 or mapping[1] != "rw-p" or not mapping[5].startswith("/"):
            continue
        begin, end = (int(address, 16) for address in mapping[0].split("-"))
        if end - begin >= _WORTH_COPYING:
            ctypes.memmove(begin, ctypes.string_at(begin, 1), 1)


def _answer_once(function: Function) -> None:
    """Answer the recorded request: what a first answer loads and allocates is there in each copy."""
    from ..adapters import deferred, keys  # noqa: F401 - loaded, not used
    from ..adapters.messages import HttpRequest
    from ..adapters.routes import respond
    from ..protocol import openai, v2  # noqa: F401

    loaded = function.service.current
    if loaded is None or loaded.engine.manifest.sample is None or function.task is not None:
        return
    body = json.dumps(loaded.engine.manifest.sample["request"]).encode()
    headers, who = {"content-type": "application/json"}, principal("invoke", "template")
    respond(function.service, HttpRequest("POST", "/predict", headers, body, time.perf_counter_ns(), who))


def _wait_for_threads() -> None:
    """A copy by fork has this thread alone, and every lock that another one holds stays held for ever."""
    deadline = time.monotonic() + THREADS_S
    while threads_now() > 1:
        if time.monotonic() > deadline:
            named = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
            raise UsageError(
                "a template forks only while it has one thread, and "
                f"{', '.join(named) or 'a library'} keeps {threads_now() - 1} more: start threads in a hook, "
                "preheat.snapshot.after, or start instances fresh"
            )
        time.sleep(0.005)
    sys.stdout.flush()
