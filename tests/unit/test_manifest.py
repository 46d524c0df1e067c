import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.build.manifest_text import dump
from preheat.errors import ManifestError
from preheat.manifest import (
    File,
    Golden,
    Limits,
    Manifest,
    Requires,
    TensorSpec,
    Variant,
    load,
)

DIGEST = "0" * 64


def manifest(**changes: Any) -> Manifest:
    whole = Manifest(
        name="m",
        version="",
        task="tensors",
        options={},
        source={"format": "onnx"},
        inputs=(TensorSpec("x", "FP32", ("batch", 4, None)), TensorSpec("any", "BYTES", None)),
        outputs=(TensorSpec("y", "FP32", ()),),
        limits=Limits(),
        objective="balanced",
        variants=(
            Variant("portable", "p/model.onnx", ("p/model.onnx",), "all", {}, Requires()),
            Variant(
                "packed",
                "k/model.onnx",
                ("k/model.onnx", "k/weights"),
                "disabled",
                {"a": "b"},
                Requires(arch="x86_64", isa=("avx2", "fma"), onnxruntime=("1.31.1", "1.31.2")),
            ),
        ),
        assets={"tokenizer": "t.json"},
        golden=(Golden("g/in", "g/out"),),
        tolerance=0.001,
        stable_outputs=("y",),
        warmup_runs=1,
        sample={"request": {"input": "ä"}, "answer": 1},
        files=tuple(
            File(p, 1, DIGEST)
            for p in ("p/model.onnx", "k/model.onnx", "k/weights", "t.json", "g/in", "g/out")
        ),
        measurements={"variants": {"packed": {"session_ms": {"median": 3}}}},
    )
    return whole._replace(**changes)


def test_what_is_written_is_read_back() -> None:
    read = load(dump(manifest()).encode())
    assert read == manifest(version=read.version)
    assert read.version.startswith("sha256:")
    assert read.measured("packed", "session_ms") == 3.0
    assert read.measured("portable", "session_ms") is None


def test_the_version_covers_what_decides_what_runs_and_no_measurement() -> None:
    version = load(dump(manifest()).encode()).version
    assert load(dump(manifest(measurements={"variants": {}})).encode()).version == version
    assert load(dump(manifest(tolerance=0.002)).encode()).version != version
    assert load(dump(manifest(options={"a": 1})).encode()).version != version


ENGINE = Variant(
    "tensorrt",
    "k/model.onnx",
    ("k/model.onnx", "k/weights"),
    "disabled",
    {},
    Requires("TensorrtExecutionProvider", gpu="sm_90", driver="580.1", libraries={"tensorrt": "10.16.1"}),
    {"trt_cuda_graph_enable": "1"},
)


def test_what_a_gpu_needs_is_read_back() -> None:
    whole = manifest(variants=(*manifest().variants, ENGINE))
    read = load(dump(whole).encode())
    assert read == whole._replace(version=read.version)
    assert read.variants[-1] == ENGINE
    assert ENGINE.providers == [
        ("TensorrtExecutionProvider", {"trt_cuda_graph_enable": "1"}),
        ("CUDAExecutionProvider", {}),
        ("CPUExecutionProvider", {}),
    ]


def test_other_variants_say_nothing_of_gpus() -> None:
    for record in json.loads(dump(manifest()))["variants"]:
        assert "provider_options" not in record
        assert {*record["requires"]} == {"provider", "arch", "isa", "onnxruntime"}


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("requires", "gpu", 90),
        ("requires", "libraries", {"tensorrt": 10}),
        ("", "provider_options", {"a": 1}),
    ],
)
def test_what_a_gpu_needs_is_read_strictly(where: str, name: str, value: object) -> None:
    document = json.loads(dump(manifest()))
    (document["variants"][1][where] if where else document["variants"][1])[name] = value
    with pytest.raises(ManifestError, match=f"{name} must"):
        load(json.dumps(document).encode())


def changed(**fields: Any) -> bytes:
    document = json.loads(dump(manifest()))
    document.update(fields)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "must hold an object"),
        (b"[" * 100_000, "not JSON"),
        (b"x" * (8 * 1024 * 1024 + 1), "the most that is read"),
        (changed(tolerance=float("nan")), "holds NaN"),
        (changed(schema=2), "schema is 2; this Preheat reads schema 1"),
        (changed(tolerance=0.5), "changed after the build"),
        (changed(version=7), "manifest.version must be str"),
        (changed(inputs=[{"name": "x"}]), r"manifest.inputs\[0\].shape is missing"),
        (changed(inputs=[{"name": "x", "dtype": "FP32", "shape": [True]}]), "sizes, symbols and nulls"),
        (changed(files=[{"path": "../x", "size": 1, "sha256": DIGEST}]), "not a plain path inside"),
        (changed(files=[{"path": "/x", "size": 1, "sha256": DIGEST}]), "not a plain path inside"),
        (changed(files=[{"path": "x", "size": 1, "sha256": "zz"}]), "64 hexadecimal digits"),
        (changed(files=[]), "does not list"),
        (changed(variants=[]), "no 'portable' variant"),
        (changed(objective="fast"), "manifest.objective"),
        (changed(name="a/b"), "manifest.name"),
        (changed(assets={"tokenizer": "../../etc/passwd"}), "not a plain path inside"),
    ],
)
def test_a_manifest_that_is_wrong_says_where(data: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        load(data)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    return found + [p for key, item in items for p in _paths(item, (*path, key))]


@given(st.data())
def test_any_field_replaced_by_anything_is_refused_or_read(data: st.DataObject) -> None:
    document = json.loads(dump(manifest()))
    path = data.draw(st.sampled_from(_paths(document)))
    anything = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.lists(st.none(), max_size=2))
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = data.draw(anything)
    with contextlib.suppress(ManifestError):
        load(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("rates", "steady_ms", "fixed_ms"),
    [
        ({"1": 500.0, "8": 500.0}, 2.0, 0.0),  # every row takes as long as the first
        ({"1": 100.0, "4": 4 / 0.016}, 10.0, 8.0),  # 8 ms and 2 for each row
        ({"1": 50.0, "4": 4 / 0.032}, 10.0, 8.0),  # the same, two callers at once
        ({"1": 100.0, "8": 800.0}, 10.0, float("inf")),  # more rows take no longer
        ({"1": 100.0, "2": 90.0}, 10.0, 0.0),
        ({"1": 100.0}, 10.0, 0.0),
        ({}, 10.0, 0.0),
        ({"1": 100.0, "4": 250.0}, None, 0.0),
    ],
)
def test_what_a_run_takes_whatever_its_rows(rates: Any, steady_ms: float | None, fixed_ms: float) -> None:
    row: dict[str, Any] = {"joined": rates}
    if steady_ms is not None:
        row["steady_ms"] = {"median": steady_ms}
    measured = manifest(measurements={"variants": {"portable": row}})
    assert measured.fixed_s("portable") == pytest.approx(fixed_ms / 1e3)
    assert measured.fixed_s("packed") == 0.0
