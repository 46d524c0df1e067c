"""Answers of the libraries that models come from, computed where torch is: in the export environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("EXPORT_PYTHON", str(ROOT / ".venv-export" / "bin" / "python"))


def in_export_environment(script: str, question: Any) -> Any:
    """Run a script there, a JSON document on its standard input; gives the one that it prints last."""
    assert Path(PYTHON).exists(), f"no {PYTHON}: run the tests by `make test`, which makes it"
    done = subprocess.run(
        [PYTHON, "-c", script],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
