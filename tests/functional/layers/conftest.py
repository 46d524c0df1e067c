"""Layers built once for a session, from PyPI, with a cache of uv's that ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from layers.build import Built, build
from layers.contents import LAYERS, Layer
from layers.targets import ALL, Target, interpreter, running

AT_HAND = next((t for t in ALL if t.native() and interpreter(t.python)), running())
"""One of Lambda's Pythons where this machine has one, else the Python that runs the tests."""

ELSEWHERE = next(t for t in reversed(ALL) if not t.native())
"""A target that cannot run here."""


@pytest.fixture(scope="session", autouse=True)
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("uv")))
        yield


Make = Callable[[Layer, Target], Built]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A layer for a target, built when it is first asked for."""
    out = tmp_path_factory.mktemp("layers")
    kept: dict[tuple[str, Target], Built] = {}

    def make(layer: Layer, target: Target) -> Built:
        if (layer.name, target) not in kept:
            kept[layer.name, target] = build(layer, target, out)
        return kept[layer.name, target]

    return make


@pytest.fixture(scope="session")
def zips(made: Make) -> list[Path]:
    """Both layers of AT_HAND."""
    return [made(layer, AT_HAND).path for layer in LAYERS]
