"""uv, as a command: it resolves, verifies hashes and takes wheels for another Python and architecture.

pip evaluates markers for the interpreter that runs it, so it cannot read a lock for another one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .contents import LayerError


def uv(
    arguments: list[str], what: str, *, cwd: Path | None = None, environ: dict[str, str] | None = None
) -> str:
    """Run it; standard output. Raises LayerError, which begins with ``what``, with uv's own reasons."""
    from uv import find_uv_bin

    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", **(environ or {})}
    done = subprocess.run(
        [find_uv_bin(), *arguments, "--no-config", "--color", "never"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
    )
    if done.returncode:
        raise LayerError(f"{what}: {done.stderr.strip()}")
    return done.stdout
