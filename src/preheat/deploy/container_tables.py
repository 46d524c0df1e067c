"""The limits of Knative and Cloud Run, read from ``containers.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple


class Knative(NamedTuple):
    timeout_s: Sequence[int]
    """Least and most, with the cluster's defaults."""
    concurrency: Sequence[int]
    drain_s: int
    """Seconds for which queue-proxy holds back the container's SIGTERM."""
    reserved_ports: Sequence[int]
    window_s: Sequence[int]


class Gpu(NamedTuple):
    accelerator: str
    units: int
    cpu: int
    """Least CPUs beside it."""
    memory_mb: int


class CloudRun(NamedTuple):
    timeout_s: Sequence[int]
    concurrency: Sequence[int]
    cpu: Sequence[int]
    """Each number of CPUs that there is."""
    memory_mb: Sequence[int]
    shutdown_s: int
    """Seconds from SIGTERM to SIGKILL."""
    startup_s: int
    least_memory_mb: Mapping[str, int]
    gpu: Gpu

    def least_memory(self, cpu: int, *, gpu: bool) -> int:
        """MiB that an instance must have."""
        least = max(self.memory_mb[0], self.least_memory_mb.get(str(cpu), 0))
        return max(least, self.gpu.memory_mb) if gpu else least


class Assumed(NamedTuple):
    """What the build cannot measure; every answer that uses one says so."""

    import_ms: float
    fetch_mb_per_s: float
    python_mib: float


class Tables(NamedTuple):
    knative: Knative
    cloudrun: CloudRun
    assumed: Assumed


def load() -> Tables:
    """The tables that come with the package."""
    document = tomllib.loads((files(__package__) / "containers.toml").read_text(encoding="utf-8"))
    cloudrun = document["cloudrun"]
    return Tables(
        Knative(**document["knative"]),
        CloudRun(**{**cloudrun, "gpu": Gpu(**cloudrun["gpu"])}),
        Assumed(**document["assumed"]),
    )
