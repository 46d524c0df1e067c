"""The session is opened beside the task: what either of them raises is told once, as it is."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from preheat import compile as compiling
from preheat import warmup
from preheat.errors import EngineError, GoldenError
from preheat.function import Function
from preheat.tasks.tensors import RawTensors


class Lacking(RawTensors):
    libraries = ("no_such_library",)


def test_a_library_that_is_missing_ends_the_start_at_once(
    filetype_artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    really = compiling.compile
    monkeypatch.setattr(compiling, "compile", lambda *a, **k: opened.append(a) or really(*a, **k))
    environ = {"PREHEAT_ARTIFACT": str(filetype_artifact), "PREHEAT_CACHE": str(cache)}
    with pytest.raises(EngineError, match="no_such_library, which is not installed"):
        Function(task=Lacking, environ=environ).start()
    assert len(opened) == 1


def test_a_refused_session_is_gone_before_the_next_one_runs(
    filetype_artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Any]] = []
    really = warmup.warm

    def warm(engine: Any, *arguments: Any, **more: Any) -> Any:
        seen.append(weakref.ref(engine))
        if len(seen) == 1:
            raise GoldenError("it drifts")
        assert seen[0]() is None, "it would take its memory beside the next one"
        return really(engine, *arguments, **more)

    monkeypatch.setattr(warmup, "warm", warm)
    environ = {"PREHEAT_ARTIFACT": str(filetype_artifact), "PREHEAT_CACHE": str(cache)}
    function = Function(environ=environ)
    gc.disable()  # as in a start
    try:
        function.start()
    finally:
        gc.enable()
    assert len(seen) == 2
    assert function.service.current is not None
    assert function.service.current.engine is seen[1]()
