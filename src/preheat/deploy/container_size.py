"""How large a container has to be for an artifact, and how much it takes at once; from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..settings import Settings
from .container_tables import Assumed
from .facts import Facts
from .sizing import CACHE_MIB, LEAST_TIMEOUT_S, MIB, Figures, figures, needed_mb, rounded_up

QUEUE = Settings().queue
"""Places of the server's own queue (PREHEAT_QUEUE)."""


class ContainerSize(NamedTuple):
    variant: str
    """The variant that is expected to run."""
    memory_mib: int
    cpu: int
    """CPUs, and as many threads and turns at the engine."""
    concurrency: int
    """Requests that are let in at once."""
    timeout_s: int
    tmp_mib: int
    """What ``/tmp`` holds at most."""
    rss_mib: float
    """Measured peak of the largest variant that may run."""
    init_ms: float
    """From process start to the first answer, everything fetched included; imports are assumed."""
    request_ms: float
    """A warm request's run, with all CPUs to itself."""


def size(
    facts: Facts,
    architecture: str,
    assumed: Assumed,
    *,
    cpu: int,
    timeout_s: Sequence[int],
    concurrency: Sequence[int],
    held_back_s: int = 0,
    tmp_is_memory: bool = False,
    gpu: bool = False,
    wait_ms: float,
) -> ContainerSize:
    """Sizes for a container with ``cpu`` CPUs. ``timeout_s``, ``concurrency``: the platform's least and most.

    ``held_back_s``: seconds of the platform's grace time that pass before the server learns of its end; the
    timeout leaves room for them where it is the grace time too. ``tmp_is_memory``: what lies in ``/tmp``
    counts as memory; ``gpu``: there is one. ``wait_ms``: how long a request may wait behind those
    that came before it to the same instance. Raises UsageError where the artifact was never measured.
    """
    found = figures(facts, architecture, gpu=gpu)
    best = found.best
    slower = max(facts.threads / cpu, 1.0)  # as if every thread of the measurement had been at work
    request = found.steady_ms * slower
    fetched = facts.opened(best) if facts.stored else 0
    model = (found.session_ms + found.first_ms) * slower
    init = assumed.import_ms + model + fetched / MIB / assumed.fetch_mb_per_s * 1e3
    memory, tmp = room(facts, found, assumed, tmp_is_memory=tmp_is_memory)
    longest_s = 2 * (init + request * max(facts.manifest.limits.batch, 1)) / 1e3
    least_s = max(LEAST_TIMEOUT_S + held_back_s, timeout_s[0])
    most_at_once = min(concurrency[1], QUEUE + cpu)
    return ContainerSize(
        variant=best.name,
        memory_mib=memory,
        cpu=cpu,
        concurrency=min(max(int(wait_ms / max(request, 0.1)), cpu, concurrency[0]), most_at_once),
        timeout_s=min(max(rounded_up(longest_s, 5), least_s), timeout_s[1]),
        tmp_mib=tmp,
        rss_mib=found.rss_mib,
        init_ms=init,
        request_ms=request,
    )


def room(facts: Facts, found: Figures, assumed: Assumed, *, tmp_is_memory: bool) -> tuple[int, int]:
    """MiB of memory that a container needs, and what ``/tmp`` holds at most, in MiB too."""
    tmp = rounded_up((found.most_opened / MIB if facts.stored else 0) + CACHE_MIB, 64)
    return needed_mb(found.rss_mib, assumed.python_mib) + (tmp if tmp_is_memory else 0), tmp
