"""The `preheat` command as a person and a program meet it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preheat.settings import Settings

from ...conftest import ROOT
from . import models
from .conftest import build, preheat


@pytest.fixture(scope="module")
def linear_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(models.linear(), tmp_path_factory.mktemp("source") / "linear.onnx")


@pytest.fixture(scope="module")
def linear_artifact(linear_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "linear"
    build(linear_model, out, "--rounds", "1")
    return out


@pytest.fixture
def artifact(linear_artifact: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(linear_artifact, tmp_path / "linear"))


def test_build_prints_a_table_that_fits_80_columns(linear_model: Path, tmp_path: Path) -> None:
    ran = preheat("build", linear_model, "-o", tmp_path / "out", "--rounds", "1")

    assert ran.status == 0
    for name in ("portable", "mapped", "unpacked", "packed", "ort"):
        assert sum(line.strip().startswith(name) for line in ran.out.splitlines()) == 1
    table = ran.out.splitlines()[1:]  # the first line holds the artifact's path, however long
    assert max(map(len, table)) <= 80
    assert "trying variants" in ran.err
    assert "trying" not in ran.out


def test_build_shows_a_bar_on_a_terminal(linear_model: Path, tmp_path: Path) -> None:
    main, secondary = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "preheat",
            "build",
            str(linear_model),
            "-o",
            str(tmp_path / "out"),
            "--rounds",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=secondary,
        env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other side was closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    assert process.wait(60) == 0
    assert b"trying variants: " in shown
    assert b"\x1b[" in shown
    assert b"\x1b[" not in out


def test_build_can_be_read_by_a_program(linear_model: Path, tmp_path: Path) -> None:
    document = build(
        linear_model, tmp_path / "out", "--rounds", "1", "--objective", "cold", "--limit", "batch=7"
    )

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {**manifest, **document} == document
    assert document["ok"] is True
    assert document["objective"] == "cold"
    assert document["limits"]["batch"] == 7
    assert set(document["chosen"]) == {"cold", "balanced", "warm"}
    assert all(
        set(ranked) == {"portable", "mapped", "unpacked", "packed", "ort"}
        for ranked in document["ranking"].values()
    )


def test_an_artifact_is_replaced(linear_model: Path, artifact: Path) -> None:
    before = json.loads((artifact / "manifest.json").read_text())

    build(linear_model, artifact, "--rounds", "1", "--only", "ort", "--name", "second")

    after = json.loads((artifact / "manifest.json").read_text())
    assert (before["name"], after["name"]) == ("linear", "second")
    assert sorted(os.listdir(artifact / "variants")) == ["ort", "portable"]
    assert os.listdir(artifact.parent) == ["linear"], "nothing of the build or of the old artifact is left"


def test_an_artifact_can_be_built_from_itself(artifact: Path) -> None:
    source = artifact / "variants" / "portable" / "model.onnx"

    document = build(source, artifact, "--rounds", "1", "--only", "ort")

    assert preheat("inspect", artifact).status == 0
    assert document["source"]["digest"].startswith("sha256:")


@pytest.mark.parametrize("extra", ["notes.txt", "variants/portable/mine.bin"])
def test_a_folder_that_holds_something_else_is_not_replaced(
    linear_model: Path, artifact: Path, extra: str
) -> None:
    (artifact / extra).write_text("keep me")

    ran = preheat("build", linear_model, "-o", artifact, "--rounds", "1")

    assert ran.status == 2
    assert extra in ran.error
    assert (artifact / extra).read_text() == "keep me"


def test_a_folder_that_is_no_artifact_is_not_replaced(linear_model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"irreplaceable")

    ran = preheat("build", linear_model, "-o", tmp_path / "photos")

    assert ran.status == 2
    assert "is not an artifact" in ran.error
    assert (tmp_path / "photos" / "one.jpg").read_bytes() == b"irreplaceable"


def test_a_file_is_not_replaced(linear_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")

    ran = preheat("build", linear_model, "-o", tmp_path / "out")

    assert ran.status == 2
    assert "is a file" in ran.error
    assert (tmp_path / "out").read_text() == "mine"


def test_a_failed_build_leaves_the_old_artifact(artifact: Path, tmp_path: Path) -> None:
    before = (artifact / "manifest.json").read_bytes()
    bad = models.save(models.custom_operator(), tmp_path / "bad" / "m.onnx")

    assert preheat("build", bad, "-o", artifact).status == 1

    assert (artifact / "manifest.json").read_bytes() == before
    assert preheat("inspect", artifact).status == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_leaves_nothing(
    linear_model: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "preheat", "build", str(linear_model), "-o", str(tmp_path / "a" / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "trying variants" in line:
            break
    assert len(os.listdir(tmp_path / "a")) == 1, "the staging folder"

    process.send_signal(number)
    _, err = process.communicate(timeout=30)

    assert process.returncode == status
    assert "Traceback" not in err
    assert os.listdir(tmp_path / "a") == []
    assert _left_in_session(process.pid) == [], "a trial outlives the build"


def _left_in_session(session: int) -> list[int]:
    """Processes of a session that still run, after giving them a moment to end."""
    for _ in range(50):
        left = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == session and fields[0] != "Z":
                    left.append(int(entry.name))
        if not left:
            break
        time.sleep(0.1)
    return left


def test_int8_is_refused_when_it_drifts(linear_model: Path, tmp_path: Path) -> None:
    ran = preheat(
        "build", linear_model, "-o", tmp_path / "out", "--quantize", "int8", "--only", "ort", "--json"
    )

    assert ran.status == 1
    assert ran.json()["code"] == "drift"
    assert ran.json()["error"] == ran.error
    assert "the answers of int8 drift 0.0" in ran.error
    assert "tolerance is 0.001" in ran.error
    assert not (tmp_path / "out").exists()


def test_int8_of_a_model_with_nothing_to_quantise_is_refused(silero_model: Path, tmp_path: Path) -> None:
    ran = preheat(
        *("build", silero_model, "-o", tmp_path / "out", "--quantize", "int8", "--only", "ort"),
        *("--tolerance", "0.5"),
    )
    assert ran.status == 1
    assert "the variant int8 cannot be made: nothing in it can be quantised" in ran.error
    assert not (tmp_path / "out").exists()


def test_int8_is_built_within_its_tolerance(linear_model: Path, tmp_path: Path) -> None:
    options = ["--quantize", "int8", "--tolerance", "0.1", "--only", "mapped", "--rounds", "1"]
    document = build(linear_model, tmp_path / "out", *options)

    rows = document["measurements"]["variants"]
    assert list(rows) == ["portable", "mapped", "int8"]
    assert 1e-3 < rows["int8"]["drift"] < 0.1
    assert rows["int8"]["bytes"] < rows["mapped"]["bytes"] / 2
    assert document["tolerance"] == 0.1
    int8 = document["variants"][-1]
    assert int8["requires"]["isa"] is not None


def test_int8_of_a_model_without_weights(tmp_path: Path) -> None:
    source = models.save(models.any_rank(), tmp_path / "m.onnx")

    ran = preheat("build", source, "-o", tmp_path / "out", "--quantize", "int8")

    assert ran.status == 1
    assert "int8 cannot be made" in ran.error
    assert not (tmp_path / "out").exists()


def test_inspect_shows_everything_in_80_columns(linear_artifact: Path) -> None:
    ran = preheat("inspect", linear_artifact)

    assert ran.status == 0
    document = json.loads((linear_artifact / "manifest.json").read_text())
    for said in (
        document["version"].removeprefix("sha256:"),
        "linear",
        "tensors",
        "[batch, 64]",
        f"all {len(document['files'])} files match their digests",
        *(variant["name"] for variant in document["variants"]),
        *(file["path"] for file in document["files"]),
    ):
        assert said in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_inspect_names_what_does_not_run_here(artifact: Path) -> None:
    path = artifact / "manifest.json"
    _edit(path, lambda document: document["variants"][3]["requires"].update(arch="riscv64"))

    ran = preheat("inspect", artifact)

    assert ran.status == 0
    assert "packed does not run here: made for riscv64" in ran.out
    assert preheat("inspect", artifact, "--json").json()["refused"]["packed"].startswith("made for riscv64")


def test_variants_that_are_left_out_for_one_reason_share_a_line(artifact: Path) -> None:
    reason = {"left_out": "there is no weight to speak of"}
    _edit(
        artifact / "manifest.json",
        lambda document: document["measurements"]["variants"].update(mapped=reason, packed=reason),
    )
    assert "left out: mapped, packed: there is no weight to speak of\n" in preheat("inspect", artifact).out


def test_inspect_finds_what_is_wrong_with_the_files(artifact: Path) -> None:
    weights = artifact / "variants" / "mapped" / "model.weights"
    changed = bytearray(weights.read_bytes())
    changed[100] ^= 1
    weights.write_bytes(changed)
    (artifact / "variants" / "ort" / "model.ort").unlink()
    os.truncate(artifact / "golden" / "0.inputs", 3)
    (artifact / "extra").write_text("extra")

    ran = preheat("inspect", artifact)

    assert ran.status == 1
    for wrong in (
        "variants/mapped/model.weights was changed",
        "variants/ort/model.ort is missing",
        "golden/0.inputs has 3 bytes",
        "extra is not in the manifest",
    ):
        assert wrong in ran.out
    program = preheat("inspect", artifact, "--json")
    assert program.status == 1
    assert program.json()["ok"] is False
    assert len(program.json()["problems"]) == 4


def test_inspect_of_what_is_no_artifact(tmp_path: Path) -> None:
    ran = preheat("inspect", tmp_path / "no", "--json")
    assert ran.status == 1
    assert ran.json() == {"error": ran.error, "code": "artifact"}
    assert "does not exist" in ran.error

    (tmp_path / "manifest.json").write_text('{"schema": 7}')
    assert "schema is 7" in preheat("inspect", tmp_path).error


def test_settings_are_listed_with_their_documentation() -> None:
    ran = preheat("settings", "--json")

    assert ran.status == 0
    rows = {row["name"]: row for row in ran.json()}
    for name in Settings._fields:
        row = rows["PREHEAT_" + name.upper()]
        assert row["default"] == Settings._field_defaults[name]
        assert row["doc"]
    table = preheat("settings").out
    assert all(name in table for name in rows)
    assert max(len(line) for line in table.splitlines()) <= 80


def test_usage_errors_are_one_line() -> None:
    for arguments in (["build"], ["biuld"], ["inspect"], ["build", "x"], ["inspect", "--what", "x"]):
        ran = preheat(*arguments)
        assert ran.status == 2
        assert ran.error
    assert preheat("build", "--json").json()["code"] == "usage"


def test_without_a_command_the_help_is_shown() -> None:
    ran = preheat()
    assert ran.status == 2
    assert "inspect" in ran.out
    assert "error" not in ran.err


def test_the_version() -> None:
    from preheat import __version__

    ran = preheat("--version")
    assert (ran.status, ran.out.strip()) == (0, __version__)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_the_command_says_which(missing: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('hidden', name={missing!r})")

    ran = preheat("--version", PYTHONPATH=_path(tmp_path))

    assert ran.status == 2
    assert f"needs the package {missing}" in ran.error
    assert "pip install 'preheat[cli]'" in ran.error


def test_without_onnx_a_build_says_what_to_install(linear_model: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text("raise ModuleNotFoundError('hidden', name='onnx')")

    ran = preheat("build", linear_model, "-o", tmp_path / "out", PYTHONPATH=_path(tmp_path))

    assert ran.status == 2
    assert "pip install 'preheat[onnx]'" in ran.error


def test_without_torch_an_export_says_what_to_install(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    (folder / "model.safetensors").write_bytes(b"never read")

    ran = preheat("build", folder, "-o", tmp_path / "out")

    assert ran.status == 2
    assert "torch" in ran.error
    assert "pip install 'preheat[build]'" in ran.error


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("not json", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"requests": []}', "either 'requests' or 'inputs'"),
        ('{"requests": [1], "inputs": [[]]}', "either 'requests' or 'inputs'"),
        ('{"request": [1]}', "unknown fields: request"),
        ('{"runs": 0, "requests": [1]}', "'runs' must be"),
        ('{"inputs": [{"name": "x"}]}', "list of lists of tensors"),
        ('{"requests": [{"text": "x"}]}', "does not fit"),
        (
            '{"inputs": [[{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]]}',
            "do not fit the model",
        ),
        (
            '{"inputs": [[{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]]}',
            "do not fit",
        ),
    ],
)
def test_a_wrong_recipe(linear_model: Path, tmp_path: Path, recipe: str, said: str) -> None:
    (tmp_path / "recipe.json").write_text(recipe)

    ran = preheat("build", linear_model, "-o", tmp_path / "out", "--recipe", tmp_path / "recipe.json")

    assert ran.status == 2
    assert said in ran.error
    assert not (tmp_path / "out").exists()


def test_a_recipe_gives_the_golden_inputs(tmp_path: Path) -> None:
    source = models.save(models.picky(), tmp_path / "m.onnx")
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 37], "data": [0.5] * 74}
    other = {"name": "x", "datatype": "FP32", "shape": [1, 37], "data": [0.25] * 37}
    (tmp_path / "recipe.json").write_text(json.dumps({"runs": 3, "inputs": [[tensor], [other]]}))

    document = build(
        source, tmp_path / "out", "--recipe", tmp_path / "recipe.json", "--rounds", "1", "--only", "ort"
    )

    assert document["warmup_runs"] == 3
    assert len(document["golden"]) == 2
    assert document["sample"]["request"]["inputs"] == [tensor]


def test_golden_tensors_beside_a_natural_sample(magika_model: Path, tmp_path: Path) -> None:
    tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [65] * 2048}
    (tmp_path / "recipe.json").write_text(json.dumps({"inputs": [[tensor]]}))
    options = ["--task", "filetype", "--recipe", tmp_path / "recipe.json", "--rounds", "1", "--only", "ort"]

    document = build(magika_model, tmp_path / "out", *options)

    assert document["sample"]["answer"]["predictions"][0]["label"] == "python"


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_the_recipes_that_come_with_the_functions_are_recipes(name: str) -> None:
    from preheat.build.samples import read_recipe

    assert len(read_recipe(str(ROOT / "warmup" / f"{name}.json")).requests) == 1


def _path(first: Path) -> str:
    return os.pathsep.join(part for part in (str(first), os.environ.get("PYTHONPATH", "")) if part)


def _edit(path: Path, change: object) -> None:
    """Change a manifest and make it valid again."""
    from preheat.manifest import version_of

    document = json.loads(path.read_text())
    change(document)  # type: ignore[operator]
    document["version"] = version_of(document)
    path.write_text(json.dumps(document))
