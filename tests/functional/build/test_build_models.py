"""Models of every kind, built by the command and opened in every way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import manifest as manifests
from preheat.engine import Engine, open_session
from preheat.tensors import drift, unpack

from . import models
from .conftest import build

ALL = ["portable", "mapped", "unpacked", "packed", "ort"]


def names(document: dict[str, Any]) -> list[str]:
    return [variant["name"] for variant in document["variants"]]


def agree(artifact: Path) -> None:
    """Every variant opens here, and answers the golden input as the portable one does."""
    manifest = manifests.load((artifact / "manifest.json").read_bytes())
    for golden in manifest.golden:
        inputs, wanted = (unpack((artifact / path).read_bytes()) for path in golden)
        for variant in manifest.variants:
            session = open_session(str(artifact / variant.model), variant, threads=1)
            got = Engine(session, manifest, variant).run(inputs)
            assert drift(got, wanted, manifest.stable_outputs) < 1e-4, variant.name


def test_magika_is_built_for_its_task_twice_alike(magika_model: Path, tmp_path: Path) -> None:
    options = ["--task", "filetype", "--rounds", "2"]
    first = build(magika_model, tmp_path / "a", *options)
    second = build(magika_model, tmp_path / "deeper" / "than" / "that", *options)

    assert names(first) == ALL
    assert first["sample"]["answer"]["predictions"][0]["label"] == "python"
    assert first["assets"] == {"config": "assets/config.min.json"}
    assert first["measurements"]["rounds"] == 2
    for name in ALL:
        row = first["measurements"]["variants"][name]
        for figure in ("session_ms", "first_ms", "steady_ms", "rss_mib"):
            assert 0 < row[figure]["min"] <= row[figure]["median"] <= row[figure]["max"]
    assert first["files"] == second["files"]
    assert first["version"] == second["version"]
    agree(tmp_path / "a")


def test_silero_has_state_tensors_a_scalar_and_an_if(silero_model: Path, tmp_path: Path) -> None:
    document = build(silero_model, tmp_path / "vad", "--rounds", "1")

    assert names(document) == ALL
    assert document["name"] == "silero_vad"
    shapes = {entry["name"]: entry["shape"] for entry in document["sample"]["request"]["inputs"]}
    assert shapes["state"] == [2, 1, 128]
    assert shapes["sr"] == []
    assert document["stable_outputs"] == ["output", "stateN"]
    agree(tmp_path / "vad")


@pytest.mark.parametrize("kind", ["linear", "control_flow", "decoder", "function"])
def test_a_model_with_weights_gets_every_variant(kind: str, tmp_path: Path) -> None:
    source = models.save(getattr(models, kind)(), tmp_path / f"{kind}.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1")

    assert names(document) == ALL
    assert document["name"] == kind
    agree(tmp_path / "out")


@pytest.mark.parametrize("kind", ["several", "strings", "scan", "any_rank", "half", "sparse"])
def test_a_model_with_hardly_any_weights_gets_what_can_be_made(kind: str, tmp_path: Path) -> None:
    source = models.save(getattr(models, kind)(), tmp_path / f"{kind}.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "ort", "--only", "mapped")

    assert {"portable", "ort"} <= set(names(document))
    left_out = document["measurements"]["variants"].get("mapped", {}).get("left_out", "")
    assert ("mapped" in names(document)) != ("no weights of 4096 bytes" in left_out)
    agree(tmp_path / "out")


def test_inputs_that_share_a_symbol_share_its_size(tmp_path: Path) -> None:
    document = build(
        models.save(models.decoder(), tmp_path / "m.onnx"), tmp_path / "out", "--rounds", "1", "--only", "ort"
    )

    shapes = {entry["name"]: entry["shape"] for entry in document["sample"]["request"]["inputs"]}
    batch, length = shapes["input_ids"]
    past = shapes["past_key_values.0.key"][2]
    assert shapes["attention_mask"] == [batch, past + length]
    assert past > 0


def test_an_output_that_is_never_the_same_is_not_held_against_the_golden_one(tmp_path: Path) -> None:
    source = models.save(models.random_output(), tmp_path / "m.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "ort")

    assert document["stable_outputs"] == ["clean"]
    assert any("not the same in two runs" in note for note in document["measurements"]["notes"])


def test_a_sequence_among_the_outputs_is_left_out(tmp_path: Path) -> None:
    source = models.save(models.sequence_output(), tmp_path / "m.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "ort")

    assert [output["name"] for output in document["outputs"]] == ["y"]
    assert any("'parts' is a seq(tensor(float))" in note for note in document["measurements"]["notes"])


def test_an_input_with_a_default_value_is_not_asked_for(tmp_path: Path) -> None:
    source = models.save(models.default_input(), tmp_path / "m.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "ort")

    assert [entry["name"] for entry in document["inputs"]] == ["x"]


def test_a_model_that_answers_nan_is_built_without_a_sample(tmp_path: Path) -> None:
    source = models.save(models.nan_output(), tmp_path / "m.onnx")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "ort")

    assert document["sample"] is None
    assert document["measurements"]["variants"]["ort"]["drift"] == 0


def test_external_data_is_taken_along_wherever_it_lies(tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path / "source", "weights/deep/model.data")

    document = build(source, tmp_path / "out", "--rounds", "1", "--only", "mapped")

    portable = document["variants"][0]
    assert portable["files"] == ["variants/portable/model.onnx", "variants/portable/weights/deep/model.data"]
    agree(tmp_path / "out")


def test_external_data_named_like_the_copy_of_the_model(tmp_path: Path) -> None:
    source = models.with_external_data(tmp_path / "source", "model.onnx.data")
    renamed = source.rename(source.with_name("other.onnx"))
    (tmp_path / "source" / "model.onnx.data").rename(tmp_path / "source" / "model.onnx")
    model = models.onnx.load(str(renamed), load_external_data=False)
    for initializer in model.graph.initializer:
        initializer.external_data[0].value = "model.onnx"
    models.save(model, renamed)

    document = build(renamed, tmp_path / "out", "--rounds", "1", "--only", "mapped")

    assert document["variants"][0]["model"] == "variants/portable/graph-model.onnx"
    agree(tmp_path / "out")


OPENED = """
import json, sys
from preheat import manifest as manifests
from preheat.engine import open_session

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

root, name = sys.argv[1:]
with open(root + "/manifest.json", "rb") as file:
    variant = manifests.load(file.read()).variant(name)
import onnxruntime
before = anonymous()
session = open_session(f"{root}/{variant.model}", variant, threads=1)
with open("/proc/self/maps") as file:
    mapped = {line.split()[-1] for line in file}
found = [path for path in variant.files if f"{root}/{path}" in mapped]
print(json.dumps({"grown": anonymous() - before, "mapped": found}))
"""


def test_weights_are_mapped_and_not_read(tmp_path: Path) -> None:
    source = models.save(models.linear(width=1024, depth=8), tmp_path / "m.onnx")
    size = 8 * 1024 * 1024 * 4
    build(source, tmp_path / "out", "--rounds", "1")

    def opened(name: str) -> Any:
        command = [sys.executable, "-c", OPENED, str(tmp_path / "out"), name]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert opened("portable")["mapped"] == []
    assert opened("portable")["grown"] > size
    for name, file in (
        ("unpacked", "mapped/model.weights"),
        ("packed", "packed/model.weights"),
        ("ort", "ort/model.ort"),
    ):
        assert opened(name)["mapped"] == [f"variants/{file}"]
    # Packing copies the weights; what is packed in the file, or never is, stays in the file's pages.
    assert size < opened("mapped")["grown"] < 1.5 * size
    assert opened("packed")["grown"] < size / 2
    assert opened("unpacked")["grown"] < size / 2


@pytest.fixture
def roomy_path(tmp_path: Path) -> Iterator[Path]:
    """A folder for gigabytes, emptied afterwards: pytest keeps those of its last three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_external_data_over_two_gigabytes(roomy_path: Path) -> None:
    """8 matrices of 256 MiB, in a sparse file; ORT format cannot hold them, everything else can."""
    width, layers = 8192, 8
    size = width * width * 4
    nodes, initializers, last = [], [], "x"
    for layer in range(layers):
        weight = models.onnx.TensorProto(name=f"w{layer}", data_type=models.F, dims=[width, width])
        initializers.append(models.external(weight, "w.data", offset=layer * size, length=size))
        nodes.append(models.helper.make_node("MatMul", [last, f"w{layer}"], [last := f"m{layer}"]))
    with (roomy_path / "w.data").open("wb") as file:
        file.truncate(layers * size)
        for layer in range(layers):
            file.seek(layer * size)
            file.write(np.float32(layer + 1).tobytes())
    inputs, outputs = [models.tensor("x", models.F, [1, width])], [models.tensor(last, models.F, [1, width])]
    source = models.save(models.model(nodes, inputs, outputs, initializers), roomy_path / "large.onnx")
    assert (roomy_path / "w.data").stat().st_size > 2**31 - 1

    document = build(source, roomy_path / "out", "--rounds", "1", "--only", "unpacked", "--only", "ort")

    assert names(document) == ["portable", "unpacked"]
    rows = document["measurements"]["variants"]
    assert "holds up to 2147483647 bytes" in rows["ort"]["left_out"]
    # Mapped, not read: opening takes no time in the size of the weights.
    assert rows["unpacked"]["session_ms"]["median"] < rows["portable"]["session_ms"]["median"]
    answer = document["sample"]["answer"]["outputs"][0]["data"]
    sent = document["sample"]["request"]["inputs"][0]["data"]
    assert answer[0] == pytest.approx(sent[0] * np.prod(np.arange(1, layers + 1)), rel=1e-5)
    assert not any(answer[1:])
