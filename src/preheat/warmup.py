"""The warm-up phase: run the golden inputs, and hold the answers against the golden outputs."""

from __future__ import annotations

from collections.abc import Callable

from .download import Artifact
from .engine import Engine
from .errors import GoldenError, RequestError
from .tensors import drift, unpack


def warm(
    engine: Engine, artifact: Artifact, *, once: bool = False, begins: Callable[[], object] | None = None
) -> dict[str, float | int]:
    """Run every golden inference ``warmup_runs`` times, or the first one ``once``; give the runs made and the
    largest drift. ``begins``: called when the first run is about to begin.

    Raises GoldenError where an answer is further from the recorded one than the manifest's tolerance.
    """
    manifest = artifact.manifest
    artifact.require(path for golden in manifest.golden for path in golden)
    runs, worst = 0, 0.0
    for golden in manifest.golden[:1] if once else manifest.golden:
        inputs, outputs = (unpack(_read(artifact.path(path))) for path in golden)
        if begins is not None and not runs:
            begins()
        for _ in range(1 if once else max(manifest.warmup_runs, 1)):
            try:
                answers = engine.run(inputs)
            except RequestError as error:
                raise GoldenError(
                    f"variant {engine.variant.name!r} refuses the golden input: {error}"
                ) from error
            runs += 1
        worst = max(worst, drift(answers, outputs, manifest.stable_outputs))
        if worst > manifest.tolerance:
            raise GoldenError(
                f"variant {engine.variant.name!r} drifts {worst:.3g} from the golden outputs; "
                f"the tolerance is {manifest.tolerance:.3g}"
            )
    return {"runs": runs, "drift": worst}


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
