"""The direction of imports, and the cold path's budget."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from preheat.manifest import load

from ..conftest import ROOT
from ..functional.store.samples import publish

PACKAGE = ROOT / "src" / "preheat"

LAYERS = (
    # Lowest first: a module imports from its own layer and from those before it.
    {"errors", "providers", "dlpack"},
    {"settings", "phases", "workers", "device"},
    {"manifest", "tensors", "fingerprint", "stores", "choice", "trust", "highwater", "overrun", "quotas"},
    {"arena"},
    {"metrics", "trace_context", "telemetry"},
    {"span_queue", "tracing"},
    {"ledger", "principals", "bearer"},
    {"idempotency", "admission", "answer", "pauses"},
    {"powertools"},
    {
        "protocol",
        "tasks",
        "numpy_import",
        "engine",
        "download",
        "cache",
        "compile",
        "warmup",
        "waterfall",
        "batching",
        "turn",
        "bound",
        "device_weights",
    },
    {"incoming", "eviction", "fetch", "release", "remote"},
    {"bootstrap", "calls", "run", "service", "jobs", "models", "model_places"},
    {"takeover"},
    {"exposition"},
    {"adapters", "function", "snapshot"},
    {"server", "measure", "build", "publish", "output"},
    {"local"},
    {"deploy", "rehearse"},
    {"plan", "load"},
    {"cli", "__main__"},
)
OFFLINE = {
    *("build", "deploy", "load", "local", "measure", "output", "plan", "publish", "rehearse"),
    *("cli", "__main__"),
}
FORBIDDEN_ON_THE_COLD_PATH = {
    *("fastapi", "starlette", "pydantic", "uvicorn", "anyio", "asyncio", "boto3", "botocore"),
    *("aws_lambda_powertools", "torch", "transformers", "optimum", "onnx", "rich", "typer", "click"),
    *("prometheus_client", "opentelemetry", "google.protobuf", "requests"),
    *("ssl", "http.client", "urllib.request", "email", "importlib.metadata", "PIL", "magika"),
    *("jwt", "cryptography", "sqlite3"),
}


def modules() -> dict[str, Path]:
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}


def imported(path: Path, *, run_time_only: bool) -> set[str]:
    """The top-level modules of the package that a file imports; ``TYPE_CHECKING`` blocks left out."""
    parts = path.relative_to(PACKAGE).parts
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
            continue
        if run_time_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level] if node.level else ()
            if node.level or (node.module or "").partition(".")[0] == "preheat":
                inner = (node.module or "").removeprefix("preheat").strip(".")
                full = [*base, *(inner.split(".") if inner else [])]
                found |= {full[0]} if full else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("preheat.")}
        pending += ast.iter_child_nodes(node)
    return found - {"__version__", "__init__"}


def test_imports_go_one_way() -> None:
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for name, path in modules().items():
        top = name.partition(".")[0]
        if top == "__init__":
            continue
        assert top in level, f"{name} belongs to no layer: add it to LAYERS"
        wrong += [
            f"{name} imports {other}"
            for other in imported(path, run_time_only=True)
            if level[other] > level[top]
        ]
    assert not wrong


def test_the_run_time_never_imports_what_is_offline() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if name.partition(".")[0] not in OFFLINE
        for other in imported(path, run_time_only=False) & OFFLINE
    ]
    assert not wrong


def test_only_build_time_modules_name_build_time_libraries() -> None:
    heavy = ("torch", "transformers", "optimum", "onnx")
    wrong = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            wrong += [
                f"{name} imports {n}"
                for n in names
                if n.partition(".")[0] in heavy and not name.startswith("build")
            ]
    assert not wrong


def test_what_sends_a_load_test_speaks_http_alone() -> None:
    for path in (ROOT / "loadtests").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {
            "." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)
        }
        assert "locust" in names
        assert not {name for name in names if name.startswith((".", "preheat"))}


COLD = """
import json, sys, time
from preheat import phases
from preheat.function import target
from preheat.adapters.connection import Connection
from preheat.adapters.messages import HttpRequest
from preheat.adapters.routes import respond
function = target(sys.argv[1], {"PREHEAT_ARTIFACT": sys.argv[1], "PREHEAT_CACHE": sys.argv[2]})
function.start(phases.PhaseClock())
body = sys.argv[3].encode()
headers = {"content-type": "application/json"}
answer = respond(function.service, HttpRequest("POST", "/predict", headers, body, time.perf_counter_ns()))
assert answer.status == 200, answer
print(json.dumps(sorted(sys.modules)))
"""


STORE = {"obstore"}
"""What a start from a store may load beside the local one: one package, and the modules that fetch."""


def loaded_by(location: str, cache: Path, body: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", COLD, location, str(cache), body], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_store_adds_obstore_and_a_hit_adds_nothing(filetype_artifact: Path, cache: Path) -> None:
    manifest = load((filetype_artifact / "manifest.json").read_bytes())
    assert manifest.sample is not None
    body = json.dumps(manifest.sample["request"])
    local = loaded_by(str(filetype_artifact), cache, body)
    store = f"file://{cache}-store/{manifest.name}"
    publish(filetype_artifact, store)
    missed = loaded_by(f"{store}@{manifest.version}", cache, body)
    hit = loaded_by(f"{store}@{manifest.version}", cache, body)

    def packages(modules: set[str]) -> set[str]:
        return {m.partition(".")[0] for m in modules - local} - set(sys.stdlib_module_names)

    assert packages(missed) - {"preheat"} == STORE
    assert packages(hit) <= {"preheat"}
    assert not {m for m in missed if m.partition(".")[0] in FORBIDDEN_ON_THE_COLD_PATH}
    assert not {"preheat.fetch", "preheat.stores.object", "preheat.publish"} & hit
    assert not {"preheat.fetch", "preheat.remote", "preheat.cache", "preheat.stores.object"} & local


def test_a_restore_imports_next_to_nothing_before_criu_is_started() -> None:
    bare = [sys.executable, "-IS", "-c", f"import os, sys\nsys.path.append({str(PACKAGE.parent)!r})\n"]
    loaded = "print(*sorted(set(sys.modules) - before))"
    bare[-1] += f"before = set(sys.modules)\nfrom preheat.snapshot import criu\n{loaded}"
    done = subprocess.run(bare, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        "__future__",
        *("preheat", "preheat.errors", "preheat.snapshot", "preheat.snapshot.criu", "preheat.snapshot.hooks"),
    }


@pytest.mark.parametrize("name", ["filetype", "embed"])
def test_the_cold_path_imports_only_what_the_first_answer_needs(
    name: str, cache: Path, request: pytest.FixtureRequest
) -> None:
    artifact: Path = request.getfixturevalue(f"{name}_artifact")
    sample = load((artifact / "manifest.json").read_bytes()).sample
    assert sample is not None
    arguments = [str(artifact), str(cache), json.dumps(sample["request"])]
    done = subprocess.run(
        [sys.executable, "-c", COLD, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"numpy", "onnxruntime", "preheat.engine"} <= loaded
    assert not {m for m in loaded if m in FORBIDDEN_ON_THE_COLD_PATH}
    assert not {m for m in loaded if m.partition(".")[0] in FORBIDDEN_ON_THE_COLD_PATH}
    assert not {m for m in loaded if m.startswith(("preheat.build", "preheat.measure", "preheat.cli"))}
    assert not {"preheat.models", "preheat.model_places", "preheat.adapters.repository"} & loaded
