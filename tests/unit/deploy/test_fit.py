"""Sizes from measurements, and what will not fit."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from preheat.deploy import fit, sizing
from preheat.deploy.aws_tables import load
from preheat.deploy.facts import Facts
from preheat.errors import UsageError
from preheat.manifest import Requires, Variant
from preheat.providers import CUDA

from .artifacts import MIB, facts

TABLES = load()
X86 = "x86_64"
PLAN = fit.Plan(X86, memory_mb=1769, timeout_s=30)
STORED: dict[str, Any] = {"stored": True, "location": "s3://bucket/p/m@" + "a" * 12}


def size(found: Facts, architecture: str = X86, **more: Any) -> sizing.Sizing:
    return sizing.size(found, architecture, TABLES, stored=found.stored, **more)


def said(found: Facts, plan: fit.Plan, what: str, **more: Any) -> list[fit.Finding]:
    sized = size(found, plan.architecture, memory_mb=plan.memory_mb, **more)
    return [f for f in fit.findings(found, plan, sized, TABLES) if f.what == what]


def refused(found: Facts, plan: fit.Plan, what: str, **more: Any) -> list[str]:
    return [f"{f.said} → {f.change}" for f in said(found, plan, what, **more) if f.verdict == "does not fit"]


def test_sizes_follow_from_what_was_measured() -> None:
    found = size(facts())
    assert found.variant == "packed"
    assert found.rss_mib == 300  # portable may run instead, and takes more
    assert (
        sizing.needed_mb(found.rss_mib, TABLES.assumed.python_mib) == 512
    )  # (300 + 110) * 1.15 = 471.5, in steps of 64
    assert (found.memory_mb, found.threads) == (1769, 1)  # a whole vCPU at least
    assert found.request_ms == pytest.approx(4 * 2)  # measured with two threads, deployed with one
    assert found.init_ms == pytest.approx(600 + (50 + 10) * 2)
    assert (found.timeout_s, found.ephemeral_mb) == (30, 512)


def test_a_large_model_gets_more_memory_and_the_threads_that_come_with_it() -> None:
    large = facts()
    large.manifest.measurements["variants"]["portable"]["rss_mib"] = {"median": 4000}
    found = size(large)
    assert found.memory_mb == 4736  # (4000 + 110) * 1.15 = 4726.5
    assert found.threads == 2


def test_fetching_counts_to_the_start_and_to_tmp() -> None:
    here, there = size(facts()), size(facts(**STORED))
    assert there.init_ms - here.init_ms == pytest.approx(21 / 60 * 1e3, rel=0.001)
    assert there.ephemeral_mb == 512
    huge = size(facts(weights_mib=600, **STORED))
    assert huge.ephemeral_mb == 640  # 601 MiB, 32 beside it, in steps of 64


def test_the_largest_batch_decides_the_timeout() -> None:
    slow = facts()
    slow.manifest.measurements["variants"]["packed"]["steady_ms"] = {"median": 1000}
    slow.manifest.measurements["variants"]["portable"]["steady_ms"] = {"median": 1000}
    assert size(slow).timeout_s == 70  # 2 * (0.72 s + 16 * 2 s) = 65.4 s, in steps of 5


def test_an_artifact_without_measurements_has_no_size() -> None:
    bare = facts()
    bare = bare._replace(manifest=bare.manifest._replace(measurements={}))
    with pytest.raises(UsageError, match=r"carries no measurements of the variant .*: build it again"):
        size(bare)


RUN: dict[str, Any] = {
    "artifact": {"version": "sha256:" + "a" * 64},
    "rows": [
        {
            "variant": "packed",
            "total_ms": {"median": 500},
            "phases": {"compile": {"median": 80}, "warmup": {"median": 20}, "import": {"median": 300}},
        }
    ],
}


def test_measured_phases_replace_what_is_assumed() -> None:
    found = size(facts(), run=RUN)
    assert found.measured_init
    assert found.init_ms == pytest.approx(400 + 100 * 2)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({**RUN, "artifact": {"version": "sha256:b"}}, "measurements of another artifact"),
        ({**RUN, "rows": []}, "no start of the variant packed"),
    ],
)
def test_measurements_of_something_else_are_refused(run: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        size(facts(), run=run)


def test_everything_fits() -> None:
    sized = size(facts())
    found = fit.findings(facts(), PLAN, sized, TABLES)
    assert fit.worst(found) == 0
    assert {f.what for f in found} >= {"architecture", "package", "memory", "init", "timeout", "snapstart"}


def test_a_package_past_250_mb_is_to_be_fetched_or_made_an_image() -> None:
    big = facts(weights_mib=100)
    (text,) = refused(big, PLAN, "package")
    assert text.startswith("267 MB of 250 MB unpacked: layers 146 (assumed), artifact 121")
    assert "one variant alone is fetched (at most 101 MB)" in text
    assert not refused(big, PLAN._replace(package="image"), "package")
    assert not refused(facts(weights_mib=100, **STORED), PLAN, "package")


def test_layers_are_measured_where_they_are_named(tmp_path: Path) -> None:
    layer = tmp_path / "layer.zip"
    with zipfile.ZipFile(layer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("python/zeros", bytes(230 * MIB))
    assert layer.stat().st_size < MIB  # it is the unpacked size that counts
    (text,) = refused(facts(), PLAN._replace(layers=(str(layer),)), "package")
    assert text.startswith("271 MB of 250 MB unpacked: layers 230, artifact 41")
    layer.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a zip file"):
        said(facts(), PLAN._replace(layers=(str(layer),)), "package")
    with pytest.raises(UsageError, match="cannot be read"):
        said(facts(), PLAN._replace(layers=(str(tmp_path / "none.zip"),)), "package")


def test_tmp_too_small_for_what_is_fetched() -> None:
    huge = facts(weights_mib=600, **STORED)
    plain = PLAN._replace(snapstart=False)
    (text,) = refused(huge, plain, "ephemeral")
    assert "640 MB of 512 MB" in text
    assert "set --ephemeral-storage 640" in text
    assert not refused(huge, plain._replace(ephemeral_mb=640), "ephemeral")
    (text,) = refused(huge, PLAN, "ephemeral")
    assert "SnapStart takes at most 512 MB: deploy a container image" in text


def test_the_init_has_ten_seconds_without_a_snapshot() -> None:
    slow = facts(weights_mib=400, **STORED)
    slow.manifest.measurements["variants"]["packed"]["session_ms"] = {"median": 2000}
    slow.manifest.measurements["variants"]["portable"]["session_ms"] = {"median": 2000}
    plain = PLAN._replace(snapstart=False)
    (text,) = refused(slow, plain, "init")
    assert text.startswith("11.3 s of 10 s: imports assumed, at 1 vCPU")
    assert not refused(slow, PLAN, "init")  # 130 s
    assert not refused(slow, plain._replace(provisioned=1), "init")
    assert not refused(slow, plain._replace(memory_mb=2 * 1769), "init")


def test_memory_below_what_was_measured() -> None:
    (text,) = refused(facts(), PLAN._replace(memory_mb=256), "memory")
    assert "256 MB, 512 MB needed" in text
    assert "set --memory 512" in text
    (finding,) = said(facts(), PLAN._replace(memory_mb=1024), "memory")
    assert finding.verdict == "beware"
    assert "58% of a vCPU" in finding.said


def test_a_model_that_no_function_holds() -> None:
    huge = facts()
    huge.manifest.measurements["variants"]["portable"]["rss_mib"] = {"median": 12000}
    (text,) = refused(huge, PLAN._replace(memory_mb=10240), "memory")
    assert "no function has that much" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.11"}, "not on Python 3.11 → use Python 3.12 or newer"),
        ({"provisioned": 2}, "not together with provisioned concurrency"),
        ({"efs": True}, "not with EFS"),
        ({"ephemeral_mb": 1024}, "not with more than 512 MB of /tmp → set --ephemeral-storage 512"),
        ({"qualifier": "$LATEST"}, "never on $LATEST → publish a version"),
    ],
)
def test_what_snapstart_excludes(change: dict[str, Any], words: str) -> None:
    (text,) = refused(facts(), PLAN._replace(**change), "snapstart")
    assert words in text
    assert not refused(facts(), PLAN._replace(snapstart=False, **change), "snapstart")


def test_every_exclusion_is_named_at_once() -> None:
    plan = PLAN._replace(python="3.11", efs=True, provisioned=1, ephemeral_mb=600, qualifier="$LATEST")
    assert len(refused(facts(), plan, "snapstart")) == 5


def test_an_alias_of_the_store_stays_in_the_snapshot() -> None:
    (finding,) = said(facts(**STORED, alias="prod"), PLAN, "snapshot_alias")
    assert finding.verdict == "beware"
    assert "sha256:" + "a" * 64 in finding.change
    assert not said(facts(**STORED), PLAN, "snapshot_alias")


@pytest.mark.parametrize(
    ("root", "verdict"),
    [("s3://bucket/p", "fits"), ("gs://bucket/p", "beware"), ("file:///srv/p", "does not fit")],
)
def test_where_a_function_can_fetch_from(root: str, verdict: str) -> None:
    found = facts(stored=True, location=f"{root}/m@{'a' * 12}")
    assert [f.verdict for f in said(found, PLAN, "store")] == [verdict]


def test_variants_for_another_architecture() -> None:
    arm = PLAN._replace(architecture="arm64")
    (text,) = refused(facts(), arm, "architecture")
    assert "packed were made for x86_64, the function is arm64: it would run portable alone" in text
    assert "deploy on x86_64" in text
    assert not refused(facts(arch="aarch64"), arm, "architecture")
    assert facts(arch="aarch64").architecture == "arm64"


def test_variants_for_a_gpu_are_none_of_lambdas() -> None:
    plain = facts()
    on_a_gpu = Variant("cuda", "k/model.onnx", ("k/model.onnx",), "all", {}, Requires(CUDA))
    both = plain._replace(manifest=plain.manifest._replace(variants=(*plain.manifest.variants, on_a_gpu)))
    assert both.fitting("x86_64") == plain.fitting("x86_64")
    assert both.fitting("arm64") == plain.fitting("arm64")


def test_a_cpu_that_lambda_does_not_promise() -> None:
    (finding,) = said(facts(), PLAN, "isa")
    assert finding.verdict == "beware"
    assert "avx2, fma" in finding.said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"package": "rpm"}, "--package must be one of zip, image"),
        ({"memory_mb": 64}, "--memory must lie between 128 and 10240"),
        ({"memory_mb": 20000}, "--memory must lie between 128 and 10240"),
        ({"ephemeral_mb": 100}, "--ephemeral-storage must lie between 512 and 10240"),
        ({"timeout_s": 901}, "--timeout must lie between 1 and 900"),
        ({"provisioned": -1}, "--provisioned must not be negative"),
        ({"python": "three"}, "--python takes a release such as 3.12"),
    ],
)
def test_what_lambda_has_no_such_value_of(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit.check_plan(PLAN._replace(**change), TABLES)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_figures_that_are_no_rate(value: float) -> None:
    with pytest.raises(UsageError, match="--requests-per-second must be a number that is not negative"):
        fit.finite(value, "--requests-per-second")
