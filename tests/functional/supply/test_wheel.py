"""Our wheel: of the same files the same bytes, whenever and wherever it is built."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

from layers.install import own_wheel

from ...conftest import ROOT

IN_IT = ("pyproject.toml", "README.md", "LICENSE", "src", "loadtests")


def test_another_time_folder_and_umask_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    tree = tmp_path / "elsewhere" / "tree"
    tree.mkdir(parents=True)
    for name in IN_IT:
        source, target = ROOT / name, tree / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    past = time.time() - 400 * 86400
    for path in sorted(tree.rglob("*"), reverse=True):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (past, past))
    again = own_wheel(tmp_path / "out", tree)
    assert again.name == wheel.name
    assert digest(again) == digest(wheel), difference(again, wheel)


def test_it_holds_our_package_and_nothing_beside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/preheat", "loadtests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = {path.removeprefix("src/").replace("loadtests/", "preheat/load/loadtests/") for path in tracked}
    wanted = {path for path in wanted if (ROOT / "src" / path).exists() or "loadtests" in path}
    assert {name for name in names if ".dist-info/" not in name} == wanted


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def difference(one: Path, other: Path) -> list[str]:
    """Names whose entries differ, in whatever."""
    found = []
    for path in (one, other):
        with zipfile.ZipFile(path) as packed:
            found.append({(i.filename, i.CRC, i.date_time, i.external_attr) for i in packed.infolist()})
    return sorted(entry[0] for entry in found[0] ^ found[1])
