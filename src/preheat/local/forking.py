"""Instances that are forked from a template: one for each function, made anew when its artifact is another
one."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping

from ..errors import FailedStartError, PreheatError, TimedOutError
from ..snapshot.forkserver import Template
from .instance import KEPT_LINES, tells_of_a_full_disk
from .starts import Process, Start, printed

STALE_S = 5.0
"""Seconds between two looks at whether the artifact is another one by now."""
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Be the parent of clones whose template is gone (prctl(2), PR_SET_CHILD_SUBREAPER), so that their end is
    told."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Forked:
    """``changed``: called when an instance may be started. ``renewed``: called when those that run are of an
    artifact that is no longer the one: they are to be drained. ``noted``, ``forgotten``: with a template's
    process."""

    kind = "fork"
    refused = ""
    warm = True

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        start_timeout_s: float,
        *,
        changed: Callable[[], None],
        renewed: Callable[[], None],
        noted: Callable[[int], None],
        forgotten: Callable[[int], None],
    ) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        """What the template and its clones printed last."""
        self._name = name
        self._environ = environ
        self._start_timeout_s = start_timeout_s
        self._changed = changed
        self._renewed = renewed
        self._noted = noted
        self._forgotten = forgotten
        self._template: Template | None = None
        self._following: Template | None = None
        self._left: list[Template] = []
        """Templates that are gone, until their clones are."""
        self._ended: dict[int, int] = {}
        self._began = 0.0
        self._looked = time.monotonic()
        self._asking: asyncio.Task[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()

    def ready(self) -> bool:
        """Whether the template is; it is started where there is none. Raises FailedStartError where it failed
        to start, TimedOutError where that took too long."""
        template = self._template
        if template is None:
            self._template = self._made()
            return False
        self._hear(template)
        if template.ready and template.alive:
            return True
        if template.ready:  # it was, and somebody ended it
            self._leave(template)
            self._template = self._made()
            return False
        try:
            template.wait_ready(0.0)
        except TimedOutError:
            if time.monotonic() < self._began + self._start_timeout_s:
                return False
            self._leave(template)
            self._template = None
            raise TimedOutError(
                f"{self._name} was not ready within {self._start_timeout_s:g} s", code="never_ready"
            ) from None
        except PreheatError as error:
            self._leave(template)
            self._template = None
            if self._does_without(error):
                return True
            said = f"{self._name} did not start: {error}" + (f": {self.lines[-1]}" if self.lines else "")
            code = "disk_full" if tells_of_a_full_disk([said]) else "failed_start"
            raise FailedStartError(said, code=code) from None
        return True

    def start(self, start: Start) -> Process:
        """Fork one. What it prints goes where the template's goes."""
        return self._cloned(start, None)

    def look(self) -> None:
        """Have a template, hear of clones that ended, and ask now and then whether the artifact is another
        one."""
        with contextlib.suppress(PreheatError):
            if self._template is None or self._template.alive:
                self.ready()
        for template in list(self._left):
            self._hear(template)
            if not template.running:
                self._left.remove(template)
                self._over(template)
        following = self._following
        if following is not None:
            self._hear(following)
            if following.ready:
                if self._template is not None:
                    self._leave(self._template)
                self._template, self._following = following, None
                self._renewed()
            elif not following.alive:
                self._leave(following)
                self._following = None
                if following.failure is not None and self._does_without(following.failure):
                    if self._template is not None:
                        self._leave(self._template)
                        self._template = None
                    self._renewed()
        elif self._asking is None and time.monotonic() > self._looked + STALE_S:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        for template in (self._template, self._following):
            if template is not None:
                self._leave(template)
        for template in self._left:
            self._over(template)
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _cloned(self, start: Start, output: int | None) -> Process:
        assert self._template is not None  # noqa: S101 - it was ready
        tenant = start.environ.get("PREHEAT_TENANT")
        environ = {"PREHEAT_TENANT": tenant} if tenant else {}
        if start.cgroup:
            environ["PREHEAT_CGROUP"] = start.cgroup
        clone = self._template.clone(start.listener, environ, output=output)
        return Process(clone.pid, self._told)

    def _does_without(self, error: PreheatError) -> bool:  # noqa: ARG002 - Restored does, for some
        """Whether instances start in another way where a template failed with ``error``."""
        return False

    def _new(self, output: int) -> Template:
        return Template(self._environ, output=output)

    def _made(self) -> Template:
        """A template that starts."""
        self._began = time.monotonic()
        output, written = os.pipe()
        template = self._new(written)
        try:
            template.start()
        finally:
            os.close(written)
        self._noted(template.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(template.fileno(), self._news, template)
        reader = loop.create_task(self._read(output))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return template

    def _news(self, template: Template) -> None:
        self._hear(template)
        if not template.alive:  # ``look`` tells of its clones; the descriptor would be readable for ever
            self._unwatch(template)
        self._changed()

    def _hear(self, template: Template) -> None:
        for one in template.ended():
            if one.status is not None:
                self._ended[one.pid] = one.status

    def _told(self, pid: int) -> int | None:
        for template in (self._template, self._following, *self._left):
            if template is not None and pid in template.running:
                self._hear(template)
        return self._ended.pop(pid, None)

    def _leave(self, template: Template) -> None:
        """End a template; its clones go on."""
        template.close()
        self._forgotten(template.pid)
        self._unwatch(template)
        self._left.append(template)

    def _over(self, template: Template) -> None:
        """A template is gone, and all of its clones."""

    def _unwatch(self, template: Template) -> None:
        asyncio.get_running_loop().remove_reader(template.fileno())

    async def _ask(self) -> None:
        """Ask whether the artifact is another one, beside everything else: a store may take seconds."""
        try:
            template = self._template
            # Where that cannot be told, the template goes on with what it has.
            with contextlib.suppress(PreheatError):
                if template is not None and template.alive and await asyncio.to_thread(template.stale):
                    self._following = self._made()
        finally:
            self._looked = time.monotonic()
            self._asking = None

    async def _read(self, output: int) -> None:
        """Pass on what a template and its clones print."""
        async with contextlib.aclosing(printed(output)) as lines:
            async for raw in lines:
                line = raw.decode(errors="replace")
                if not line.startswith("{"):
                    sys.stderr.write(f"{self._name}  {line.rstrip()}\n")
                    self.lines.append(line.strip()[:500])
