"""A template of an artifact in a store: fetched by another process, rebuilt when its alias moves."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from preheat.errors import FailedStartError, StoreError

from ...conftest import revise
from ..store.samples import publish
from .conftest import Instance, environ, template_of, until_ended


@pytest.fixture
def store(filetype_artifact: Path, tmp_path: Path) -> str:
    """A store with one version of the artifact, named prod."""
    place = f"file://{tmp_path}/store/filetype"
    publish(filetype_artifact, place)
    return place


def test_what_fetches_is_gone_before_a_fork(store: str, cache: Path, tmp_path: Path) -> None:
    with template_of(environ(f"{store}@prod", cache), tmp_path / "log") as template:
        template.wait_ready()
        assert len(os.listdir(f"/proc/{template.pid}/task")) == 1
        assert template.location == f"{store}@prod"
        assert Instance(template).ask().status == 200
        spans = [s for s in template.report["phases"] if s["attributes"].get("by") == "another process"]
        assert [s["attributes"]["cache"] for s in spans] == ["miss"]


def test_an_alias_that_moved_makes_the_template_stale_and_the_next_one_new(
    store: str, cache: Path, filetype_artifact: Path, tmp_path: Path
) -> None:
    made = environ(f"{store}@prod", cache)
    with template_of(made, tmp_path / "log") as old:
        old.wait_ready()
        first = Instance(old)
        assert not old.stale()
        shutil.copytree(filetype_artifact, tmp_path / "new")
        revise(tmp_path / "new", "another")
        publish(tmp_path / "new", store)
        assert old.stale()
        with template_of(made, tmp_path / "log") as new:
            new.wait_ready()
            assert not new.stale()
            assert new.version != old.version
            second = Instance(new)
            assert first.ask().status == second.ask().status == 200
            versions = [json.loads(i.get("/coldstart").body)["artifact"]["version"] for i in (first, second)]
            assert versions == [old.version, new.version]
            first.signal()  # drained onto the new one
            assert until_ended(old, 1) == [(first.clone.pid, 0)]
            old.close()
            assert second.ask().status == 200


def test_a_store_that_is_gone_is_told_and_the_template_goes_on(
    store: str, cache: Path, tmp_path: Path
) -> None:
    with template_of(environ(f"{store}@prod", cache), tmp_path / "log") as template:
        template.wait_ready()
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(StoreError):
            template.stale()
        assert Instance(template).ask().status == 200


def test_what_cannot_be_fetched_fails_the_start_in_words(store: str, cache: Path, tmp_path: Path) -> None:
    made = environ(f"{store}@stage", cache)
    with (
        template_of(made, tmp_path / "log") as template,
        pytest.raises(FailedStartError, match="there is no alias 'stage'"),
    ):
        template.wait_ready(60)


def test_a_folder_that_was_built_anew_is_told(filetype_artifact: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(filetype_artifact, folder)
    with template_of(environ(folder, cache), tmp_path / "log") as template:
        template.wait_ready()
        assert not template.stale()
        revise(folder, "another")
        assert template.stale()
