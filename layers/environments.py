"""The project's own environments, locked: ``make lock`` writes ``requirements/``, ``verify`` holds it against
pyproject.toml.

Like the layers' locks they are universal: one file serves every Python and platform. Unlike them they hold
the hashes of source distributions too, for where there is no wheel. pip installs them with
``--require-hashes --no-deps``, then the project itself by the build backend that they bring.
"""

from __future__ import annotations

import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .contents import LayerError
from .locks import BACKEND, PYPROJECT, ROOT, Pin, compile_lock, entries, match, read
from .targets import Target

FOLDER = ROOT / "requirements"

CONSTRAINTS = ROOT / "constraints.txt"
"""The versions of what comes without a hash."""


class Environment(NamedTuple):
    """One virtual environment of the Makefile's."""

    name: str
    group: str
    """Of pyproject.toml."""
    extras: tuple[str, ...] = ()
    project: bool = True
    """Whether the project itself is installed there."""
    within: str = ""
    """The environment whose versions it takes, because that one is installed over it."""
    without: tuple[str, ...] = ()
    """What is left out although it is required: another requirement stands in its place."""
    unhashed: tuple[str, ...] = ()
    """What is resolved and not written, by the beginning of its name: it comes by version alone."""

    @property
    def lock(self) -> Path:
        return FOLDER / f"{self.name}.txt"


TEST = Environment("test", "check")
RUN = Environment("run", "run", within="test")
EXPORT = Environment("export", "export", unhashed=("torch", "triton", "nvidia-", "cuda-"))
"""torch comes by version, from constraints.txt: its builds for a CPU lie on other indexes than PyPI's, under
other hashes. Beside it comes what only its builds for CUDA ask for."""
SAM = Environment("sam", "sam", project=False)
GPU = Environment("gpu", "test", ("gpu",), without=("onnxruntime",))
"""onnxruntime-gpu is the same Python package as onnxruntime."""
AUDIT = Environment("audit", "audit", project=False)
FUZZ = Environment("fuzz", "fuzz")

ENVIRONMENTS = (TEST, RUN, EXPORT, SAM, GPU, AUDIT, FUZZ)


def wanted(one: Environment, pyproject: Path = PYPROJECT) -> list[Requirement]:
    """What an environment is asked to hold, our own extras replaced by what they ask for.

    Raises LayerError where pyproject.toml has no such group or extra.
    """
    document = tomllib.loads(pyproject.read_text())
    project = document["project"]["name"]
    texts = [*document["dependency-groups"][one.group]]
    if one.project:
        texts.append(f"{project}[{','.join(one.extras)}]" if one.extras else project)
        texts += entries(BACKEND)
    if one.unhashed:
        texts += entries(CONSTRAINTS)
    found = {str(r): r for r in _expanded(texts, document)}
    return [r for _, r in sorted(found.items()) if canonicalize_name(r.name) not in one.without]


def _expanded(texts: list[Any], document: dict[str, Any]) -> Iterator[Requirement]:
    project = document["project"]
    for text in texts:
        if isinstance(text, dict):
            yield from _expanded(document["dependency-groups"][text["include-group"]], document)
            continue
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != project["name"]:
            yield requirement
            continue
        yield from _expanded(project["dependencies"], document)
        for extra in sorted(requirement.extras):
            if extra not in project["optional-dependencies"]:
                raise LayerError(f"pyproject.toml has no extra {extra!r}, which {text!r} asks for")
            yield from _expanded(project["optional-dependencies"][extra], document)


def hashed(one: Environment, name: str) -> bool:
    """Whether a package of an environment stands in its lock."""
    return not any(name == rule or (rule[-1] == "-" and name.startswith(rule)) for rule in one.unhashed)


def verify(one: Environment, target: Target, pyproject: Path = PYPROJECT) -> list[Pin]:
    """The pins of an environment that apply to a target. Raises LayerError where pyproject.toml asks for
    something else."""
    pins = [pin for pin in read(one.lock) if pin.applies(target)]
    asked = [r for r in wanted(one, pyproject) if hashed(one, canonicalize_name(r.name))]
    match(one.lock, pins, asked, target)
    return pins


def write(one: Environment, lock: Path, *, upgrade: bool) -> None:
    """Resolve anew; what ``lock`` pins already stays where it still fits, unless ``upgrade``."""
    over = [other.lock for other in ENVIRONMENTS if other.name == one.within]
    with tempfile.TemporaryDirectory() as folder:
        source, excludes = Path(folder) / "asked.in", Path(folder) / "excludes.txt"
        source.write_text("".join(f"{requirement}\n" for requirement in wanted(one)))
        excludes.write_text("".join(f"{name}\n" for name in one.without))
        arguments = [str(source), "--excludes", str(excludes), "--no-annotate"]
        compile_lock([*arguments, *(f"--constraints={path}" for path in over)], lock, upgrade=upgrade)
    lock.write_text("".join(block for block in _blocks(lock.read_text()) if hashed(one, _name(block))))


def _blocks(text: str) -> list[str]:
    """A lock's pins, each with its hashes; before them what is said of the file."""
    return re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)


def _name(block: str) -> str:
    return block.partition("==")[0]


def main(arguments: list[str]) -> int:
    """``python -m layers.environments [--upgrade]``: write every lock."""
    FOLDER.mkdir(exist_ok=True)
    try:
        for one in ENVIRONMENTS:
            write(one, one.lock, upgrade="--upgrade" in arguments)
            sys.stdout.write(f"{one.lock}\n")
    except LayerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
