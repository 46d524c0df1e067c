"""Instances that are restored by CRIU from a dump that the gateway has made: one for each function, made anew
when its artifact is another one."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import PreheatError
from ..snapshot.criu import CriuError
from ..snapshot.forkserver import Template
from .forking import Forked
from .starts import Process, Start, fresh


class Restored(Forked):
    """As ``Forked``; where CRIU cannot dump here, instances start fresh. ``folder``: the gateway's own, for
    the dumps: processes' memory, secrets in it."""

    warm = False  # a restore that fails is a fresh start, and takes as long

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        start_timeout_s: float,
        *,
        folder: Path,
        changed: Callable[[], None],
        renewed: Callable[[], None],
        noted: Callable[[int], None],
        forgotten: Callable[[int], None],
    ) -> None:
        super().__init__(
            name,
            environ,
            start_timeout_s,
            changed=changed,
            renewed=renewed,
            noted=noted,
            forgotten=forgotten,
        )
        self.refused = ""
        """Why there is no dump, in CRIU's words; empty where there is one, or may be."""
        self._folder = folder
        self._numbers = itertools.count(1)
        self._dumps: dict[Template, Path] = {}

    @property
    def kind(self) -> str:  # type: ignore[override]
        """How the next instance starts."""
        return "fresh" if self.refused else "criu"

    def ready(self) -> bool:
        return True if self.refused else super().ready()

    def start(self, start: Start) -> Process:
        """Restore one; where there is no dump, start one fresh, which says why in its report."""
        if self.refused:
            environ = {**start.environ, "PREHEAT_NOT_RESTORED": self.refused}
            return Process(fresh(start._replace(environ=environ)))
        return self._cloned(start, start.output)

    def _new(self, output: int) -> Template:
        dump = self._folder / f"{self._name}-{next(self._numbers)}"
        template = Template(self._environ, output=output, images=str(dump))
        self._dumps[template] = dump
        return template

    def _does_without(self, error: PreheatError) -> bool:
        if error.code != CriuError.code:
            return False
        self.refused = str(error)
        sys.stderr.write(f"{self._name}  warning: instances start fresh, not by criu: {error}\n")
        return True

    def _over(self, template: Template) -> None:
        shutil.rmtree(self._dumps.pop(template), ignore_errors=True)

    def _told(self, pid: int) -> int | None:
        """The status of what stands beside a restored process tells how that ended."""
        status = super()._told(pid)
        return 128 - status if status is not None and status > 128 else status
