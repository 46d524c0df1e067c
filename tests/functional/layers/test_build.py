"""Layers built from their locks: the same bytes again, within their limits, and enough to answer."""

from __future__ import annotations

import shutil
import struct
import zipfile
from pathlib import Path

import pytest
from layers import build as building
from layers.build import build, canary, difference, main, show, try_out
from layers.canary import close
from layers.contents import LAYERS, MB, PREHEAT, RUNTIME, UNZIPPED_BYTES, Layer, LayerError, is_kept
from layers.install import own_wheel
from layers.targets import ALL, Target, interpreter, running

from ...conftest import ROOT
from .conftest import AT_HAND, ELSEWHERE, Make


@pytest.mark.parametrize(("layer", "target"), [(PREHEAT, AT_HAND), (RUNTIME, ELSEWHERE)])
def test_a_second_build_has_the_same_bytes(layer: Layer, target: Target, made: Make, tmp_path: Path) -> None:
    first = made(layer, target)
    second = build(layer, target, tmp_path)
    assert first.path.read_bytes() == second.path.read_bytes(), difference(first.path, second.path)
    assert first.sha256 == second.sha256


def test_a_difference_between_two_builds_is_named(zips: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(zips[1]) as whole, zipfile.ZipFile(other, "w") as changed:
        for entry in whole.infolist()[:-1]:
            data = whole.read(entry)
            changed.writestr(entry, data + b"#" if entry.filename.endswith("preheat/errors.py") else data)
        last = whole.infolist()[-1].filename
    errors = f"{AT_HAND.site_packages}/preheat/errors.py"
    assert difference(zips[1], other) == sorted([errors, last])


def test_a_zip_says_nothing_of_when_and_by_whom_it_was_built(zips: list[Path]) -> None:
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            assert names == sorted(names)
            assert {(e.date_time, e.external_attr >> 16, e.create_system) for e in entries} == {
                ((1980, 1, 1, 0, 0, 0), 0o100644, 3)
            }
            assert all(name.startswith(f"{AT_HAND.site_packages}/") for name in names)
            for name in names:
                if name.endswith(".pyc"):  # PEP 552: unchecked, by the source's hash; the path of Lambda
                    assert struct.unpack("<I", archive.read(name)[4:8])[0] == 0b01, name
            code = archive.read(next(name for name in names if name.endswith(".pyc")))
            assert b"/opt/python/lib/" in code


def test_layers_hold_licences_and_none_of_what_is_left_out(zips: list[Path]) -> None:
    names = []
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            names += [n.removeprefix(f"{AT_HAND.site_packages}/") for n in archive.namelist()]
    packages = {name.partition("/")[0] for name in names}
    assert {"numpy", "onnxruntime", "tokenizers", "httptools", "preheat", "obstore"} <= packages
    assert not packages & {"sympy", "google", "flatbuffers", "coloredlogs", "huggingface_hub", "boto3", "bin"}
    assert not [n for n in names if n.endswith((".h", ".pyi", ".a")) or "/tests/" in n]
    assert not [n for n in names if "libonnxruntime.so" in n]
    for wanted in ("onnxruntime/ThirdPartyNotices.txt", "onnxruntime/LICENSE"):
        assert wanted in names
    assert [n for n in names if n.startswith("numpy-") and n.endswith("licenses/LICENSE.txt")]
    assert [n for n in names if n.startswith("preheat-") and n.endswith("licenses/LICENSE")]


def test_sizes_are_within_their_limits(made: Make) -> None:
    for target in (AT_HAND, ELSEWHERE):
        assert made(RUNTIME, target).bytes <= 130 * MB
    both = [made(layer, AT_HAND) for layer in LAYERS]
    assert sum(one.bytes for one in both) < UNZIPPED_BYTES
    for one in both:
        with zipfile.ZipFile(one.path) as archive:
            assert one.bytes == sum(entry.file_size for entry in archive.infolist())
    shown = show(both)
    assert f"{both[0].bytes / MB:.1f}" in shown
    assert "of 262.1 MB unzipped" in shown


def test_a_layer_past_its_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"runtime for Python .* is \d+\.\d MB unzipped, past its 10 MB"):
        build(RUNTIME._replace(limit=10 * MB), ELSEWHERE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_canary_answers_with_the_layers_alone(
    zips: list[Path], filetype_artifact: Path, embed_artifact: Path
) -> None:
    result = canary(zips, AT_HAND, [filetype_artifact, embed_artifact])
    assert result["without_bytecode"] == []
    assert {"numpy", "onnxruntime", "tokenizers", "preheat.engine"} <= set(result["cold"])
    assert not {"fastapi", "aws_lambda_powertools", "cryptography"} & set(result["cold"])


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("onnxruntime/capi/onnxruntime_validation.py", "onnxruntime_validation"),
        ("numpy.libs/", "libscipy_openblas64_"),
        ("tokenizers/__init__.py", "tokenizers"),
        ("preheat/warmup.py", "preheat.warmup"),
    ],
)
def test_the_canary_finds_what_is_missing(
    gone: str, named: str, zips: list[Path], filetype_artifact: Path, tmp_path: Path
) -> None:
    doctored = [tmp_path / path.name for path in zips]
    for whole, path in zip(zips, doctored, strict=True):
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(path, "w") as less:
            for entry in archive.infolist():
                if f"site-packages/{gone}" not in entry.filename:
                    less.writestr(entry, archive.read(entry), zipfile.ZIP_STORED)
    with pytest.raises(LayerError, match=rf"(?s)the canary of Python .* failed: .*{named}"):
        canary(doctored, AT_HAND, [filetype_artifact])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"label": "a"}, {"label": "b"}),
        ({"label": "a"}, {"label": "a", "score": 1.0}),
        ({"score": 0.9}, {"score": 0.902}),
        ({"score": None}, {"score": 0.9}),
        ({"rows": [[1.0, 2.0]]}, {"rows": [[1.0, 2.1]]}),
        ({"rows": [1.0]}, {"rows": [1.0, 1.0]}),
        ({"score": float("nan")}, {"score": 0.9}),
    ],
)
def test_the_canary_tells_answers_apart(answer: object, expected: object) -> None:
    close(expected, expected, "answer")
    with pytest.raises(ValueError, match="in place of"):
        close(answer, expected, "answer")


def test_without_lambdas_pythons_the_canary_runs_on_the_one_at_hand(
    made: Make, filetype_artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "build", lambda layer, target, out: made(layer, target))
    assert try_out([made(RUNTIME, ELSEWHERE)], [filetype_artifact]) == [running()]
    assert f"canary: {running()}" in capsys.readouterr().out


def test_a_canary_without_an_interpreter_says_so(zips: list[Path], filetype_artifact: Path) -> None:
    with pytest.raises(LayerError, match=r"no interpreter for Python 3\.99"):
        canary(zips, Target("3.99", AT_HAND.arch), [filetype_artifact])
    assert interpreter("3.99") is None


def test_our_wheel_has_the_same_bytes_from_another_checkout(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        (tree / name).write_bytes((ROOT / name).read_bytes())  # a time of their own
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("src", "loadtests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore, copy_function=shutil.copyfile)
    (tree / "src" / "preheat" / "errors.py").chmod(0o600)
    here, there = (own_wheel(tmp_path / name, place) for name, place in (("a", ROOT), ("b", tree)))
    assert here.read_bytes() == there.read_bytes()


def test_an_artifact_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--artifact", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "no artifact there; make filetype builds one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failure_of_the_command_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    filetype_artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    assert main(["--python", "3.14", "--arch", "arm64", "--once", "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "could not be installed" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("numpy/__init__.py", True),
        ("numpy/testing/__init__.py", True),
        ("numpy/tests/test_api.py", False),
        ("numpy/_core/tests/data/LICENSE", True),
        ("numpy/_core/include/numpy/ndarraytypes.h", False),
        ("numpy-2.0.dist-info/METADATA", True),
        ("numpy-2.0.dist-info/RECORD", False),
        ("x-1.dist-info/licenses/vendor/thing", True),
        ("onnxruntime/capi/libonnxruntime.so.1.31.1", False),
        ("onnxruntime/capi/libonnxruntime_providers_shared.so", True),
        ("preheat/build/__init__.py", True),
    ],
)
def test_what_is_kept(path: str, kept: bool) -> None:
    assert is_kept(path) is kept


def test_every_combination_of_the_issue_is_built() -> None:
    assert {(t.python, t.arch) for t in ALL} == {
        (python, arch) for python in ("3.12", "3.13", "3.14") for arch in ("x86_64", "arm64")
    }
