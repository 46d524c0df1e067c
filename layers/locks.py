"""Locked requirements: made by uv from pyproject.toml, one file a layer or image, for every Python and CPU.

They are universal: what differs by Python or platform carries a marker, and the hashes of all of a version's
wheels stand beside it. ``make lock`` writes them, ``verify`` holds them against pyproject.toml.
"""

from __future__ import annotations

import re
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .contents import LEFT_OUT, LOCKED, REQUIREMENTS, RUNTIME, Layer, LayerError
from .targets import Target
from .uv import uv

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
OLDEST = "3.11"
"""The oldest Python that is locked for: the package's own bound. The canary may have to run on it."""

BACKEND = REQUIREMENTS / "build.in"
"""What builds our own wheel."""
WHEELS = ("--only-binary", ":all:")

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*(.+?))?\s*\\?$")


class Pin(NamedTuple):
    name: str
    version: str
    marker: Marker | None
    hashes: int

    def applies(self, target: Target) -> bool:
        return self.marker is None or self.marker.evaluate(environment(target))


def environment(target: Target) -> dict[str, str]:
    """What markers see on Lambda."""
    return {
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "platform_machine": target.machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "python_version": target.python,
        "python_full_version": f"{target.python}.0",
        "implementation_version": f"{target.python}.0",
        "extra": "",
    }


def read(lock: Path) -> list[Pin]:
    """The pins of a lock. Raises LayerError where it is missing or a line is not a pin with hashes."""
    try:
        lines = lock.read_text().splitlines()
    except OSError as error:
        raise LayerError(f"{lock} cannot be read ({error.strerror}); make lock writes it") from None
    pins: list[Pin] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("--hash=sha256:") and pins:
            pins[-1] = pins[-1]._replace(hashes=pins[-1].hashes + 1)
            continue
        found = _PIN.match(text)
        if found is None:
            raise LayerError(f"{lock.name}:{number}: not a pinned requirement with hashes: {text[:80]}")
        name, version, marker = found.groups()
        pins.append(Pin(canonicalize_name(name), version, Marker(marker) if marker else None, 0))
    without = [pin.name for pin in pins if not pin.hashes]
    if without:
        raise LayerError(f"{lock.name}: no hash for {', '.join(without)}; make lock writes them")
    return pins


def entries(path: Path) -> list[str]:
    """The lines of a file of requirements, without what is said of them."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def left_out(layer: Layer = RUNTIME) -> set[str]:
    """What a layer does not carry, whatever requires it."""
    names = {canonicalize_name(entry) for entry in entries(LEFT_OUT)}
    return names - set(layer.imports) | set(layer.without)


def wanted(layer: Layer, pyproject: Path = PYPROJECT) -> list[Requirement]:
    """What pyproject.toml asks a layer for, less what no layer carries."""
    project = tomllib.loads(pyproject.read_text())["project"]
    texts = list(project["dependencies"])
    for extra in layer.extras:
        texts += project["optional-dependencies"][extra]
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if canonicalize_name(r.name) not in left_out(layer)]


def verify(layer: Layer, target: Target, pyproject: Path = PYPROJECT) -> list[Pin]:
    """The pins that apply to a target. Raises LayerError where pyproject.toml asks for something else."""
    pins = [pin for pin in read(layer.lock) if pin.applies(target)]
    beside = [pin for pin in read(RUNTIME.lock) if pin.applies(target)] if layer.beside else []
    match(layer.lock, [*beside, *pins], wanted(layer, pyproject), target)
    return pins


def match(lock: Path, pins: Iterable[Pin], asked: Iterable[Requirement], target: Target) -> None:
    """Hold pins against what pyproject.toml asks for. Raises LayerError."""
    held = {pin.name: pin.version for pin in pins}
    for requirement in asked:
        if requirement.marker and not requirement.marker.evaluate(environment(target)):
            continue
        version = held.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            locked = f"{version} is locked" if version else "nothing is locked"
            raise LayerError(
                f"{lock.name} does not match pyproject.toml: it asks for {requirement}, and {locked} "
                f"for {target}; run make lock"
            )


def write(layer: Layer, lock: Path, *, upgrade: bool) -> None:
    """Resolve anew; what ``lock`` pins already stays where it still fits, unless ``upgrade``."""
    extras = [argument for extra in layer.extras for argument in ("--extra", extra)]
    with tempfile.TemporaryDirectory() as folder:
        excludes = Path(folder) / "excludes.txt"
        names = (
            {pin.name for pin in read(RUNTIME.lock)} if layer.beside else set()
        )  # the other layer brings them
        excludes.write_text("\n".join(sorted(names | left_out(layer))))
        asked = [PYPROJECT.name, *extras, "--excludes", str(excludes), *WHEELS]
        compile_lock(asked, lock, upgrade=upgrade)


def compile_lock(arguments: list[str], lock: Path, *, upgrade: bool) -> None:
    """Resolve what ``arguments`` of ``uv pip compile`` ask for, with hashes. Raises LayerError."""
    universal = ["--universal", "--python-version", OLDEST, "--generate-hashes"]
    told = ["--custom-compile-command", "make lock", "--quiet"]
    newer = ["--upgrade"] if upgrade else []
    uv(
        ["pip", "compile", *arguments, *universal, *told, *newer, "-o", str(lock)],
        f"{lock.name} could not be resolved",
        cwd=ROOT,
    )


def main(arguments: list[str]) -> int:
    """``python -m layers.locks [--upgrade]``: write every lock."""
    upgrade = "--upgrade" in arguments
    try:
        for layer in LOCKED:
            layer.lock.parent.mkdir(exist_ok=True)
            write(layer, layer.lock, upgrade=upgrade)
        asked = [str(BACKEND.relative_to(ROOT)), *WHEELS]
        compile_lock(asked, BACKEND.with_suffix(".txt"), upgrade=upgrade)
    except LayerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("".join(f"{layer.lock}\n" for layer in LOCKED))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
