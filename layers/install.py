"""Locked wheels for a target into a folder, and our own wheel from this tree."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags, parse_tag

from .contents import REQUIREMENTS, Layer, LayerError
from .locks import ROOT
from .targets import GLIBC_MINOR, Target
from .uv import uv

EPOCH = "315532800"
"""SOURCE_DATE_EPOCH: 1980-01-01, the earliest time that a zip can hold."""


def install(lock: Path, target: Target, into: Path) -> None:
    """Unpack a lock's wheels. Raises LayerError where a hash differs or there is no wheel for the target."""
    uv(
        [
            *("pip", "install", "--quiet", "--target", str(into), "--requirement", str(lock)),
            *("--python", sys.executable, "--python-version", target.python),
            *("--python-platform", f"{target.machine}-manylinux_2_{GLIBC_MINOR}"),
            *("--only-binary", ":all:", "--no-deps", "--require-hashes"),
            # Copies: a hard link would lead into uv's cache.
            *("--link-mode", "copy", "--no-installer-metadata", "--no-compile-bytecode"),
        ],
        f"the wheels of {lock.name} for {target} could not be installed",
    )
    verify_tags(into, target)


def own_wheel(into: Path, tree: Path = ROOT) -> Path:
    """Our wheel, built from this tree by the locked build system. Of the same files it has the same bytes."""
    uv(
        [
            *(
                "build",
                "--wheel",
                "--quiet",
                "--out-dir",
                str(into),
                "--python",
                sys.executable,
                "--no-create-gitignore",
            ),
            *("--build-constraints", str(REQUIREMENTS / "build.txt"), "--require-hashes", str(tree)),
        ],
        "our own wheel could not be built",
        environ={"SOURCE_DATE_EPOCH": EPOCH},
    )
    return next(into.glob("preheat-*.whl"))


def install_own(wheel: Path, target: Target, into: Path) -> None:
    uv(
        [
            *("pip", "install", "--quiet", "--target", str(into), str(wheel), "--no-deps", "--no-index"),
            *("--python", sys.executable, "--python-version", target.python),
            *("--link-mode", "copy", "--no-installer-metadata", "--no-compile-bytecode", "--no-cache"),
        ],
        f"{wheel.name} could not be installed",
    )


def fill(layer: Layer, target: Target, into: Path) -> None:
    """Everything that a layer holds, before anything is pruned."""
    install(layer.lock, target, into)
    if layer.own:
        with tempfile.TemporaryDirectory() as folder:
            install_own(own_wheel(Path(folder)), target, into)


def verify_tags(site_packages: Path, target: Target) -> None:
    """Hold every wheel's tags against what the target takes. Raises LayerError."""
    taken = frozenset(tags(target))
    for wheel in sorted(site_packages.glob("*.dist-info/WHEEL")):
        lines = (line.partition(":") for line in wheel.read_text().splitlines())
        given = [parse_tag(value.strip()) for name, _, value in lines if name == "Tag"]
        if not given or not any(tags & taken for tags in given):
            named = ", ".join(sorted(str(tag) for tags in given for tag in tags)) or "none"
            raise LayerError(
                f"{wheel.parent.name.removesuffix('.dist-info')} is no wheel for {target}; its tags: {named}"
            )


def tags(target: Target) -> Iterable[Tag]:
    """The wheel tags that Amazon Linux 2023 takes: manylinux up to its glibc."""
    major, minor = map(int, target.python.split("."))
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms: list[str] = []
    for glibc in range(GLIBC_MINOR, 4, -1):
        platforms.append(f"manylinux_2_{glibc}_{target.machine}")
        if glibc in legacy:
            platforms.append(f"{legacy[glibc]}_{target.machine}")
    yield from cpython_tags((major, minor), platforms=platforms)
    yield from compatible_tags((major, minor), interpreter=f"cp{major}{minor}", platforms=platforms)
