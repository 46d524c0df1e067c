"""The floor that a benchmark's starts are held against."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from preheat.measure import imported, rounds, target
from preheat.measure.run import told
from preheat.measure.start import Contender


@contextlib.contextmanager
def under(subject: target.Target, server: Contender) -> Iterator[Contender]:
    """The floor under a server's start, for the length of a block: it opens what a first start of the server,
    which is not counted, opened, with as many threads. Raises PreheatError where that start failed."""
    first = told(rounds.rehearse(server))
    known = imported.ask(subject.importable, target.with_bytecode(subject.environ))
    with tempfile.TemporaryDirectory(prefix="preheat-floor-") as folder:
        yield target.floor(subject, first["variant"], first["threads"], known.libraries, folder)
