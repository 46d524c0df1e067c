"""Who is held side by side, how each is started and asked, and what its documentation has it do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from preheat.measure.client import HOST
from preheat.measure.start import OTHER_PORT, PORT
from preheat.measure.target import Target, with_bytecode

from ..models import OUT, server_environ
from .process import THIRD_PORT

PEERS = Path(__file__).resolve().parent.parent / "peers"
MODEL_FOLDER = "{model folder}"
"""Stands for a folder as optimum's export leaves one."""
JOINED = 32
"""The most requests that are run as one, where a peer lets one say: as many as are ever under way."""
EMBED = "/v2/models/embed/infer"


class Contender(NamedTuple):
    name: str
    label: str
    command: Sequence[str]
    """What the environment's interpreter is given; PORT and OTHER_PORT stand for ports."""
    path: str
    body: Callable[[str], Any]
    """The JSON that asks for a text's embedding."""
    answer: Callable[[Any], Any]
    """The embedding in the JSON that answers."""
    environment: str = ""
    """Whose requirements it needs; empty for Preheat's own environment."""
    environ: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    """What its working folder holds, by name."""
    told: Sequence[str] = ()
    """Packages whose versions are told."""
    joins: str = "no"
    """How it joins requests."""


def _natural(text: str) -> Any:
    return {"input": text}


def _first(answer: Any) -> Any:
    return answer["embeddings"][0]


def _tensors(text: str) -> Any:
    return {"inputs": [{"name": "sentences", "shape": [1], "datatype": "BYTES", "data": [text]}]}


_PREHEAT = Contender(
    "preheat",
    "Preheat",
    ("-m", "preheat.server"),
    "/predict",
    _natural,
    _first,
    told=("onnxruntime",),
    joins="what waits at the same time, where the build measured that it pays",
)
_WARM = _PREHEAT._replace(
    name="preheat-warm", label="Preheat, objective warm", environ={"PREHEAT_OBJECTIVE": "warm"}
)
_UVICORN = ("-m", "uvicorn", "--app-dir", str(PEERS), "--host", HOST, "--port", PORT)
_FASTAPI = Contender(
    "fastapi",
    "FastAPI + onnxruntime",
    (*_UVICORN, "fastapi_onnxruntime:app"),
    "/predict",
    _natural,
    _first,
    "fastapi_onnxruntime",
    told=("fastapi", "uvicorn", "onnxruntime"),
)
_OPTIMUM = _FASTAPI._replace(
    name="optimum",
    label="FastAPI + optimum",
    command=(*_UVICORN, "fastapi_optimum:app"),
    environment="fastapi_optimum",
    environ={"MODEL_FOLDER": MODEL_FOLDER, "HF_HUB_OFFLINE": "1"},
    told=("fastapi", "optimum-onnx", "transformers", "torch"),
)
_LITSERVE = Contender(
    "litserve",
    "LitServe",
    (str(PEERS / "litserve_server.py"),),
    "/predict",
    _natural,
    _first,
    "litserve",
    told=("litserve",),
)
_BENTOML = Contender(
    "bentoml",
    "BentoML",
    (
        *("-m", "bentoml", "serve", "bentoml_service:Embedding", "--working-dir", str(PEERS)),
        *("--host", HOST, "--port", PORT),
    ),
    "/encode",
    lambda text: {"sentences": [text]},
    lambda answer: answer[0],
    "bentoml",
    {"BENTOML_HOME": str(OUT / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"},
    told=("bentoml",),
)
_MLSERVER = Contender(
    "mlserver",
    "MLServer",
    ("-c", "from mlserver.cli import main; main()", "start", "."),
    EMBED,
    _tensors,
    lambda answer: answer["outputs"][0]["data"],
    "mlserver",
    {
        "MLSERVER_HOST": HOST,
        "MLSERVER_HTTP_PORT": PORT,
        "MLSERVER_GRPC_PORT": OTHER_PORT,
        "MLSERVER_METRICS_PORT": THIRD_PORT,
    },
    {"model-settings.json": json.dumps({"name": "embed", "implementation": "mlserver_runtime.Embedding"})},
    told=("mlserver",),
)
_KSERVE = Contender(
    "kserve",
    "KServe",
    (str(PEERS / "kserve_predictor.py"), "--http_port", PORT, "--enable_grpc", "false"),
    "/v1/models/embed:predict",
    lambda text: {"instances": [text]},
    lambda answer: answer["predictions"][0],
    "kserve",
    told=("kserve",),
)


def _joining(contender: Contender, joins: str, **environ: str) -> Contender:
    return contender._replace(
        name=f"{contender.name}-joined",
        label=f"{contender.label}, batching",
        environ={**contender.environ, **environ},
        joins=joins,
    )


EVERY = (
    _PREHEAT,
    _WARM,
    _FASTAPI,
    _OPTIMUM,
    _LITSERVE,
    _joining(_LITSERVE, f"up to {JOINED}, waits 10 ms", BATCH=str(JOINED)),
    _BENTOML,
    _joining(_BENTOML, "adaptive, up to 100", BATCH="1"),
    _MLSERVER,
    _joining(
        _MLSERVER,
        f"up to {JOINED}, waits 10 ms",
        MLSERVER_MODEL_MAX_BATCH_SIZE=str(JOINED),
        MLSERVER_MODEL_MAX_BATCH_TIME="0.01",
    ),
    _KSERVE,
)


def environ_of(contender: Contender, subject: Target, python: Path, threads: int) -> dict[str, str]:
    """The whole environment of a contender's process, ports left open."""
    if not contender.environment:
        ours = {"PREHEAT_HOST": HOST, "PREHEAT_THREADS": str(threads), "PREHEAT_CACHE": str(OUT / "cache")}
        if path := subject.environ.get("PYTHONPATH"):  # it runs in another folder
            ours["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        return with_bytecode({**subject.environ, **ours, **contender.environ, "PORT": PORT})
    outer = {n: v for n, v in server_environ().items() if not n.startswith(("PYTHON", "VIRTUAL_ENV"))}
    portable = subject.manifest.variant("portable")
    assert portable is not None  # noqa: S101 - every artifact has it
    theirs = {
        "PATH": os.pathsep.join([str(python.parent), outer.get("PATH", os.defpath)]),
        "PYTHONPATH": str(PEERS),
        "MODEL": subject.path(portable.model),
        "TOKENIZER": subject.path(subject.manifest.assets["tokenizer"]),
        "THREADS": str(threads),
        "PORT": PORT,
    }
    folder = str(model_folder(subject)) if MODEL_FOLDER in contender.environ.values() else ""
    own = {name: value.replace(MODEL_FOLDER, folder) for name, value in contender.environ.items()}
    return {**outer, **theirs, **own}


def model_folder(subject: Target) -> Path:
    """The export and its tokenizer with the two files that transformers reads beside them, under out/."""
    folder = OUT / "minilm-onnx"
    folder.mkdir(parents=True, exist_ok=True)
    portable = subject.manifest.variant("portable")
    assert portable is not None  # noqa: S101 - every artifact has it
    for name, path in (
        ("model.onnx", portable.model),
        ("tokenizer.json", subject.manifest.assets["tokenizer"]),
    ):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(Path(subject.path(path)).resolve())
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    words = {"vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
    config = {"model_type": "bert", "architectures": ["BertModel"], **sizes, **words}
    (folder / "config.json").write_text(json.dumps(config))
    length = subject.manifest.options["max_length"]
    tokenizer = {"tokenizer_class": "BertTokenizer", "model_max_length": length, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def python_of(contender: Contender, environments: Path) -> Path:
    """Its interpreter."""
    if not contender.environment:
        return Path(sys.executable)
    return environments / contender.environment / "bin" / "python"
