"""Model folders through optimum, in the export environment: torch is there and nowhere else."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from preheat import manifest as manifests
from preheat.download import Artifact, Stamps
from preheat.engine import Engine, open_session
from preheat.phases import PhaseClock
from preheat.stores.local import LocalStore
from preheat.tasks import built_in

from .conftest import build, preheat

QUICK = ["--rounds", "1", "--only", "packed"]


def answer(artifact: Path, request: object) -> object:
    """What the portable variant answers to a natural request of the artifact's task."""
    manifest = manifests.load((artifact / "manifest.json").read_bytes())
    opened = Artifact(LocalStore(str(artifact)), manifest, Stamps("", ""), PhaseClock())
    variant = manifest.variants[0]
    engine = Engine(open_session(opened.path(variant.model), variant, threads=1), manifest, variant)
    task = built_in(manifest.task)(opened)
    inputs = task.prepare(request)
    return task.finish(engine.run(inputs), inputs)


def reference(python: str, script: str) -> object:
    """What transformers itself computes."""
    ran = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_text_classification(export_python: str, model_folders: Path, tmp_path: Path) -> None:
    folder = model_folders / "sentiment"
    document = build(folder, tmp_path / "a", *QUICK, python=export_python)

    assert document["task"] == "text_classification"
    assert document["options"] == {
        "labels": ["bad", "fair", "good"],
        "activation": "softmax",
        "max_length": 40,
    }
    assert document["limits"]["sequence"] == 40
    assert document["source"]["format"] == "huggingface"
    assert "optimum" in document["source"]["exporter"]
    assert (tmp_path / "a" / "assets" / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    text = "a model that starts hot ."
    wanted = reference(
        export_python,
        f"""
import json, torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast(tokenizer_file={str(folder / "tokenizer.json")!r})
model = AutoModelForSequenceClassification.from_pretrained({str(folder)!r}).eval()
print(json.dumps(model(**tokenizer({text!r}, return_tensors="pt")).logits.softmax(-1)[0].tolist()))
""",
    )
    got = answer(tmp_path / "a", {"input": text})
    scores = got["predictions"][0]["scores"]  # type: ignore[index]
    assert [scores[label] for label in ("bad", "fair", "good")] == pytest.approx(wanted, abs=1e-5)

    # The same folder somewhere else gives the same artifact.
    again = build(
        shutil.copytree(folder, tmp_path / "copied" / "sentiment"),
        tmp_path / "b",
        *QUICK,
        python=export_python,
    )
    assert again["files"] == document["files"]
    assert again["version"] == document["version"]


def test_several_labels_at_once(export_python: str, model_folders: Path, tmp_path: Path) -> None:
    document = build(model_folders / "topics", tmp_path / "a", *QUICK, python=export_python)

    assert document["options"]["activation"] == "sigmoid"
    assert document["options"]["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]
    assert document["assets"] == {"tokenizer": "assets/tokenizer.json"}, "made by the export"


def test_image_classification(export_python: str, model_folders: Path, tmp_path: Path) -> None:
    document = build(model_folders / "pictures", tmp_path / "a", *QUICK, python=export_python)

    assert document["task"] == "image_classification"
    assert document["options"]["labels"] == ["cat", "dog"]
    assert document["options"]["preprocessor"]["size"] == {"height": 32, "width": 32}
    assert {p["label"] for p in document["sample"]["answer"]["predictions"][0]["top"]} == {"cat", "dog"}


def test_a_sentence_transformer_with_its_modules_in_folders(
    export_python: str, model_folders: Path, tmp_path: Path
) -> None:
    folder = model_folders / "sentences"
    document = build(folder, tmp_path / "a", *QUICK, python=export_python)

    assert document["task"] == "text_embedding"
    assert document["options"] == {"pooling": "cls", "normalize": False, "max_length": 16}
    text = "a model that starts hot ."
    wanted = reference(
        export_python,
        f"""
import json
from transformers import AutoModel, PreTrainedTokenizerFast
folder = {str(folder / "0_Transformer")!r}
tokenizer = PreTrainedTokenizerFast(tokenizer_file=folder + "/tokenizer.json")
model = AutoModel.from_pretrained(folder).eval()
print(json.dumps(model(**tokenizer({text!r}, return_tensors="pt")).last_hidden_state[0, 0].tolist()))
""",
    )
    got = answer(tmp_path / "a", {"input": text})
    assert np.allclose(got["embeddings"][0], wanted, atol=1e-5)  # type: ignore[index]


def test_an_exported_file_is_built_like_the_folder(
    export_python: str, model_folders: Path, tmp_path: Path
) -> None:
    """The ONNX file in a folder of its own, what the task needs one folder up, as on the model hub."""
    exported = build(model_folders / "topics", tmp_path / "a", *QUICK, python=export_python)
    folder = Path(shutil.copytree(model_folders / "topics", tmp_path / "hub" / "topics"))
    (folder / "onnx").mkdir()
    shutil.copy(tmp_path / "a" / "assets" / "tokenizer.json", folder)
    source = shutil.copy(tmp_path / "a" / exported["variants"][0]["model"], folder / "onnx" / "model.onnx")

    document = build(source, tmp_path / "b", "--task", "text_classification", *QUICK)

    assert document["name"] == "topics"
    assert document["options"] == exported["options"]
    assert document["sample"]["answer"] == exported["sample"]["answer"]


def test_folders_that_cannot_be_exported(export_python: str, model_folders: Path, tmp_path: Path) -> None:
    def refused(folder: Path, *options: str, status: int = 1) -> str:
        ran = preheat("build", folder, "-o", tmp_path / "out", *options, python=export_python)
        assert ran.status == status, ran.err
        assert not (tmp_path / "out").exists()
        return ran.error

    def copied(name: str) -> Path:
        return Path(shutil.copytree(model_folders / "sentiment", tmp_path / name))

    folder = copied("without-weights")
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refused(folder)

    folder = copied("truncated")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "cannot be exported" in refused(folder)

    folder = copied("pointer")
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refused(folder)

    folder = copied("sharded")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002-of-00002.safetensors" in refused(folder)

    folder = copied("unknown")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert "give --task" in refused(folder, status=2)

    folder = copied("unreadable")
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refused(folder)

    folder = copied("without-tokenizer")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(folder)

    assert "has no export" in refused(model_folders / "sentiment", "--task", "filetype", status=2)
