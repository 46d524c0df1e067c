"""What `make audit` says, and its exit status, by what pip-audit finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layers import audit

CLEAN = {"dependencies": [{"name": "numpy", "version": "2", "vulns": []}]}
KNOWN = {
    "dependencies": [
        {"name": "numpy", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]},
        {"name": "rich", "version": "1", "vulns": [{"id": "PYSEC-2", "fix_versions": []}]},
    ]
}


def tool(folder: Path, out: str, said: str, status: int) -> str:
    """Stands for pip-audit: prints this and exits so."""
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{out}\nEND\necho '{said}' >&2\nexit {status}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize(
    ("out", "said", "status", "wanted", "words"),
    [
        (json.dumps(CLEAN), "No known vulnerabilities found", 0, 0, "0 known vulnerabilities in "),
        (json.dumps(KNOWN), "Found 2", 1, 1, "numpy 2: PYSEC-1, mended in 2.1; in layer-runtime, "),
        ("", "ConnectionError: nobody is there", 1, 2, "was not audited: the service 'pypi' did not tell"),
        ("", "numpy: Dependency not found on PyPI", 1, 2, "numpy: Dependency not found on PyPI"),
        ('{"dependencies": [{"name": "x", "skip_reason": "y"}]}', "", 0, 2, "was not audited"),
    ],
)
def test_what_is_known_is_told_from_what_is_not(
    out: str,
    said: str,
    status: int,
    wanted: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit.main(["--tool", tool(tmp_path, out, said, status)]) == wanted
    told = capsys.readouterr()
    assert words in told.out + told.err


def test_without_pip_audit_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--tool", str(tmp_path / "nothing")]) == 2
    assert "No such file" in capsys.readouterr().err
