"""Open one variant in this process, run the golden inputs, and print what it took.

``python -m preheat.build.trial DIR VARIANT [THREADS]`` prints one JSON object: ``session_ms`` (opening),
``first_ms`` (the first run, opening not included), ``steady_ms`` (median of the runs that follow),
``rss_mib`` (peak resident memory of the process), ``drift`` from the golden outputs; on a GPU ``device_mib``
(what it took of its memory); asked for, ``joined`` too: rows a second by rows run together (joining.py).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from .. import compile as compiling
from .. import fingerprint
from .. import manifest as manifests
from ..engine import Engine
from ..errors import EngineError, PreheatError, RequestError, UsageError
from ..providers import NVIDIA
from ..tensors import drift, unpack
from .joining import rates

STEADY_SECONDS = 0.2
"""How long the first golden input is run again and again for ``steady_ms``."""
MOST_RUNS = 100


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Keys: ``root``, ``variant``, ``threads``, ``joined``."""
    root, variant = str(request["root"]), str(request["variant"])
    return trial(root, variant, int(request["threads"]), joined=bool(request.get("joined")))


def trial(root: str, name: str, threads: int, *, joined: bool = False) -> dict[str, Any]:
    """Raises EngineError where the variant cannot be opened or refuses a golden input."""
    with open(f"{root}/{manifests.FILENAME}", "rb") as file:
        manifest = manifests.load(file.read())
    variant = manifest.variant(name)
    if variant is None:
        raise UsageError(f"{root} has no variant {name!r}")
    golden = [tuple(unpack(_read(f"{root}/{path}")) for path in pair) for pair in manifest.golden]
    import onnxruntime  # noqa: F401 - its import is not the session's time

    on_a_gpu, free = variant.requires.provider in NVIDIA, 0
    if on_a_gpu:
        from .. import device

        device.preload()
        free = device.free_mib()
    begin = time.perf_counter()
    engine = compiling.opened(f"{root}/{variant.model}", manifest, variant, threads=threads)
    opened = time.perf_counter()
    try:
        first = engine.run(golden[0][0])
        answered = time.perf_counter()
        worst = drift(first, golden[0][1], manifest.stable_outputs)
        for inputs, outputs in golden[1:]:
            worst = max(worst, drift(engine.run(inputs), outputs, manifest.stable_outputs))
        steady = _steady(engine, golden[0][0])
    except RequestError as error:
        raise EngineError(f"variant {name!r} refuses the golden input: {error}") from error
    row: dict[str, Any] = {
        "session_ms": (opened - begin) * 1e3,
        "first_ms": (answered - opened) * 1e3,
        "steady_ms": steady,
        "rss_mib": _peak_mib(),
        "drift": worst,
    }
    if on_a_gpu:
        row["device_mib"] = max(free - device.free_mib(), 0)
    if joined:
        row["joined"] = rates(engine, golden[0][0], callers=threads)
    return row


def _steady(engine: Engine, inputs: Any) -> float:
    """The median of the runs that fit into STEADY_SECONDS, one at least."""
    times: list[float] = []
    end = time.perf_counter() + STEADY_SECONDS
    while not times or (len(times) < MOST_RUNS and time.perf_counter() < end):
        begin = time.perf_counter()
        engine.run(inputs)
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def _peak_mib() -> float:
    """The peak of this process's resident memory; mapped pages that it touched are in it."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes / (1024 if sys.platform != "darwin" else 2**20)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {__spec__.name} DIR VARIANT [THREADS]")
    try:
        threads = int(sys.argv[3]) if len(sys.argv) == 4 else fingerprint.usable_cpus()
        sys.stdout.write(json.dumps(trial(sys.argv[1].rstrip("/"), sys.argv[2], threads)) + "\n")
    except (PreheatError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
