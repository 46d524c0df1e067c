"""Our wheel, built once, and clean environments to install it into, by uv."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from layers.environments import TEST
from layers.install import own_wheel
from layers.uv import uv


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_wheel(tmp_path_factory.mktemp("wheel"))


class Clean:
    """A virtual environment with our wheel alone, and what some extras of it ask for."""

    def __init__(
        self, folder: Path, wheel: Path, extras: tuple[str, ...], more: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        folder.mkdir(parents=True, exist_ok=True)
        uv(["venv", "--quiet", "--python", sys.executable, str(folder / "venv")], "no environment was made")
        asked = f"preheat[{','.join(extras)}] @ {wheel.as_uri()}" if extras else str(wheel)
        # The versions that are tested elsewhere; hashes are held where the lock itself is installed.
        versions = folder / "versions.txt"
        pins = re.findall(r"^[a-z0-9].*?(?=\s*\\?$)", TEST.lock.read_text(), re.MULTILINE)
        versions.write_text("\n".join(pins))
        to = ("--python", str(self.python), "--constraints", str(versions))
        uv(["pip", "install", "--quiet", *to, asked, *more], f"{asked} could not be installed")

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """The environment's Python, which sees nothing of this tree; checked."""
        done = subprocess.run(
            [str(self.python), "-I", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.folder), **environ},
            timeout=120,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    def packages(self) -> set[str]:
        listed = uv(["pip", "freeze", "--python", str(self.python)], "what is installed cannot be told")
        return {line.partition("==")[0].partition(" @")[0] for line in listed.splitlines()}


Install = Callable[..., Clean]


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Install:
    """``install("text", "image")``: an environment with these extras; ``more``: packages beside."""

    def make(*extras: str, more: tuple[str, ...] = ()) -> Clean:
        return Clean(tmp_path, wheel, extras, more)

    return make
