"""Publishers and collectors at once: what one is about to name, the other does not remove."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from preheat.errors import ConflictError
from preheat.publish.aliases import promote
from preheat.publish.collect import collect
from preheat.publish.pending import PREFIX, SKEW_S, Note, noted, notes
from preheat.publish.upload import missing, publish
from preheat.stores.layout import alias_key, blob_key, read_alias, read_version
from preheat.stores.object import Bucket, Deadline
from preheat.stores.wording import MissingError

from .conftest import Place
from .samples import content, fails, make_artifact, succeeds, version_of

ROUNDS = 60


@pytest.fixture
def used(place: Place, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Each kind of store, in this process."""
    for name, value in place.environ.items():
        monkeypatch.setenv(name, value)
    return Bucket(place.root, Deadline(30), make=True)


def whole(bucket: Bucket, alias: str) -> bool:
    """Whether all that an alias names is there."""
    named, _ = read_alias(bucket, "m", alias)
    manifest, _ = read_version(bucket, "m", named.version)
    return not missing(bucket, list(manifest.files))


def test_a_publisher_meets_a_collector(used: Bucket, place: Place, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "one")
    publish(str(artifact), f"{place.root}/m", alias=None, timeout_s=30)
    version = version_of(artifact)
    until = time.time() + 60
    digest = json.loads((artifact / "manifest.json").read_text())["files"][0]["sha256"]
    for note in (
        Note(until, frozenset(), frozenset([digest])),
        Note(until, frozenset([f"m@{version}"]), frozenset()),
    ):
        with noted(used, "remove", note):
            for words in (
                ("publish", artifact, f"{place.root}/m", "--alias", "prod"),
                ("promote", f"{place.root}/m@{version}", "--alias", "prod"),
            ):
                assert "a `preheat gc` is removing what m@" in fails(place.environ, *words)
            assert not succeeds(place.environ, "ls", place.root)["artifacts"][0]["aliases"]
    succeeds(place.environ, "promote", f"{place.root}/m@{version}", "--alias", "prod")
    assert not list(used.entries(PREFIX))


def test_a_collector_leaves_what_a_publisher_needs(used: Bucket, place: Place, tmp_path: Path) -> None:
    old, new = (make_artifact(tmp_path / name, weights=name.encode()) for name in ("old", "new"))
    used.write("blobs/ab/" + "ab" * 32, b"on its way")
    for artifact in (old, new):
        publish(str(artifact), f"{place.root}/m", alias="prod", timeout_s=30)
    time.sleep(1.1)  # some servers tell whole seconds: it is to be the newest
    publish(str(make_artifact(tmp_path / "newest")), f"{place.root}/m", alias="prod", timeout_s=30)
    note = Note(time.time() + 60, frozenset([f"m@{version_of(old)}"]), frozenset(["ab" * 32]))
    clean = ("gc", place.root, "--grace-hours", "0", "--keep", "1")
    planned = succeeds(place.environ, *clean, "--dry-run")
    assert len(planned["versions"]) == 1
    assert "ab" * 32 in planned["blobs"]
    with noted(used, "keep", note):
        done = succeeds(place.environ, *clean)
    assert version_of(old)[:12] not in "".join(done["versions"])
    assert "ab" * 32 not in done["blobs"]
    succeeds(place.environ, "pull", f"{place.root}/m@{version_of(old)}", tmp_path / "out")
    assert "ab" * 32 in succeeds(place.environ, *clean)["blobs"]


def test_a_note_that_a_crash_left_behind_ends(used: Bucket) -> None:
    for until, count in ((time.time() - SKEW_S + 60, 1), (time.time() - SKEW_S - 1, 0)):
        used.write(f"{PREFIX}keep-0.json", json.dumps({"until": until, "versions": [], "blobs": []}).encode())
        assert len(notes(used, "keep")) == count
    assert not list(used.entries(PREFIX))


def later(seconds: float, call: Callable[[], Any]) -> Any:
    time.sleep(seconds)
    return call()


def test_at_once(folder: Place, tmp_path: Path) -> None:
    """Publishing files that lie there unnamed, promoting an old version, and a collector without grace."""
    chance = random.Random(1)
    bucket = Bucket(folder.root, Deadline(30), make=True)
    first = make_artifact(tmp_path / "first", weights=b"first")
    refused = named = removed = 0
    for turn in range(ROUNDS):
        publish(str(first), f"{folder.root}/m", alias=None, timeout_s=30)
        weights = content(turn, 1000)
        artifact = make_artifact(tmp_path / "artifact", weights=weights)
        bucket.write(blob_key(hashlib.sha256(weights).hexdigest()), weights)
        pauses = [chance.uniform(0, 0.04) for _ in range(3)]
        calls: list[Callable[[], Any]] = [
            partial(publish, str(artifact), f"{folder.root}/m", alias="prod", timeout_s=30),
            partial(promote, f"{folder.root}/m@{version_of(first)}", "old", timeout_s=30),
            partial(collect, folder.root, keep=1, grace_s=0, dry_run=False, timeout_s=30),
        ]
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(later, pause, call) for pause, call in zip(pauses, calls, strict=True)]
        for job, alias in zip(jobs[:2], ("prod", "old"), strict=True):
            error = job.exception()
            if error is None:
                assert whole(bucket, alias), (turn, alias)
                named += 1
            else:
                assert isinstance(error, ConflictError | MissingError), error
                refused += 1
        removed += len(jobs[2].result().blobs)
        for alias in ("prod", "old"):
            bucket.delete(alias_key("m", alias))
    print(f"{named} named, {refused} refused, {removed} files removed")
    assert named > ROUNDS // 4
    assert removed
