from __future__ import annotations

from pathlib import Path

import pytest

from preheat.build import arguments, reasons, variants
from preheat.fingerprint import Fingerprint

HERE = Fingerprint("x86_64", ("avx", "avx2"), 2, "1.31.1", ("CPUExecutionProvider",))


def test_an_optimised_graph_is_for_one_minor_release_of_onnxruntime() -> None:
    needs = variants.requires("mapped", HERE)

    assert (needs.arch, needs.isa, needs.onnxruntime) == ("x86_64", None, ("1.31", "1.32"))
    assert HERE.refuses(needs) is None
    assert HERE._replace(onnxruntime="1.31.9").refuses(needs) is None
    assert HERE._replace(isa=("avx",)).refuses(needs) is None
    assert HERE._replace(onnxruntime="1.32.0").refuses(needs)
    assert HERE._replace(onnxruntime="1.30.2").refuses(needs)
    assert HERE._replace(arch="aarch64").refuses(needs)


def test_packed_weights_are_for_one_release_on_one_cpu() -> None:
    needs = variants.requires("packed", HERE)

    assert (needs.isa, needs.onnxruntime) == (("avx", "avx2"), ("1.31.1", "1.31.2"))
    assert HERE.refuses(needs) is None
    assert HERE._replace(onnxruntime="1.31.1+cu12").refuses(needs) is None
    assert HERE._replace(onnxruntime="1.31.2").refuses(needs)
    assert HERE._replace(isa=("avx", "avx2", "avx512f")).refuses(needs)


@pytest.mark.parametrize("version", ["1.32.0.dev20260901", "1.32.0+cu12", "1.32.0"])
def test_development_releases_have_a_range_too(version: str) -> None:
    assert variants._range(version, exact=True) == ("1.32.0", "1.32.1")
    assert variants._range(version, exact=False) == ("1.32", "1.33")


def test_a_model_that_no_ort_file_can_hold(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(variants.LARGEST_ORT + 1)
    source = variants.portable("model.onnx", ("weights",))
    with pytest.raises(variants.LeftOutError, match="holds up to 2147483647 bytes"):
        variants.make("ort", str(tmp_path), source, HERE, timeout=60)
    assert not (tmp_path / "variants").exists()


def test_every_variant_has_a_way() -> None:
    accelerated = {name for names in arguments.ACCELERATED.values() for name in names}
    assert {*arguments.MADE, "int8", *accelerated} == set(variants.WAYS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/resnet50.onnx", "resnet50"),
        ("/models/resnet 50 (v2).onnx", "resnet-50--v2-"),
        ("/models/mini/model.onnx", "mini"),
        ("/models/mini/onnx/model.onnx", "mini"),
        ("/models/._.onnx", "model"),
        ("/models/" + "x" * 90 + ".onnx", "x" * 64),
        ("/model.onnx", "model"),
        ("/models/ü.onnx", "model"),
    ],
)
def test_the_name_of_a_model(path: str, name: str) -> None:
    assert arguments.name_of(path) == name


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x.onnx failed:Fatal error: a:B(-1) is not",
            "a:B(-1) is not",
        ),
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find it\nmore", "Could not find it"),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/graph.cc:5 "
            "onnxruntime::common::Status onnxruntime::Graph::F(const A&, int (*)(int)) const x was false.",
            "x was false.",
        ),
        ("plain words", "plain words"),
        ("", "ValueError"),
    ],
)
def test_reasons_in_plain_words(said: str, plain: str) -> None:
    assert reasons.plain(ValueError(said)) == plain
