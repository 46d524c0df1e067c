"""``python -m benchmarks.one_session ARTIFACT VARIANT``: open a session, run it once, print what it took.

VARIANT is a variant's name, or ``default``: the exported model, opened as onnxruntime's documentation shows
it, with no options. Prints JSON: ``session_ms``, ``first_ms`` (the first run alone), ``drift``. Imports are
not in it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import onnxruntime as ort

from preheat import fingerprint, manifest
from preheat.engine import open_session
from preheat.tensors import drift, unpack


def main(root: Path, name: str) -> dict[str, float]:
    found = manifest.load((root / manifest.FILENAME).read_bytes())
    variant = found.variant(manifest.PORTABLE if name == "default" else name)
    assert variant is not None  # noqa: S101 - the one that starts this has looked
    inputs, outputs = (unpack((root / path).read_bytes()) for path in found.golden[0])
    model, names, threads = str(root / variant.model), [*outputs], fingerprint.usable_cpus()
    begin = time.perf_counter()
    if name == "default":
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    else:
        session = open_session(model, variant, threads=threads)
    opened = time.perf_counter()
    answers = session.run(names, inputs)
    answered = time.perf_counter()
    off = drift(dict(zip(names, answers, strict=True)), outputs, found.stable_outputs)
    return {"session_ms": (opened - begin) * 1e3, "first_ms": (answered - opened) * 1e3, "drift": off}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2])) + "\n")
    sys.stdout.flush()
