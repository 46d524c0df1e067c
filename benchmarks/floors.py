"""The floor that a benchmark's starts are held against."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from preheat.measure import imported, rounds, target
from preheat.measure.run import told
from preheat.measure.start import Contender


class Opened(NamedTuple):
    start: Mapping[str, Any]
    """What a start told."""
    known: imported.Imported


def opened(subject: target.Target, server: Contender) -> Opened:
    """What a first start of the server, which is not counted, opened, and what it imports. Raises
    PreheatError where that start failed."""
    told_first = told(rounds.rehearse(server))
    return Opened(told_first, imported.ask(subject.importable, target.with_bytecode(subject.environ)))


@contextlib.contextmanager
def under(subject: target.Target, server: Contender, seen: Opened | None = None) -> Iterator[Contender]:
    """The floor under a server's start, for the length of a block: it opens what ``seen`` did, or else what a
    first start opens, with as many threads. Raises PreheatError where that start failed."""
    first, known = seen or opened(subject, server)
    with tempfile.TemporaryDirectory(prefix="preheat-floor-") as folder:
        yield target.floor(subject, first["variant"], first["threads"], known.libraries, folder)
