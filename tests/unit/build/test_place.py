from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from preheat.build import place as places
from preheat.build.place import Place
from preheat.errors import BuildError, UsageError


def artifact(folder: Path, content: str = "old") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_text(content)
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "files": [{"path": "model.onnx"}]}))
    return folder


def put(out: Path, content: str = "new") -> None:
    place = Place(str(out))
    with place.staging() as staged:
        artifact(Path(staged), content)
        place.commit(staged)


def test_a_new_folder_and_its_parents_are_made(tmp_path: Path) -> None:
    put(tmp_path / "a" / "b" / "out")

    assert (tmp_path / "a" / "b" / "out" / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path / "a" / "b") == ["out"]


def test_folder_and_files_have_the_modes_that_new_ones_have(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"))
    with place.staging() as staged:
        (artifact(Path(staged)) / "model.onnx").chmod(0o600)
        place.commit(staged)

    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for one, other in (("out", "folder"), ("out/model.onnx", "file"), ("out/manifest.json", "file")):
        assert _mode(tmp_path / one) == _mode(tmp_path / other)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    put(tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("exchange", [places._exchange, lambda one, other: False])
def test_an_artifact_is_replaced(
    exchange: Callable[[str, str], bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "_exchange", exchange)
    out = artifact(tmp_path / "out")

    put(out)

    assert (out / "model.onnx").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_the_exchange_is_one_step_here(tmp_path: Path) -> None:
    one, other = artifact(tmp_path / "one", "1"), artifact(tmp_path / "other", "2")
    assert places._exchange(str(one), str(other))
    assert (one / "model.onnx").read_text() == "2"
    assert not places._exchange(str(one), str(tmp_path / "missing"))


def test_an_artifact_is_restored_when_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = artifact(tmp_path / "out")
    real = os.rename

    def rename(one: str, other: str) -> None:
        if other == str(out) and ".replaced" not in one:
            raise OSError(5, "Input/output error")
        real(one, other)

    monkeypatch.setattr(places, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(BuildError, match="Input/output error"):
        put(out)
    assert (out / "model.onnx").read_text() == "old"


def test_a_link_to_an_artifact_stays_a_link(tmp_path: Path) -> None:
    artifact(tmp_path / "real")
    (tmp_path / "out").symlink_to("real")

    put(tmp_path / "out")

    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "model.onnx").read_text() == "new"


def test_nothing_stays_when_the_build_fails(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"))

    def fail() -> None:
        with place.staging() as staged:
            artifact(Path(staged))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "manifest", ["", "[]", "{", '{"files": []}', '{"schema": 1}', '{"schema": "1", "files": []}']
)
def test_a_manifest_of_something_else_is_no_artifact(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="is not an artifact"):
        Place(str(tmp_path))


def test_what_was_put_there_meanwhile_is_not_lost(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"))
    with place.staging() as staged:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("keep")
        with pytest.raises(UsageError, match="is not an artifact"):
            place.commit(staged)
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BuildError, match="nothing can be written"),
        Place(str(tmp_path / "file" / "out")).staging(),
    ):
        pass
