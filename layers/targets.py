"""The Pythons and architectures that layers are built for, and the interpreters at hand."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PYTHONS = ("3.12", "3.13", "3.14")
"""Lambda's, on Amazon Linux 2023, with SnapStart."""

ARCHITECTURES = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Lambda's name → the name in wheel tags and ELF."""

GLIBC_MINOR = 34
"""Amazon Linux 2023 has glibc 2.34 (see ``elf.SYSTEM``)."""


class Target(NamedTuple):
    python: str
    """``3.12``."""
    arch: str
    """``x86_64`` or ``arm64``."""

    def __str__(self) -> str:
        return f"Python {self.python}, {self.arch}"

    @property
    def machine(self) -> str:
        return ARCHITECTURES[self.arch]

    @property
    def site_packages(self) -> str:
        """Where Lambda finds a layer's packages, below /opt. With the version in it, so that a layer of
        another Python is not found, in place of failing in the middle of an import."""
        return f"python/lib/python{self.python}/site-packages"

    def native(self) -> bool:
        return self.machine == platform.machine()


ALL = tuple(Target(python, arch) for python in PYTHONS for arch in ARCHITECTURES)


def running() -> Target:
    """The Python that runs this, on this machine."""
    machine = platform.machine()
    arch = next((ours for ours, theirs in ARCHITECTURES.items() if theirs == machine), machine)
    return Target(f"{sys.version_info.major}.{sys.version_info.minor}", arch)


class Interpreter(NamedTuple):
    path: str
    version: str
    """``3.12.1``: bytecode is the same for every build by the same release."""


@cache
def interpreter(python: str) -> Interpreter | None:
    """A CPython of that version on this machine (this one, on PATH, pyenv's, uv's), or None."""
    for candidate in _candidates(python):
        # The usual build of a release: a free-threaded one has another ABI, a beta other bytecode.
        ask = "import sys; v = sys.version_info; print(sys.implementation.name, sys.abiflags or v[3], *v[:3])"
        try:
            done = subprocess.run(
                [candidate, "-I", "-S", "-c", ask], capture_output=True, text=True, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        kind, version = done.stdout.split()[:2], done.stdout.split()[2:]
        if done.returncode == 0 and kind == ["cpython", "final"] and ".".join(version[:2]) == python:
            return Interpreter(candidate, ".".join(version))
    return None


def _candidates(python: str) -> Iterator[str]:
    if running().python == python:
        yield sys.executable
    for folder in os.get_exec_path():
        path = os.path.join(folder, f"python{python}")
        if os.access(path, os.X_OK):
            yield path
    home = Path.home()
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    managed = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    for pattern in (f"{python}.*", f"cpython-{python}*"):
        for root in (pyenv, managed):
            found = root.glob(f"{pattern}/bin/python{python}") if root.is_dir() else ()
            yield from sorted(map(str, found), reverse=True)
