"""A Hugging Face model folder to ONNX, through optimum.

``plan`` runs in the builder and imports nothing heavy; ``main`` runs in a process of its own, and torch goes
away with it. The network is never used (HF_HUB_OFFLINE).
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from typing import Any, NamedTuple

from ..download import sha256_of
from ..errors import SourceError, UsageError
from . import assets

HF_TASKS = {
    "text_embedding": "feature-extraction",
    "text_classification": "text-classification",
    "image_classification": "image-classification",
}
"""Ours -> optimum's."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
READ = (
    *("config.json", "modules.json", "sentence_bert_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)
"""Files beside the weights that decide what is exported; the source's digest covers them."""


class Plan(NamedTuple):
    """What is to be exported, and how."""

    folder: str
    """Where config.json and the weights lie: the model folder, or its Transformer module's."""
    task: str
    hf_task: str
    architecture: str
    digest: str


def plan(folder: str, task: str | None) -> Plan:
    """Look at a model folder.

    Raises SourceError that says what is missing, UsageError that asks for a task.
    """
    model_folder = folder
    modules = assets.modules(folder)
    if modules:
        model_folder = os.path.normpath(os.path.join(folder, str(modules[0].get("path", ""))))
        if os.path.commonpath([model_folder, folder]) != folder:
            raise SourceError(f"{folder}/modules.json points out of the folder")
    if not os.path.isfile(os.path.join(model_folder, "config.json")):
        raise SourceError(_no_model(model_folder))
    weights = _weights(model_folder)
    config = assets.read("config.json", [model_folder])
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    chosen = task or _task_of(architecture, bool(modules), folder)
    if chosen not in HF_TASKS:
        raise UsageError(
            f"the task {chosen} has no export; give an ONNX file, or a task of {', '.join(HF_TASKS)}"
        )
    _need_export()
    return Plan(model_folder, chosen, HF_TASKS[chosen], architecture, _digest(model_folder, folder, weights))


def _no_model(folder: str) -> str:
    models = sorted(name for name in os.listdir(folder) if name.endswith(".onnx"))
    nested = os.path.join(folder, "onnx")
    if os.path.isdir(nested):
        models += sorted(f"onnx/{name}" for name in os.listdir(nested) if name.endswith(".onnx"))
    if models:
        return f"{folder} has no config.json; to build from an ONNX file, give the file: {folder}/{models[0]}"
    return f"{folder} is not a model folder: it has no config.json (and there is no ONNX file in it)"


def _weights(folder: str) -> list[str]:
    """The weight files, every shard of them. Raises SourceError where one is missing."""
    for name in WEIGHTS:
        if os.path.isfile(os.path.join(folder, name)):
            found = [name]
            break
        index = os.path.join(folder, f"{name}.index.json")
        if os.path.isfile(index):
            document = assets.load_json(index)
            shards = document.get("weight_map") if isinstance(document, dict) else None
            if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
                raise SourceError(f"{index} has no weight_map")
            found = sorted(set(shards.values()))
            break
    else:
        others = [n for n in os.listdir(folder) if n.endswith((".h5", ".msgpack", ".gguf", ".ckpt"))]
        more = f"; {others[0]} is of a framework that is not exported here" if others else ""
        raise SourceError(f"{folder} has no weights: neither {' nor '.join(WEIGHTS)}{more}")
    for name in found:
        path = os.path.join(folder, name)
        if os.path.basename(name) != name or not os.path.isfile(path):
            raise SourceError(f"{folder} lacks {name}, a part of its weights")
        with open(path, "rb") as file:
            if file.read(23) == b"version https://git-lfs":
                raise SourceError(f"{path} is a Git LFS pointer, not the weights; fetch them: `git lfs pull`")
    return found


def _task_of(architecture: str, sentence_transformer: bool, folder: str) -> str:
    if architecture.endswith("ForSequenceClassification"):
        return "text_classification"
    if architecture.endswith("ForImageClassification"):
        return "image_classification"
    if sentence_transformer or re.fullmatch(
        r"\w*(Bert|BERT|berta|MPNet|Electra|DeBERTa\w*)\w*Model", architecture
    ):
        return "text_embedding"
    raise UsageError(
        f"{folder}: no task follows from the architecture {architecture or '(none in config.json)'}; "
        f"give --task, one of {', '.join(HF_TASKS)}"
    )


def _need_export() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "optimum", "onnx") if find_spec(name) is None]
    if not missing:
        try:
            missing = [] if find_spec("optimum.exporters.onnx") else ["optimum-onnx"]
        except ModuleNotFoundError:
            missing = ["optimum-onnx"]
    if missing:
        raise UsageError(
            f"exporting a model folder needs {', '.join(missing)}; "
            "install it with `pip install 'preheat[build]'`"
        )


def _digest(folder: str, root: str, weights: list[str]) -> str:
    lines = []
    for name in sorted({*weights, *READ}):
        for where in dict.fromkeys((folder, root)):
            path = os.path.join(where, name)
            if os.path.isfile(path):
                lines.append(f"{sha256_of(path)}  {name}\n")
                break
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


# From here on: inside the process that exports.


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Keys: ``folder``, ``hf_task``, ``target``. Gives ``model`` (its file name), ``exporter``, ``notes``."""
    import onnx
    import optimum.exporters.onnx as exporters
    import torch
    import transformers
    from optimum.version import __version__ as optimum_version

    torch.manual_seed(0)
    texts: list[str] = []
    logging.getLogger("optimum.exporters.onnx.convert").addFilter(_Keep(texts))
    try:
        exporters.main_export(
            request["folder"],
            request["target"],
            task=request["hf_task"],
            library_name="transformers",
            device="cpu",
            local_files_only=True,
            do_validation=True,
        )
    except Exception as error:  # whatever torch, transformers and optimum meet in a model
        import traceback

        traceback.print_exc(file=sys.stderr)
        text = " ".join(str(error).split())
        raise SourceError(
            f"{request['folder']} cannot be exported: {type(error).__name__}: {text[:600]}"
        ) from error
    models = sorted(name for name in os.listdir(request["target"]) if name.endswith(".onnx"))
    if len(models) != 1:
        raise SourceError(
            f"the export of {request['folder']} is {len(models)} models ({', '.join(models)}); "
            "an artifact holds one. Export them yourself and build from one ONNX file"
        )
    versions = {"optimum": optimum_version, "transformers": transformers.__version__}
    versions |= {"torch": torch.__version__, "onnx": onnx.__version__}
    exporter = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {"model": models[0], "exporter": exporter, "notes": texts}


class _Keep(logging.Filter):
    """Remembers the warnings that pass by: what the exporter has to say of its own result."""

    def __init__(self, texts: list[str]) -> None:
        super().__init__()
        self.texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self.texts.append(" ".join(record.getMessage().split()))
        return True
