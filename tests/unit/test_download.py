"""Verification and its stamps, on small files."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from preheat import manifest as manifests
from preheat.build import manifest_text
from preheat.download import Artifact, download
from preheat.errors import IntegrityError
from preheat.manifest import File, Golden
from preheat.phases import PhaseClock
from preheat.stores.local import LocalStore

from .test_manifest import manifest

FILES = {
    path: path.encode() for path in ("p/model.onnx", "k/model.onnx", "k/weights", "t.json", "g/in", "g/out")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "artifact"
    old = time.time() - 60
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        os.utime(root / path, (old, old))
    files = tuple(File(p, len(d), hashlib.sha256(d).hexdigest()) for p, d in FILES.items())
    whole = manifest(files=files, golden=(Golden("g/in", "g/out"),))
    (root / "manifest.json").write_text(manifest_text.dump(whole))
    time.sleep(0.15)  # past the age under which no stamp is kept
    return root


def opened(folder: Path, cache: Path, verify: str = "fetch") -> tuple[Artifact, PhaseClock]:
    clock = PhaseClock()
    return download(LocalStore(str(folder)), cache_dir=str(cache), verify=verify, clock=clock), clock


def hashed(clock: PhaseClock) -> int:
    return sum(span.attributes.get("verified_bytes", 0) for span in clock.spans)


def test_what_is_needed_is_hashed_and_nothing_else(folder: Path, cache: Path) -> None:
    artifact, clock = opened(folder, cache)
    assert hashed(clock) == 0
    artifact.require(["p/model.onnx", "g/in", "p/model.onnx"])
    assert hashed(clock) == len(FILES["p/model.onnx"]) + len(FILES["g/in"])


def test_a_second_start_hashes_nothing(folder: Path, cache: Path) -> None:
    artifact, _ = opened(folder, cache)
    artifact.require(FILES)
    artifact, clock = opened(folder, cache)
    artifact.require(FILES)
    assert hashed(clock) == 0


def test_always_hashes_always(folder: Path, cache: Path) -> None:
    for _ in range(2):
        artifact, clock = opened(folder, cache, "always")
        artifact.require(FILES)
        assert hashed(clock) == sum(map(len, FILES.values()))
    assert not cache.exists()


def test_a_change_is_seen_although_size_and_mtime_stand(folder: Path, cache: Path) -> None:
    artifact, _ = opened(folder, cache)
    artifact.require(FILES)
    before = (folder / "k/weights").stat()
    (folder / "k/weights").write_bytes(b"k/weightz")
    os.utime(folder / "k/weights", ns=(before.st_atime_ns, before.st_mtime_ns))
    artifact, _ = opened(folder, cache)
    artifact.require(["p/model.onnx"])
    with pytest.raises(IntegrityError, match="weights was changed"):
        artifact.require(["k/weights"])


def test_a_changed_manifest_is_seen_although_it_was_vouched_for(folder: Path, cache: Path) -> None:
    artifact, _ = opened(folder, cache)
    artifact.require(FILES)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"warmup_runs": 1', '"warmup_runs": 2'))
    with pytest.raises(manifests.ManifestError, match="changed after the build"):
        opened(folder, cache)


def test_a_failure_ahead_is_met_where_the_file_is_needed(folder: Path, cache: Path) -> None:
    (folder / "k/weights").write_bytes(b"k/weightz")
    artifact, _ = opened(folder, cache)
    artifact.verify_ahead(["k/weights"])
    with pytest.raises(IntegrityError, match="weights was changed"):
        artifact.require(["k/weights"])


@pytest.mark.parametrize("stamps", ["", "[]", "null", '{"a": 1}', "{"])
def test_stamps_that_are_not_are_no_error(folder: Path, cache: Path, stamps: str) -> None:
    artifact, _ = opened(folder, cache)
    artifact.require(FILES)
    (kept,) = (cache / "verified").iterdir()
    kept.write_text(stamps)
    artifact, clock = opened(folder, cache)
    artifact.require(FILES)
    assert hashed(clock) == sum(map(len, FILES.values()))
