"""Sources that cannot be used: each is one clear line, exit status 1 or 2, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from . import models
from .conftest import preheat


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Build from a source that must be refused; gives the error line."""

    def run(source: str | Path, *options: str, status: int = 1) -> str:
        out = tmp_path / "artifacts" / "out"
        ran = preheat("build", source, "-o", out, *options)
        assert ran.status == status, ran.err
        assert not out.exists()
        assert not out.parent.exists() or not os.listdir(out.parent), "something was left behind"
        return ran.error

    return run


def test_a_missing_file(refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused(tmp_path / "no.onnx").endswith("no.onnx does not exist")


def test_an_empty_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "is empty" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"PK\x03\x04 not a model", b"\x00" * 64, b"{}", b"hello"])
def test_a_file_that_is_not_onnx(refused: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "not an ONNX" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file(refused: Callable[..., str], tmp_path: Path, part: float) -> None:
    whole = models.linear().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refused(tmp_path / "m.onnx")


def test_a_git_lfs_pointer(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refused(tmp_path / "m.onnx")


def test_a_named_pipe(refused: Callable[..., str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    assert "not a plain file" in refused(tmp_path / "m.onnx")


def test_an_opset_that_onnxruntime_does_not_know(refused: Callable[..., str], tmp_path: Path) -> None:
    error = refused(models.save(models.opset_from_the_future(), tmp_path / "m.onnx"))
    assert "opset 99" in error
    assert "lower opset" in error


def test_an_operator_that_onnxruntime_does_not_know(refused: Callable[..., str], tmp_path: Path) -> None:
    error = refused(models.save(models.custom_operator(), tmp_path / "m.onnx"))
    assert "com.example:Warp" in error
    assert "custom operators" in error
    assert ".building-" not in error, "the path of the staging folder means nothing to anybody"


@pytest.mark.parametrize("kind", ["sequence_input", "brain_float"])
def test_an_input_that_no_request_can_carry(refused: Callable[..., str], tmp_path: Path, kind: str) -> None:
    assert "requests carry tensors" in refused(models.save(getattr(models, kind)(), tmp_path / "m.onnx"))


def test_a_model_that_refuses_every_input_that_was_made_up(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    source = models.save(models.picky(), tmp_path / "m.onnx")
    assert "--recipe" in refused(source, status=2)


def test_external_data_that_is_missing(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path)
    (tmp_path / "model.data").unlink()
    error = refused(source)
    assert "model.data" in error
    assert "missing" in error


def test_external_data_that_is_truncated(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path)
    os.truncate(tmp_path / "model.data", 1000)
    assert "truncated: it has 1000 bytes" in refused(source)


@pytest.mark.attack
def test_external_data_at_an_absolute_path(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    source = models.with_external_data(tmp_path / "elsewhere")
    assert "absolute path" in refused(_relocated(source, str(tmp_path / "elsewhere" / "model.data")))


@pytest.mark.attack
@pytest.mark.parametrize("location", ["../model.data", "sub/../../model.data", ".."])
def test_external_data_outside_the_folder(refused: Callable[..., str], tmp_path: Path, location: str) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    source = models.with_external_data(tmp_path / "inner")
    (tmp_path / "inner" / "model.data").rename(tmp_path / "model.data")
    assert "outside the model's folder" in refused(_relocated(source, location))


@pytest.mark.attack
def test_external_data_that_is_a_link_out_of_the_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path / "inner")
    (tmp_path / "inner" / "model.data").rename(tmp_path / "secret")
    (tmp_path / "inner" / "model.data").symlink_to(tmp_path / "secret")
    error = refused(source)
    assert "is a link to" in error
    assert "cp -L" in error


@pytest.mark.attack
def test_external_data_under_a_linked_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path / "inner", "weights/model.data")
    (tmp_path / "inner" / "weights").rename(tmp_path / "weights")
    (tmp_path / "inner" / "weights").symlink_to(tmp_path / "weights")
    assert "is a link to" in refused(source)


@pytest.mark.attack
def test_external_data_that_is_a_named_pipe(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path)
    (tmp_path / "model.data").unlink()
    os.mkfifo(tmp_path / "model.data")
    assert "not a plain file" in refused(source)


def test_a_folder_that_is_no_model(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "no config.json" in refused(tmp_path / "folder")


def test_a_folder_with_an_onnx_file(refused: Callable[..., str], tmp_path: Path) -> None:
    models.save(models.linear(), tmp_path / "folder" / "onnx" / "model.onnx")
    assert refused(tmp_path / "folder").endswith("folder/onnx/model.onnx")


def test_a_model_folder_without_weights(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert "has no weights" in refused(folder)


def test_a_text_model_without_its_tokenizer(refused: Callable[..., str], tmp_path: Path) -> None:
    source = models.save(models.linear(), tmp_path / "m.onnx")
    assert "needs tokenizer.json" in refused(source, "--task", "text_embedding")


def test_a_model_that_is_not_of_the_task(
    refused: Callable[..., str], tmp_path: Path, magika_model: Path
) -> None:
    source = models.save(models.strings(), tmp_path / "m.onnx")
    (tmp_path / "config.min.json").write_bytes((magika_model.parent / "config.min.json").read_bytes())
    assert "one input of byte tokens" in refused(source, "--task", "filetype")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "translation"], "there is no task 'translation'"),
        (["--objective", "fast"], "objective must be one of cold, balanced, warm"),
        (["--quantize", "int4"], "quantize must be int8"),
        (["--tolerance", "0"], "tolerance must be a number above 0"),
        (["--tolerance", "nan"], "tolerance must be a number above 0"),
        (["--rounds", "0"], "rounds must lie between"),
        (["--rounds", "many"], "'--rounds'"),
        (["--name", "a/b"], "the name 'a/b'"),
        (["--only", "fast"], "there is no variant 'fast'"),
        (["--limit", "batch"], "--limit takes NAME=N"),
        (["--limit", "size=3"], "there is no limit 'size'"),
        (["--limit", "nonfinite=3"], "nonfinite must be true or false"),
        (["--recipe", "/no/such/file"], "/no/such/file cannot be read"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_options(refused: Callable[..., str], tmp_path: Path, options: list[str], said: str) -> None:
    source = models.save(models.linear(), tmp_path / "m.onnx")
    assert said in refused(source, *options, status=2)


def _relocated(source: Path, location: str) -> Path:
    """The same model with its external data said to lie elsewhere."""
    model = models.onnx.load(str(source), load_external_data=False)
    for initializer in model.graph.initializer:
        initializer.external_data[0].value = location
    return models.save(model, source)
