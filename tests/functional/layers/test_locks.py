"""Locks: what does not match them, or what they do not match, is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from layers import locks
from layers.contents import LAYERS, LOCKED, PREHEAT, RUNTIME, LayerError
from layers.install import install, tags, verify_tags
from layers.targets import ALL, Target, running

TARGET = Target("3.14", "arm64")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A lock of httptools alone."""
    text = re.search(r"^httptools==.*?(?=^\S)", RUNTIME.lock.read_text(), re.MULTILINE | re.DOTALL)
    assert text is not None
    path = tmp_path / "one.txt"
    path.write_text(re.sub(r"\n\s*#.*", "", text[0]))
    return path


@pytest.mark.parametrize("target", [*ALL, running()])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_locks_match_pyproject(layer: locks.Layer, target: Target) -> None:
    pins = locks.verify(layer, target)
    assert len({pin.name for pin in pins}) == len(pins)
    assert not {pin.name for pin in pins} & locks.left_out()


def test_no_package_is_in_two_layers() -> None:
    names = [{pin.name for pin in locks.read(layer.lock)} for layer in LAYERS]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [("numpy>=1.26", "numpy>=99"), ('"httptools>=0.6.4"', '"httptools>=0.6.4", "orjson>=3"')],
)
def test_a_lock_that_pyproject_has_left_behind_is_refused(before: str, after: str, tmp_path: Path) -> None:
    text = locks.PYPROJECT.read_text()
    assert before in text
    changed = tmp_path / "pyproject.toml"
    changed.write_text(text.replace(before, after))
    for layer in LAYERS:
        with pytest.raises(LayerError, match=r"does not match pyproject.toml: it asks for .*; run make lock"):
            locks.verify(layer, TARGET, changed)


def test_markers_are_read_for_the_target_not_for_this_machine(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    hashed = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    lock.write_text(
        f"a==1 ; python_full_version < '3.13'{hashed}a==2 ; python_full_version >= '3.13'{hashed}"
        f"b==1 ; platform_machine == 'aarch64'{hashed}c==1 ; sys_platform == 'win32'{hashed}"
    )
    pins = locks.read(lock)
    assert [(p.name, p.version) for p in pins if p.applies(Target("3.12", "x86_64"))] == [("a", "1")]
    assert [(p.name, p.version) for p in pins if p.applies(TARGET)] == [("a", "2"), ("b", "1")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "make lock writes it"),
        ("numpy>=1\n", "lock.txt:1: not a pinned requirement with hashes: numpy>=1"),
        ("-r other.txt\n", "lock.txt:1: not a pinned requirement"),
        ("numpy==1.0\n", "no hash for numpy"),
        ("--hash=sha256:00\n", "lock.txt:1: not a pinned requirement"),
        ("numpy @ https://example.com/numpy.whl\n", "lock.txt:1: not a pinned requirement"),
    ],
)
def test_what_is_no_lock_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    if text is not None:
        lock.write_text(text)
    with pytest.raises(LayerError, match=re.escape(said)):
        locks.read(lock)


def test_a_wheel_with_another_hash_is_refused(one: Path, tmp_path: Path) -> None:
    install(one, TARGET, tmp_path / "good")
    assert (tmp_path / "good" / "httptools" / "__init__.py").exists()
    one.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, one.read_text()))
    with pytest.raises(
        LayerError, match=r"(?s)one.txt for Python 3.14, arm64 could not be installed.*[Hh]ash"
    ):
        install(one, TARGET, tmp_path / "bad")


def test_a_requirement_without_a_hash_is_refused(one: Path, tmp_path: Path) -> None:
    one.write_text(one.read_text().partition(" ")[0] + "\n")
    with pytest.raises(LayerError, match=r"(?s)could not be installed.*hash"):
        install(one, TARGET, tmp_path / "bad")


def test_a_missing_wheel_is_said(one: Path, tmp_path: Path) -> None:
    with pytest.raises(
        LayerError, match=r"(?s)for Python 3.8, x86_64 could not be installed.*httptools.*wheel"
    ):
        install(one, Target("3.8", "x86_64"), tmp_path / "none")


def test_a_wheel_for_another_target_is_refused(one: Path, tmp_path: Path) -> None:
    install(one, TARGET, tmp_path)
    verify_tags(tmp_path, TARGET)
    for other in (Target("3.13", "arm64"), Target("3.14", "x86_64")):
        with pytest.raises(LayerError, match=rf"httptools-.* is no wheel for {other}; its tags: cp314-"):
            verify_tags(tmp_path, other)
    wheel = next(tmp_path.glob("*.dist-info/WHEEL"))
    wheel.write_text("Wheel-Version: 1.0\n")
    with pytest.raises(LayerError, match="its tags: none"):
        verify_tags(tmp_path, TARGET)


def test_the_tags_end_at_the_glibc_of_amazon_linux_2023() -> None:
    taken = {str(tag) for tag in tags(TARGET)}
    assert {"cp314-cp314-manylinux_2_34_aarch64", "cp310-abi3-manylinux2014_aarch64", "py3-none-any"} <= taken
    assert "cp314-cp314-manylinux_2_35_aarch64" not in taken
    assert not [tag for tag in taken if "x86_64" in tag or "musllinux" in tag]


def test_locking_again_changes_nothing(tmp_path: Path) -> None:
    """What is pinned stays where it still fits: a lock of today is a lock of tomorrow."""
    for layer in LOCKED:
        (tmp_path / layer.lock.name).write_bytes(layer.lock.read_bytes())
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    for layer in LOCKED:
        locks.write(layer, tmp_path / layer.lock.name, upgrade=False)
    pins = {path.name: _pins(path.read_text()) for path in tmp_path.iterdir()}
    assert pins == {name: _pins(text) for name, text in before.items()}


def _pins(text: str) -> list[str]:
    return [line.rstrip(" \\") for line in text.splitlines() if "==" in line and not line.startswith(" ")]


def test_our_own_package_is_in_no_lock() -> None:
    assert PREHEAT.own
    assert "preheat" not in {pin.name for pin in locks.read(PREHEAT.lock)}
