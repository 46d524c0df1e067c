"""The floor must open what the engine opens, as the engine opens it, and know nothing of Preheat."""

from __future__ import annotations

import ast
import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from preheat import arena, engine, manifest
from preheat.manifest import Requires, Variant
from preheat.measure import floor, target
from preheat.tensors import Tensors, pack, to_bytes, unpack

CPU = "CPUExecutionProvider"


class Options:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class Session:
    def __init__(
        self, path: str, options: Options, providers: list[tuple[str, dict[str, str]]], enable_fallback: int
    ) -> None:
        self.opened = (path, vars(options), providers, enable_fallback)

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.opened[2]]


@pytest.fixture
def fake_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Keeps what a session was opened with."""
    fake: Any = ModuleType("onnxruntime")
    fake.SessionOptions, fake.InferenceSession = Options, Session
    monkeypatch.setattr(arena, "held", lambda: 0)

    class Levels:
        ORT_ENABLE_ALL, ORT_ENABLE_EXTENDED, ORT_ENABLE_BASIC, ORT_DISABLE_ALL = (
            "all",
            "extended",
            "basic",
            "none",
        )

    fake.GraphOptimizationLevel = Levels
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(floor, "ort", fake)
    return fake  # type: ignore[no-any-return]


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
@pytest.mark.parametrize("provider", [CPU, "CUDAExecutionProvider"])
@pytest.mark.usefixtures("fake_onnxruntime")
def test_the_session_is_opened_as_the_engine_opens_it(level: str, provider: str) -> None:
    variant = Variant(
        "v", "m.onnx", ("m.onnx",), level, {"session.disable_prepacking": "1"}, Requires(provider)
    )
    ours = engine.open_session("/a/m.onnx", variant, threads=3)
    plan = {
        "model": "/a/m.onnx",
        "optimization": manifest.LEVELS[level],
        "config": variant.config,
        "providers": json.loads(json.dumps(variant.providers)),
        "threads": 3,
    }
    # A minimum has no bound on what its runs allocate.
    assert ours.opened[1]["entries"].pop("session.use_env_allocators") == "1"
    assert floor.open_session(plan).opened == ours.opened


def test_it_imports_nothing_of_preheat_and_nothing_on_its_path_shadows_a_library() -> None:
    source = Path(floor.__file__)
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert not (node.module or "").startswith("preheat")
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("preheat") for alias in node.names)
    # As a script its folder comes first on sys.path.
    installed = {path for path in sys.path if Path(path).resolve() != source.parent}
    for module in source.parent.glob("*.py"):
        if module.stem != "__init__":
            spec = importlib.machinery.PathFinder.find_spec(module.stem, list(installed))
            assert spec is None, f"{module.name} shadows {spec.origin}"
            assert module.stem not in sys.stdlib_module_names


TENSORS: Tensors = {
    **{
        kind: np.array([[1, 0, 1]], dtype=kind)
        for kind in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    },
    **{kind: np.array([[0.5], [-2]], dtype=kind) for kind in ("float16", "float32", "float64")},
    "scalar": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "strings": np.array([["a", ""], ["ü", "日本"]], dtype=object),
}


def test_recorded_inputs_are_read_as_they_were_packed(tmp_path: Path) -> None:
    path = tmp_path / "0.inputs"
    path.write_bytes(pack(TENSORS))
    found, wanted = floor.recorded(str(path)), unpack(path.read_bytes())
    assert list(found) == list(wanted)
    for name, array in found.items():
        assert array.shape == wanted[name].shape
        assert to_bytes(array) == to_bytes(wanted[name])
    assert found["strings"].tolist() == [["a", ""], ["ü", "日本"]]  # str, as onnxruntime takes them


def test_outputs_are_framed_as_they_are_checked() -> None:
    for array in TENSORS.values():
        length, raw = floor.framed(array)
        assert int.from_bytes(length, "little") == len(raw)
        assert raw == to_bytes(array)


def test_texts_are_tokenised_as_the_task_does_it(embed_artifact: Path) -> None:
    from preheat.download import download
    from preheat.phases import PhaseClock
    from preheat.stores import open_store
    from preheat.tasks.text_embedding import TextEmbedding

    task = TextEmbedding(
        download(open_store(str(embed_artifact)), cache_dir="", verify="always", clock=PhaseClock())
    )
    subject = target.find(str(embed_artifact), {})
    encode = floor.encoder(target.floor_plan(subject, "portable", 1, ())["text"])
    for text in ("one", "How warm is a cold start?", "a very long text " * 500):
        wanted, found = task.prepare({"input": text}), encode(text)
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
