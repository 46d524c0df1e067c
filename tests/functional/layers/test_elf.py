"""What shared objects need: clean ones pass, and each kind of broken one is named."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
from layers import elf
from layers.archive import files
from layers.contents import RUNTIME
from layers.targets import Target

from .conftest import AT_HAND, ELSEWHERE, Make


@pytest.fixture(scope="module")
def unpacked(made: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """numpy, of the layer for a target that cannot run here."""
    folder = tmp_path_factory.mktemp("numpy")
    with zipfile.ZipFile(made(RUNTIME, ELSEWHERE).path) as archive:
        names = [name for name in archive.namelist() if "/numpy" in name and ".so" in name]
        archive.extractall(folder, names)
    return folder / ELSEWHERE.site_packages


@pytest.fixture
def numpy(unpacked: Path, tmp_path: Path) -> Path:
    """Two of its shared objects: lapack_lite, and OpenBLAS, which that needs."""
    for path in [*unpacked.glob("numpy.libs/*"), *unpacked.glob("numpy/linalg/lapack_lite*")]:
        copy = tmp_path / path.relative_to(unpacked)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path


def check(folder: Path, target: Target = ELSEWHERE) -> list[str]:
    return elf.check(folder, files(folder), target)


def openblas(folder: Path) -> Path:
    return next(folder.glob("numpy.libs/libscipy_openblas*"))


def patch(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert before in data
    assert len(before) == len(after)
    path.write_bytes(data.replace(before, after))


def test_a_layer_as_built_needs_nothing_that_is_missing(unpacked: Path, numpy: Path) -> None:
    assert len([path for path in files(unpacked) if elf.read(unpacked, path)]) > 10
    assert check(unpacked) == []
    assert check(numpy) == []


def test_a_library_that_was_pruned_is_found(numpy: Path) -> None:
    name = openblas(numpy).name
    openblas(numpy).unlink()
    wrong = check(numpy)
    assert len(wrong) == 2
    assert f"needs {name}, which neither the layer nor Amazon Linux 2023 has" in wrong[0]
    assert "symbols that nothing defines" in wrong[1]


def test_a_library_in_another_folder_is_not_found(numpy: Path) -> None:
    (numpy / "lib").mkdir()
    openblas(numpy).rename(numpy / "lib" / openblas(numpy).name)
    assert "lapack_lite" in check(numpy)[0]


def test_a_library_of_another_system_is_found(numpy: Path) -> None:
    patch(openblas(numpy), b"libm.so.6\0", b"libX.so.6\0")
    assert any("needs libX.so.6, which neither" in line for line in check(numpy))


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (b"GLIBC_2.99", "GLIBC_2.99 of libm.so.6; Amazon Linux 2023 has GLIBC_2.34"),
        (b"MUSLC_2.27", "has no MUSLC"),
    ],
)
def test_a_newer_glibc_is_found(version: bytes, said: str, numpy: Path) -> None:
    patch(openblas(numpy), b"\0GLIBC_2.27\0", b"\0" + version + b"\0")
    wrong = check(numpy)
    assert len(wrong) == 1
    assert said in wrong[0]


def test_a_symbol_that_nothing_defines_is_found(numpy: Path) -> None:
    wanted = elf.read(numpy, next(p for p in files(numpy) if "lapack_lite" in p))
    provider = elf.read(numpy, str(openblas(numpy).relative_to(numpy)))
    assert wanted is not None
    assert provider is not None
    name = sorted(wanted.undefined & provider.defined)[0]
    patch(openblas(numpy), b"\0" + name.encode() + b"\0", b"\0" + b"x" * len(name) + b"\0")
    assert [line for line in check(numpy) if line.endswith(f"takes 1 symbols that nothing defines: {name}")]


def test_another_architecture_is_found(numpy: Path) -> None:
    wrong = check(numpy, Target(ELSEWHERE.python, AT_HAND.arch))
    assert len(wrong) == 2
    assert all(f"is for {ELSEWHERE.machine}, not for {AT_HAND.machine}" in line for line in wrong)


def test_a_file_that_ends_early_is_found(numpy: Path) -> None:
    path = openblas(numpy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert any("is damaged" in line and path.name in line for line in check(numpy))


def test_whatever_is_damaged_ends_in_words(numpy: Path) -> None:
    """Bytes changed at random, the headers' above all: never an exception of another kind."""
    path = next(numpy.glob("numpy/linalg/lapack_lite*"))
    name, data, chance = str(path.relative_to(numpy)), path.read_bytes(), random.Random(6)
    verdicts = []
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            changed[chance.randrange(4, chance.choice([64, 1024, len(data)]))] = chance.randrange(256)
        path.write_bytes(changed)
        verdicts.append(verdict(numpy, name))
    assert all(f"{name} is damaged" in said for said in verdicts if said)
    assert len([said for said in verdicts if said]) > 10


def verdict(folder: Path, name: str) -> str:
    try:
        elf.read(folder, name)
    except ValueError as error:
        return str(error)
    return ""


def test_what_is_not_elf_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("INPUT(libm.so)")
    (tmp_path / "empty.so").touch()
    assert check(tmp_path) == []
