"""What `check knative` and `check cloudrun` find before a deployment."""

from __future__ import annotations

from typing import Any

import pytest

from preheat.deploy import cloud_run, container_fit, container_tables, knative
from preheat.deploy.container_spec import Options
from preheat.deploy.facts import Facts
from preheat.deploy.fit import Finding
from preheat.manifest import Requires, Variant

from .artifacts import facts

TABLES = container_tables.load()


def on_knative(found: Facts | None = None, **options: Any) -> dict[str, Finding]:
    unit = knative.unit(found or facts(), Options("image", **options), TABLES)
    return {f.what: f for f in container_fit.on_knative(unit, TABLES)}


def on_cloudrun(found: Facts | None = None, **options: Any) -> dict[str, Finding]:
    unit = cloud_run.unit(found or facts(), Options("image", **options), TABLES)
    return {f.what: f for f in container_fit.on_cloudrun(unit, TABLES)}


def with_gpu() -> Facts:
    found = facts()
    gpu = Variant("cuda", "p/model.onnx", ("p/model.onnx",), "all", {}, Requires("CUDAExecutionProvider"))
    figures = {name: {"median": 1} for name in ("session_ms", "first_ms", "steady_ms")}
    found.manifest.measurements["variants"]["cuda"] = {**figures, "rss_mib": {"median": 2000}}
    return found._replace(manifest=found.manifest._replace(variants=(*found.manifest.variants, gpu)))


def stored(alias: str = "prod") -> Facts:
    return facts(location="s3://models/m@prod", stored=True, home="", alias=alias)


def test_a_plain_one_fits() -> None:
    found = on_knative(ledger_secret="l")
    assert {f.verdict for f in found.values() if f.what != "isa"} == {"fits"}
    assert found["isa"].verdict == "beware"
    assert {f.verdict for f in on_cloudrun(ledger_secret="l").values() if f.what != "isa"} == {"fits"}


@pytest.mark.parametrize(
    ("options", "what", "verdict", "words"),
    [
        ({"memory_mb": 200}, "memory", "does not fit", "set --memory 512"),
        ({"timeout_s": 40}, "timeout", "beware", "set --timeout 55"),
        ({"timeout_s": 900}, "field", "does not fit", "max-revision-timeout-seconds moves the limit"),
        ({"concurrency": 500}, "concurrency", "beware", "set --concurrency 12"),
        ({"node_selector": ("a=b",)}, "feature_flag", "beware", "podspec-nodeselector: enabled"),
        ({"gpu": 1}, "gpu", "does not fit", "leave --gpu out"),
        ({}, "ledger", "beware", "--ledger-secret"),
    ],
)
def test_what_will_not_work_on_knative(options: dict[str, Any], what: str, verdict: str, words: str) -> None:
    found = on_knative(**options)[what]
    assert found.verdict == verdict
    assert words in found.change


@pytest.mark.parametrize(
    ("options", "what", "words"),
    [
        ({"memory_mb": 256}, "limits", "set --memory 512 to 32768"),
        ({"cpu": 4, "memory_mb": 1024}, "limits", "set --memory 2048"),
        ({"timeout_s": 4000}, "limits", "between 1 and 3600"),
        ({"gpu": 1, "memory_mb": 8192}, "limits", "set --memory 16384"),
    ],
)
def test_what_will_not_work_on_cloud_run(options: dict[str, Any], what: str, words: str) -> None:
    found = on_cloudrun(**options)[what]
    assert found.verdict == "does not fit"
    assert words in found.change


def test_a_grace_that_cloud_run_does_not_leave_is_told() -> None:
    assert on_cloudrun()["shutdown"].said.endswith("up to 8 s")
    assert on_cloudrun(env=("PREHEAT_GRACE=9.5",))["shutdown"].verdict == "fits"
    for grace in ("10", "25"):
        found = on_cloudrun(env=(f"PREHEAT_GRACE={grace}",))["shutdown"]
        assert found.verdict == "beware"
        assert f"up to {grace} s" in found.said
        assert "leave PREHEAT_GRACE out" in found.change


def test_cloud_run_has_no_arm() -> None:
    assert "x86_64" in on_cloudrun(facts(arch="aarch64"))["limits"].change


def test_a_gpu_is_wanted_where_a_variant_uses_one() -> None:
    assert on_knative(with_gpu())["gpu"].verdict == "beware"
    assert "gpu" not in on_knative(with_gpu(), gpu=1)


def test_what_a_cpu_needs_is_said_of_the_variant_that_was_sized() -> None:
    found = facts()
    first = found.manifest.variants[1]
    arm = first._replace(name="arm", requires=Requires(arch="aarch64", isa=("asimd",)))
    npu = Variant("npu", "p/model.onnx", ("p/model.onnx",), "all", {}, Requires("OpenVINOExecutionProvider"))
    for other, runs in ((arm, "packed"), (npu, "npu")):
        manifest = found.manifest._replace(variants=(other, *found.manifest.variants))
        quick = {name: {"median": 1} for name in ("session_ms", "first_ms", "steady_ms", "rss_mib")}
        manifest.measurements["variants"][other.name] = quick
        ours = found._replace(manifest=manifest)
        assert knative.unit(ours, Options("image"), TABLES).size.variant == runs
        assert runs in on_knative(ours)["isa"].said
        assert "gpu" not in on_knative(ours)  # neither is opened by one


def test_the_timeout_leaves_room_for_the_drain_that_was_set() -> None:
    assert "up to 40.5 s" in on_knative(timeout_s=60, env=("PREHEAT_GRACE=40.5",))["timeout"].said
    assert on_knative(timeout_s=60, env=("PREHEAT_GRACE=40.5",))["timeout"].change.startswith(
        "set --timeout 71"
    )
    assert on_knative(timeout_s=40, env=("PREHEAT_GRACE=5",))["timeout"].verdict == "fits"


def test_sizes_are_those_of_what_runs() -> None:
    found = with_gpu()
    without, with_one = (knative.unit(found, Options("image", gpu=gpu), TABLES).size for gpu in (0, 1))
    assert (without.variant, without.memory_mib) == ("packed", 512)
    assert (with_one.variant, with_one.memory_mib) == ("cuda", 2432)


def test_an_alias_is_read_anew_by_each_start() -> None:
    found = on_knative(stored())
    assert found["alias"].verdict == "beware"
    assert found["store_access"].verdict == "beware"
    named = on_knative(stored(alias=""), service_account="a")
    assert "alias" not in named
    assert "store_access" not in named


def test_an_artifact_on_this_machine_is_seen_by_no_instance() -> None:
    here = facts(location="file:///srv/m@v1", stored=True, home="")
    assert on_knative(here)["artifact"].verdict == "does not fit"
    assert on_knative(here, pvc="models")["artifact"].verdict == "fits"


def test_no_keys_no_records() -> None:
    assert on_knative(env=("PREHEAT_IDEMPOTENCY=off",))["ledger"].verdict == "fits"
    assert on_knative(ledger="dynamodb://t")["ledger"].verdict == "fits"
    assert on_knative(ledger="sqlite:///tmp/l")["ledger"].verdict == "beware"


def test_a_start_that_no_probe_waits_for() -> None:
    slow = facts()
    slow.manifest.measurements["variants"]["packed"]["session_ms"] = {"median": 500_000}
    slow.manifest.measurements["variants"]["portable"]["session_ms"] = {"median": 500_000}
    assert on_cloudrun(slow)["start"].verdict == "does not fit"
    assert on_knative(slow)["start"].verdict == "beware"
