"""``python -m preheat.measure.imported TARGET``: import what a cold start of TARGET imports, and tell of it.

A process of its own, because a file that another process has mapped cannot be dropped from the page cache.
Prints one JSON object: ``libraries`` (the task's own), ``files`` (modules, their bytecode, shared objects).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import PreheatError


class Imported(NamedTuple):
    libraries: list[str]
    files: list[str]


def ask(location: str, environ: Mapping[str, str]) -> Imported:
    """Run this module in a fresh process. Raises PreheatError with its reason."""
    command = [sys.executable, "-m", __name__, location]
    done = subprocess.run(
        command,
        env={**environ, "PREHEAT_ARTIFACT": location},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it exited with {done.returncode}"]
        raise PreheatError(
            f"the modules of {location} cannot be imported: {lines[-1].removeprefix('error: ')}"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    return Imported(answer["libraries"], answer["files"])


def main(location: str) -> Imported:
    from .. import (
        bootstrap,  # noqa: F401 - what a start imports
        server,  # noqa: F401
    )
    from .. import manifest as manifests
    from ..function import target
    from ..stores import open_folder
    from ..tasks import built_in

    function = target(location, os.environ)
    store = open_folder(function.location)
    manifest = manifests.load(store.read(manifests.FILENAME, manifests.MAX_BYTES))
    task = function.task or built_in(manifest.task)
    import onnxruntime  # noqa: F401

    for library in task.libraries:
        __import__(library)
    return Imported(list(task.libraries), sorted(_files()))


def _files() -> set[str]:
    """Files behind the modules of this process, and those that it has mapped."""
    found: set[str] = set()
    for module in list(sys.modules.values()):
        for name in ("__file__", "__cached__"):
            path = getattr(module, name, None)
            if isinstance(path, str):
                found.add(path)
    try:
        with open("/proc/self/maps") as maps:
            found.update(line.split(None, 5)[5].strip() for line in maps if line.count(" /"))
    except OSError:
        pass
    return {path for path in found if os.path.isfile(path)}


if __name__ == "__main__":
    try:
        imported = main(sys.argv[1])
    except (PreheatError, ImportError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(json.dumps(imported._asdict()) + "\n")
