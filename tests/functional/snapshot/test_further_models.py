"""Further models beside a snapshot: it has none of them, and each copy loads its own."""

from __future__ import annotations

import json
from pathlib import Path

from ...conftest import renamed
from .conftest import Instance, environ, template_of

APP = """
import time
from preheat import Function, snapshot
function = Function(__file__)
def load():
    models = function.service.models
    models.find("small").loaded(time.perf_counter_ns())
    assert models.taken
snapshot.before(load)
"""


def test_a_model_that_was_loaded_before_the_snapshot_is_loaded_again_by_each_clone(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    small = renamed(filetype_artifact, tmp_path / "small", "small")
    home = tmp_path / "app"
    home.mkdir()
    (home / "app.py").write_text(APP)
    (home / "artifact").symlink_to(filetype_artifact)
    made = environ(home / "app.py", cache, PREHEAT_MODELS=str(small))
    log = tmp_path / "log"
    with template_of(made, log) as template:
        template.wait_ready()
        assert '"message": "model let go", "model": "small"' in log.read_text()
        for clone in (Instance(template), Instance(template)):
            assert clone.ask().status == 200
            assert json.loads(clone.get("/v2/models/small/coldstart").body)["code"] == "not_loaded"
            assert json.loads(clone.get("/v2/models/small").body)["name"] == "small"
            report = json.loads(clone.get("/v2/models/small/coldstart").body)
            assert report["instance"] == clone.clone.instance
            assert clone.ask().status == 200
