"""A start from the disk: Preheat and the floor under it, with and without what they read in the page cache.

Files are dropped one by one (posix_fadvise), which needs no privilege and slows nobody else; what another
process has mapped stays, and how much that is the title says.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from preheat.errors import UsageError
from preheat.measure import rounds, target
from preheat.measure.caches import dropper
from preheat.measure.run import Progress
from preheat.measure.start import Contender, Start, cold_start

from . import floors
from .figures import Benchmark, Claim, Line
from .models import server_environ

NO_SWITCH = os.path.join(os.devnull, "none")
"""In place of the kernel's switch, which drops everybody's."""
EVERY = 64
"""One page of so many is looked at."""


def run(artifact: Path, turns: int, progress: Progress) -> Benchmark:
    subject = target.find(str(artifact), server_environ())
    server = target.server(subject)
    seen = floors.opened(subject, server)
    variant = subject.manifest.variant(seen.start["variant"])
    assert variant is not None  # noqa: S101 - it was opened
    files = [path for path in seen.known.files if not path.endswith(".py")]
    files += [subject.path(path) for path in sorted({*subject.manifest.read_with(variant)})]
    drop = dropper(files, switch=NO_SWITCH).drop
    drop()
    kept = resident(files)
    with floors.under(subject, server, seen) as floor:
        warm = [floor, server]
        outcomes = rounds.run([*(_dropped(one, drop) for one in warm), *warm], turns, progress=progress)
    names = ("floor, from the disk", "preheat, from the disk", "floor", "preheat")
    lines = [Line(name, [s.total_ms for s in o.good]) for name, o in zip(names, outcomes, strict=True)]
    cold_floor, cold, _, kept_in = (line.median for line in lines)
    return Benchmark(
        f"Cold start of {subject.manifest.name} from the disk ({kept:.0%} of it stayed, mapped elsewhere)",
        lines,
        [
            Claim("from the disk: preheat / floor", cold / cold_floor, 1.2, at_most=True),
            Claim("preheat: from the disk / from the cache", cold / kept_in, 1.3, at_most=True),
        ],
        sum(len(outcome.wrong) for outcome in outcomes),
    )


def _dropped(contender: Contender, drop: Callable[[], None]) -> Contender:
    """The same, started from the disk."""

    def begin(_: Contender) -> Start:
        drop()
        return cold_start(contender)

    return contender._replace(label=f"{contender.label}, from the disk", begin=begin)


def resident(files: Sequence[str]) -> float:
    """The share of these files that lies in the page cache: a read that may not wait (preadv2(2),
    RWF_NOWAIT) finds it there or fails. Raises UsageError where the file system cannot tell."""
    looked = found = 0
    page = bytearray(1)
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for offset in range(0, os.fstat(descriptor).st_size, EVERY * mmap.PAGESIZE):
                looked += 1
                try:
                    found += os.preadv(descriptor, [page], offset, os.RWF_NOWAIT)
                except BlockingIOError:
                    pass
                except OSError as error:
                    raise UsageError(f"{path}: nothing tells what is cached: {error.strerror}") from None
        finally:
            os.close(descriptor)
    return found / max(looked, 1)
