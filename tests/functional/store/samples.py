"""Small artifacts with the layout of real ones, and the commands as a person runs them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from preheat.build import manifest_text
from preheat.manifest import File, Golden

from ...unit.test_manifest import manifest

FILES = ("p/model.onnx", "k/model.onnx", "k/weights", "t.json", "g/in", "g/out")
"""``p`` is the portable variant, ``k`` the packed one."""


def content(seed: int | str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def make_artifact(folder: Path, *, name: str = "m", weights: bytes = b"weights", **changes: bytes) -> Path:
    """An artifact that cannot be served, and can be published, fetched and verified.

    ``weights``: the content of ``k/weights``; ``changes``: that of others, by path.
    """
    data = {path: path.encode() for path in FILES} | {"k/weights": weights} | changes
    for path, content in data.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    files = tuple(File(p, len(d), hashlib.sha256(d).hexdigest()) for p, d in data.items())
    whole = manifest(name=name, files=files, golden=(Golden("g/in", "g/out"),))
    (folder / "manifest.json").write_text(manifest_text.dump(whole))
    return folder


def version_of(folder: Path) -> str:
    version: str = json.loads((folder / "manifest.json").read_text())["version"]
    return version.removeprefix("sha256:")


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def environ(more: Mapping[str, str]) -> dict[str, str]:
    """This environment without anything that names a store or a setting, and ``more``."""
    clouds = ("PREHEAT_", "AWS_", "GOOGLE_", "AZURE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(clouds)} | dict(more)


def command(more: Mapping[str, str], *arguments: str | Path) -> Done:
    """`preheat …` in a process of its own."""
    words = [str(argument) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "preheat", *words],
        env=environ(more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def succeeds(more: Mapping[str, str], *arguments: str | Path) -> Any:
    """The document that a command prints with --json."""
    done = command(more, *arguments, "--json")
    assert done.status == 0, done.err
    return done.document


def publish(artifact: Path, store: str, alias: str = "prod") -> None:
    """Let an alias name what a folder holds."""
    succeeds({}, "publish", artifact, store, "--alias", alias)


def fails(more: Mapping[str, str], *arguments: str | Path, status: int = 1) -> str:
    """What a command that cannot do its work says."""
    done = command(more, *arguments, "--json")
    assert done.status == status, (done.out, done.err)
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.document["error"] == line.removeprefix("error: ")
    return line
