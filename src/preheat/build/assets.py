"""What a task needs beside the model: its options and asset files, found beside the source.

Sources of the file formats: transformers' and sentence-transformers' own readers (config.json,
modules.json, 1_Pooling/config.json, sentence_bert_config.json, tokenizer_config.json,
preprocessor_config.json) and magika's (config.min.json).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import SourceError

LONGEST = 100_000
"""A ``model_max_length`` beyond this means "no limit" (transformers writes 10^30)."""

_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


class Found(NamedTuple):
    options: dict[str, Any]
    assets: dict[str, str]
    """Role -> the file to copy."""


def find(task: str, folders: Sequence[str]) -> Found:
    """Options and assets of a task, from the first of ``folders`` that has each file.

    Raises SourceError that names the file that is needed and not there.
    """
    if task == "text_embedding":
        options = {**_embedding(folders), **_max_length(folders)}
        return Found(options, {"tokenizer": _needed("tokenizer.json", folders, task)})
    if task == "text_classification":
        config = read("config.json", folders)
        options = {"labels": _labels(config), "activation": _activation(config), **_max_length(folders)}
        return Found(options, {"tokenizer": _needed("tokenizer.json", folders, task)})
    if task == "image_classification":
        preprocessor = read("preprocessor_config.json", folders)
        if not preprocessor:
            _needed("preprocessor_config.json", folders, task)
        config = read("config.json", folders)
        options = {"labels": _labels(config), "activation": _activation(config)}
        return Found({**options, "preprocessor": preprocessor}, {})
    if task == "filetype":
        return Found({}, {"config": _needed("config.min.json", folders, task)})
    return Found({}, {})


def read(name: str, folders: Sequence[str]) -> dict[str, Any]:
    """A JSON object from the first folder that has the file; empty where none has."""
    path = _path(name, folders)
    if path is None:
        return {}
    document = load_json(path)
    if not isinstance(document, dict):
        raise SourceError(f"{path} must hold a JSON object")
    return document


def load_json(path: str) -> Any:
    """Raises SourceError where the file cannot be read as JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}") from None


def modules(folder: str) -> list[dict[str, Any]]:
    """The modules of a sentence-transformers model, in their order; empty for any other model."""
    path = os.path.join(folder, "modules.json")
    if not os.path.isfile(path):
        return []
    found = load_json(path)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise SourceError(f"{path} must hold a list of modules")
    return found


def _path(name: str, folders: Sequence[str]) -> str | None:
    return next((p for p in (os.path.join(f, name) for f in folders) if os.path.isfile(p)), None)


def _needed(name: str, folders: Sequence[str], task: str) -> str:
    path = _path(name, folders)
    if path is None:
        raise SourceError(
            f"the task {task} needs {name}, which is not in {' or '.join(folders)}; "
            "put it beside the model, or build an ONNX file with --task tensors"
        )
    return path


def _embedding(folders: Sequence[str]) -> dict[str, Any]:
    """Pooling and normalisation, from sentence-transformers' files; without them the mean, as it does."""
    options: dict[str, Any] = {"pooling": "mean", "normalize": False}
    for folder in folders:
        for module in modules(folder):
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                where = os.path.join(folder, str(module.get("path", "")))
                options["pooling"] = _pooling(os.path.join(where, "config.json"))
            elif kind == "Normalize":
                options["normalize"] = True
            elif kind != "Transformer":
                raise SourceError(
                    f"{folder}/modules.json has a module of type {kind}, which is not run here; "
                    "only Transformer, Pooling and Normalize are. Export the whole model to ONNX yourself "
                    "and build from that file"
                )
        if modules(folder):
            break
    return options


def _pooling(path: str) -> str:
    config = load_json(path)
    if not isinstance(config, dict):
        raise SourceError(f"{path} must hold a JSON object")
    if isinstance(config.get("pooling_mode"), str):
        mode: str = config["pooling_mode"]
        chosen = ["last" if mode == "lasttoken" else mode]
    else:
        asked = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        chosen = [_POOLINGS.get(key, key) for key in asked]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS.values():
        raise SourceError(
            f"{path} asks for the pooling {' + '.join(chosen) or 'none'}; "
            f"those known here are {', '.join(_POOLINGS.values())}, one at a time"
        )
    return chosen[0]


def _max_length(folders: Sequence[str]) -> dict[str, int]:
    """The longest sequence that the model's files allow: sentence-transformers' own word, else the least."""
    own = read("sentence_bert_config.json", folders).get("max_seq_length")
    if type(own) is int and 0 < own <= LONGEST:
        return {"max_length": own}
    config = read("config.json", folders)
    positions = config.get("max_position_embeddings")
    if type(positions) is int and config.get("model_type") in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
    ):
        positions -= 2  # these count from the padding's id plus one
    candidates = [read("tokenizer_config.json", folders).get("model_max_length"), positions]
    known = [value for value in candidates if type(value) is int and 0 < value <= LONGEST]
    return {"max_length": min(known)} if known else {}


def _labels(config: dict[str, Any]) -> list[str]:
    """The labels in the order of the model's scores. Raises SourceError where config.json has none."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names or {*names} != {str(i) for i in range(len(names))}:
        raise SourceError(
            "a task that classifies needs config.json beside the model, with id2label for every index from "
            "0 on; add it, or build an ONNX file with --task tensors"
        )
    return [str(names[str(index)]) for index in range(len(names))]


def _activation(config: dict[str, Any]) -> str:
    """As transformers' text classification pipeline decides it."""
    asked = config.get("function_to_apply")
    if asked in ("softmax", "sigmoid", "none"):
        return str(asked)
    problem = config.get("problem_type")
    if problem == "regression":
        return "none"
    if problem == "multi_label_classification" or len(_labels(config)) == 1:
        return "sigmoid"
    return "softmax"
