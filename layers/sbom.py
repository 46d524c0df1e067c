"""``python -m layers.sbom``: a bill of materials for each lock, as CycloneDX 1.6, into ``out/sbom``.

Of layers, images and the project's own environments, by cyclonedx-bom; of equal locks equal bytes. An
artifact has its own: ``preheat sbom``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .contents import IMAGES, LAYERS, LayerError
from .environments import ENVIRONMENTS
from .locks import PYPROJECT, ROOT

OUT = ROOT / "out" / "sbom"


def locks() -> dict[str, Path]:
    """Every lock by the name of its bill."""
    named = {f"layer-{one.name}": one.lock for one in LAYERS}
    named |= {f"image-{one.name}": one.lock for one in IMAGES}
    return named | {f"environment-{one.name}": one.lock for one in ENVIRONMENTS}


def write(name: str, lock: Path, out: Path) -> Path:
    """One bill. Raises LayerError."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.cdx.json"
    # Validating hundreds of hashes takes longer than all the rest; the tests do it.
    told = ("--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON", "--no-validate")
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", *told),
            *("--pyproject", str(PYPROJECT), "--output-file", str(path), str(lock)),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LayerError(f"no bill of materials came of {lock.name}: {done.stderr.strip()[-2000:]}")
    return path


def main(out: Path = OUT) -> int:
    try:
        for name, lock in locks().items():
            sys.stdout.write(f"{write(name, lock, out)}\n")
    except LayerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
