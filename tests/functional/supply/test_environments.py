"""The locks of the project's own environments: what they hold, and what they are held against."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layers import environments, locks
from layers.contents import LayerError
from layers.environments import ENVIRONMENTS, EXPORT, GPU, RUN, SAM, TEST, Environment
from layers.targets import Target

MACHINES = [Target(python, arch) for python in ("3.11", "3.12", "3.13") for arch in ("x86_64", "arm64")]


@pytest.mark.parametrize("one", ENVIRONMENTS, ids=lambda one: one.name)
@pytest.mark.parametrize("target", MACHINES, ids=str)
def test_the_locks_match_pyproject(one: Environment, target: Target) -> None:
    names = [pin.name for pin in environments.verify(one, target)]
    assert len(set(names)) == len(names)
    assert "preheat" not in names
    assert ("hatchling" in names) == one.project
    assert not set(one.without) & set(names)


def test_what_runs_has_the_versions_of_what_tests() -> None:
    for target in MACHINES:
        tested = {pin.name: pin.version for pin in environments.verify(TEST, target)}
        for pin in environments.verify(RUN, target):
            assert tested[pin.name] == pin.version, "one is installed over the other"


@pytest.mark.parametrize(
    ("one", "before", "after", "said"),
    [
        (RUN, "numpy>=1.26", "numpy>=99", "it asks for numpy>=99"),
        (RUN, '"httptools>=0.6.4"', '"httptools>=0.6.4", "orjson>=3"', "it asks for orjson>=3, and nothing"),
        (TEST, '"pytest>=8"', '"pytest>=8,<9"', "it asks for pytest<9,>=8"),
        (SAM, "cfn-lint==1.58.0", "cfn-lint==1.58.1", "it asks for cfn-lint==1.58.1"),
        (EXPORT, "transformers>=4.57", "transformers>=5", "it asks for transformers"),
        (GPU, "onnxruntime-gpu[cuda,cudnn]>=1.26", "onnxruntime-gpu[cuda,cudnn]>=99", "onnxruntime-gpu"),
    ],
)
def test_a_lock_that_pyproject_has_left_behind_is_refused(
    one: Environment, before: str, after: str, said: str, tmp_path: Path
) -> None:
    text = locks.PYPROJECT.read_text()
    assert before in text
    changed = tmp_path / "pyproject.toml"
    changed.write_text(text.replace(before, after))
    pattern = rf"{one.lock.name} does not match pyproject.toml: .*{re.escape(said)}.*; run make lock"
    with pytest.raises(LayerError, match=pattern):
        environments.verify(one, MACHINES[0], changed)


def test_torch_alone_comes_without_a_hash() -> None:
    """With what its builds for CUDA ask for: CONTRIBUTING says why."""
    held = {pin.name for pin in locks.read(EXPORT.lock)}
    assert "torch" not in held
    assert not {name for name in held if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert {"transformers", "optimum-onnx", "sympy", "networkx"} <= held
    assert [line.partition("==")[0] for line in locks.entries(environments.CONSTRAINTS)] == ["torch"]
    for one in ENVIRONMENTS:
        if one is not EXPORT:
            assert not one.unhashed


@pytest.mark.parametrize("one", [RUN, EXPORT], ids=lambda one: one.name)
def test_locking_again_changes_nothing(one: Environment, tmp_path: Path) -> None:
    """What is pinned stays where it still fits: a lock of today is a lock of tomorrow."""
    again = tmp_path / one.lock.name
    again.write_bytes(one.lock.read_bytes())
    environments.write(one, again, upgrade=False)
    assert _pins(again) == _pins(one.lock)


def _pins(lock: Path) -> list[tuple[str, str, str]]:
    return [(pin.name, pin.version, str(pin.marker)) for pin in locks.read(lock)]


def test_pip_refuses_what_was_not_locked(wheel: Path, tmp_path: Path) -> None:
    """As the Makefile calls it, without the network."""
    lock = tmp_path / "lock.txt"
    offline = ("--no-index", "--find-links", str(wheel.parent), "--target", str(tmp_path / "x"), "--dry-run")
    asked = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *offline]
    version = wheel.name.split("-")[1]
    for digest, status in ((hashlib.sha256(wheel.read_bytes()).hexdigest(), 0), ("0" * 64, 1)):
        lock.write_text(f"preheat=={version} --hash=sha256:{digest}\n")
        done = subprocess.run(
            [*asked, "--require-hashes", "--no-deps", "--requirement", str(lock)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_the_makefile_installs_nothing_else() -> None:
    """Every install is of a lock, of the project itself, or of torch."""
    makefile = (locks.ROOT / "Makefile").read_text()
    installs = re.findall(r"\(PIP\) install (.*)", makefile)
    assert len(installs) >= 9
    for what in installs:
        of_a_lock = re.fullmatch(r"\$\(LOCKED\) requirements/(\w+)\.txt", what)
        assert of_a_lock or what in ("$(OWN)", "$(EXPORT_PIP) --requirement constraints.txt"), what
    assert "LOCKED := --require-hashes --no-deps --requirement\n" in makefile
    named = set(re.findall(r"install \$\(LOCKED\) requirements/(\w+)\.txt", makefile))
    assert named == {one.name for one in ENVIRONMENTS}
