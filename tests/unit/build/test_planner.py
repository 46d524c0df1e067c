"""Trials of real variants, some of them spoiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preheat import fingerprint
from preheat import manifest as manifests
from preheat.build import build, planner
from preheat.build.inspection import inspect
from preheat.errors import BuildError, DriftError
from preheat.manifest import Manifest

from ...functional.build import models


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planner")
    source = models.save(models.linear(), folder / "m.onnx")
    build(str(source), str(folder / "out"), rounds=1, only=["mapped", "packed", "ort"])
    return folder / "out"


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "artifact"))


def plan(artifact: Path, *, rounds: int = 1, must: tuple[str, ...] = ()) -> planner.Plan:
    return planner.plan(
        str(artifact),
        manifest_of(artifact),
        fingerprint.machine(),
        threads=1,
        rounds=rounds,
        must=must,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )


seen: list[tuple[str, int, int]] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    seen.clear()


def manifest_of(artifact: Path) -> Manifest:
    return manifests.load((artifact / "manifest.json").read_bytes())


def spoil(artifact: Path) -> None:
    """Other weights of the same size: the variant opens, and answers something else."""
    weights = artifact / "variants" / "mapped" / "model.weights"
    weights.write_bytes(bytes(weights.stat().st_size))


def truncate(artifact: Path) -> None:
    model = artifact / "variants" / "mapped" / "model.onnx"
    model.write_bytes(model.read_bytes()[:50])


def test_rounds_are_interleaved_and_recorded(artifact: Path) -> None:
    planned = plan(artifact, rounds=2)

    names = ["portable", "mapped", "packed", "ort"]
    assert seen == [(name, i, 8) for i, name in enumerate(names * 2)]
    assert planned.left_out == {}
    measured = planned.measurements
    assert measured["rounds"] == 2
    assert measured["threads"] == 1
    assert measured["host"]["arch"] == fingerprint.machine().arch
    assert list(measured["variants"]) == names
    for row in measured["variants"].values():
        assert set(row) == {*planner.FIGURES, "bytes", "drift", "joined"}
        assert set(row["joined"]) == {"1", "2", "4", "8", "16"}
        assert row["rss_mib"]["median"] > 20


def test_a_variant_that_drifts_is_left_out_after_its_first_trial(artifact: Path) -> None:
    spoil(artifact)

    planned = plan(artifact, rounds=2)

    assert planned.left_out["mapped"].startswith("drifts 1; the tolerance is 0.001")
    assert planned.measurements["variants"]["mapped"] == {"left_out": planned.left_out["mapped"]}
    assert [name for name, *_ in seen].count("mapped") == 1
    assert [name for name, *_ in seen].count("packed") == 2


def test_a_variant_that_cannot_be_opened_is_left_out(artifact: Path) -> None:
    truncate(artifact)
    assert "cannot be opened" in plan(artifact).left_out["mapped"]


def test_a_variant_that_was_asked_for_may_not_fail(artifact: Path) -> None:
    spoil(artifact)
    with pytest.raises(DriftError, match="the answers of mapped drift 1 from the golden outputs"):
        plan(artifact, must=("mapped",))
    truncate(artifact)
    with pytest.raises(BuildError, match="the variant mapped cannot be used"):
        plan(artifact, must=("mapped",))


def test_the_portable_variant_may_not_fail(artifact: Path) -> None:
    (artifact / "variants" / "portable" / "model.onnx").write_bytes(b"")
    with pytest.raises(BuildError, match="portable"):
        plan(artifact)


def test_no_round_is_begun_when_the_time_is_up(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "TIME_BUDGET", 0.01)
    assert plan(artifact, rounds=9).measurements["rounds"] == 1


def test_a_variant_that_takes_too_long_is_left_out(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = planner._Trials(str(artifact), manifest_of(artifact), 1, {"portable"})
    trials._timeout = 0.01
    trials.attempt("packed")
    assert "was stopped" in trials.left_out["packed"]
    assert trials.standing() == ["portable", "mapped", "ort"]


def test_a_trial_can_be_run_by_hand(artifact: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "preheat.build.trial", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    figures = json.loads(run(str(artifact), "packed", "1").stdout)
    assert set(figures) == {*planner.FIGURES, "drift"}
    assert run(str(artifact), "fast").stderr == f"error: {artifact} has no variant 'fast'\n"
    assert run(str(artifact / "no"), "packed").stderr.startswith("error: ")
    assert run().stderr.startswith("usage: ")


def test_variants_that_share_files_are_dropped_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the planner leaves out, its files go; those that a kept variant opens stay."""
    source = models.save(models.linear(), tmp_path / "m.onnx")
    real = planner.plan

    def build_without(*names: str) -> Manifest:
        def plan_without(*arguments: Any, **more: Any) -> planner.Plan:
            planned = real(*arguments, **more)
            planned.left_out.update({name: "for this test" for name in names})
            return planned

        monkeypatch.setattr(planner, "plan", plan_without)
        return build(str(source), str(tmp_path / "out"), rounds=1, only=["mapped", "unpacked"])

    assert [v.name for v in build_without("mapped").variants] == ["portable", "unpacked"]
    assert (tmp_path / "out" / "variants" / "mapped" / "model.weights").exists()
    assert inspect(str(tmp_path / "out")).problems == []
    assert [v.name for v in build_without("mapped", "unpacked").variants] == ["portable"]
    assert os.listdir(tmp_path / "out" / "variants") == ["portable"]
    assert inspect(str(tmp_path / "out")).problems == []
