"""The session is opened beside the task: what either of them raises is told once, as it is."""

from pathlib import Path

import pytest

from preheat import compile as compiling
from preheat.errors import EngineError
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
