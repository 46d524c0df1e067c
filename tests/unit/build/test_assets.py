from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preheat.build import assets
from preheat.errors import SourceError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def put(folder: Path, name: str, document: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document))


def modules(folder: Path, *kinds: str) -> None:
    entries = [
        {"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    put(folder, "modules.json", entries)


def options(folder: Path, task: str = "text_embedding") -> dict[str, Any]:
    return assets.find(task, [str(folder)]).options


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling(folder: Path, config: dict[str, Any], pooling: str) -> None:
    modules(folder, "Transformer", "Pooling", "Normalize")
    put(folder, "1_Pooling/config.json", config)
    assert options(folder) == {"pooling": pooling, "normalize": True}


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode": "weightedmean"},
        {},
    ],
)
def test_a_pooling_that_is_not_known(folder: Path, config: dict[str, Any]) -> None:
    modules(folder, "Transformer", "Pooling")
    put(folder, "1_Pooling/config.json", config)
    with pytest.raises(SourceError, match="asks for the pooling"):
        options(folder)


def test_a_module_that_is_not_known(folder: Path) -> None:
    modules(folder, "Transformer", "Dense")
    with pytest.raises(SourceError, match="module of type Dense"):
        options(folder)


def test_without_modules_it_is_the_mean(folder: Path) -> None:
    assert options(folder) == {"pooling": "mean", "normalize": False}


@pytest.mark.parametrize(
    ("files", "length"),
    [
        (
            {
                "sentence_bert_config.json": {"max_seq_length": 128},
                "config.json": {"max_position_embeddings": 64},
            },
            128,
        ),
        ({"config.json": {"max_position_embeddings": 512}}, 512),
        ({"config.json": {"max_position_embeddings": 514, "model_type": "roberta"}}, 512),
        (
            {
                "tokenizer_config.json": {"model_max_length": 77},
                "config.json": {"max_position_embeddings": 512},
            },
            77,
        ),
        ({"tokenizer_config.json": {"model_max_length": 10**30}}, None),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, None),
        ({}, None),
    ],
)
def test_the_longest_sequence(folder: Path, files: dict[str, Any], length: int | None) -> None:
    for name, document in files.items():
        put(folder, name, document)
    assert options(folder).get("max_length") == length


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "none"),
        ({"id2label": {"0": "toxic"}}, "sigmoid"),
        ({"function_to_apply": "none"}, "none"),
    ],
)
def test_activation(folder: Path, config: dict[str, Any], activation: str) -> None:
    put(folder, "config.json", {"id2label": {"0": "no", "1": "yes"}, **config})
    assert options(folder, "text_classification")["activation"] == activation


def test_labels_come_in_the_order_of_the_scores(folder: Path) -> None:
    names = {str(i): f"label {i}" for i in reversed(range(12))}
    put(folder, "config.json", {"id2label": names})
    assert options(folder, "text_classification")["labels"] == [f"label {i}" for i in range(12)]


@pytest.mark.parametrize(
    "config", [{}, {"id2label": {}}, {"id2label": {"1": "a"}}, {"id2label": {"x": "a"}}, {"id2label": []}]
)
def test_labels_that_are_not_there(folder: Path, config: dict[str, Any]) -> None:
    put(folder, "config.json", config)
    with pytest.raises(SourceError, match="id2label"):
        options(folder, "text_classification")


def test_the_first_folder_that_has_a_file_gives_it(folder: Path, tmp_path: Path) -> None:
    nested = tmp_path / "onnx"
    nested.mkdir()
    put(folder, "config.json", {"max_position_embeddings": 11})
    put(nested, "sentence_bert_config.json", {"max_seq_length": 7})
    found = assets.find("text_embedding", [str(nested), str(folder)])
    assert found.assets == {"tokenizer": str(folder / "tokenizer.json")}
    assert found.options["max_length"] == 7


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("text_embedding", "tokenizer.json"),
        ("filetype", "config.min.json"),
        ("image_classification", "preprocessor_config.json"),
    ],
)
def test_what_a_task_needs_is_named(task: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"needs {name}"):
        assets.find(task, [str(tmp_path)])


def test_files_that_are_not_json_objects(folder: Path) -> None:
    put(folder, "config.json", [])
    with pytest.raises(SourceError, match="must hold a JSON object"):
        options(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(SourceError, match="is not JSON"):
        options(folder)
