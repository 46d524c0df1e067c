from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from preheat.manifest import Golden, Limits, Manifest
from preheat.measure import answers
from preheat.measure.client import Response
from preheat.tensors import Tensors, pack, to_bytes


def manifest(sample: Any = None, outputs: Tensors | None = None) -> Manifest:
    from preheat.manifest import TensorSpec
    from preheat.tensors import datatype_of

    specs = tuple(TensorSpec(n, datatype_of(a).v2, a.shape) for n, a in (outputs or {}).items())
    return Manifest(
        name="m",
        version="",
        task="tensors",
        options={},
        source={},
        inputs=(),
        outputs=specs,
        limits=Limits(),
        objective="cold",
        variants=(),
        assets={},
        golden=(Golden("i", "o"),),
        tolerance=1e-3,
        stable_outputs=tuple(spec.name for spec in specs),
        warmup_runs=1,
        sample=sample,
        files=(),
        measurements={},
    )


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ({"embeddings": [[0.1, -0.2]]}, {"embeddings": [[0.1, -0.2]]}),
        # Within 0.001 of the largest number of the same kind, however small the number itself.
        ({"embeddings": [[0.1001, 1e-5]]}, {"embeddings": [[0.1, 0.0]]}),
        (
            [{"label": "a", "score": 0.9995}, {"label": "b", "score": 4e-4}],
            [{"label": "a", "score": 1.0}, {"label": "b", "score": 0.0}],
        ),
        ({"a": None, "b": True, "c": 3}, {"a": None, "b": True, "c": 3.0}),
    ],
)
def test_answers_within_the_tolerance_are_right(got: Any, want: Any) -> None:
    assert answers.differs(got, want, 1e-3) is None


@pytest.mark.parametrize(
    ("got", "want", "where"),
    [
        ({"embeddings": [[0.11, -0.2]]}, {"embeddings": [[0.1, -0.2]]}, "answer.embeddings[0][0] is 0.11"),
        ({"embeddings": [[0.1]]}, {"embeddings": [[0.1, -0.2]]}, "must be a list of 2"),
        ({"label": "cat"}, {"label": "dog"}, "'cat', not 'dog'"),
        ({"label": "dog", "more": 1}, {"label": "dog"}, "must have the fields label"),
        ({}, {"label": "dog"}, "must have the fields label"),
        ([], {"label": "dog"}, "must have the fields"),
        ({"score": "1.0"}, {"score": 1.0}, "must be a number"),
        ({"score": True}, {"score": 1}, "must be a number"),
        ({"score": float("nan")}, {"score": 1.0}, "is nan"),
        ({"ok": 1}, {"ok": True}, "not 'True'"),
        ({"label": None}, {"label": "dog"}, "not 'dog'"),
        # Large numbers of one field lend no room to another.
        ({"tokens": 500, "score": 0.6}, {"tokens": 500, "score": 0.5}, "answer.score"),
    ],
)  # fmt: skip
def test_answers_that_are_wrong_say_where(got: Any, want: Any, where: str) -> None:
    found = answers.differs(got, want, 1e-3)
    assert found is not None
    assert where in found


def test_natural_answers_are_json_of_status_200() -> None:
    asked = manifest({"request": {}, "answer": {"score": 1.0}})
    assert answers.natural(Response(200, {}, b'{"score": 1.0}'), asked) is None
    assert "503" in str(answers.natural(Response(503, {}, b'{"error": "shed"}'), asked))
    assert "not JSON" in str(answers.natural(Response(200, {}, b"<html>"), asked))


OUTPUTS: Tensors = {
    "scores": np.array([[0.5, -2.0]], dtype=np.float32),
    "labels": np.array([b"dog", "cät".encode()], dtype=object),
}


def v2(outputs: Tensors) -> Response:
    parts = {name: to_bytes(array) for name, array in outputs.items()}
    entries = [{"name": n, "parameters": {"binary_data_size": len(p)}} for n, p in parts.items()]
    header = json.dumps({"outputs": entries}).encode()
    return Response(
        200, {"inference-header-content-length": str(len(header))}, header + b"".join(parts.values())
    )


def framed(outputs: Tensors) -> Response:
    parts = [to_bytes(array) for array in outputs.values()]
    return Response(200, {}, b"".join(struct.pack("<Q", len(part)) + part for part in parts))


@pytest.mark.parametrize(("check", "make"), [(answers.binary, v2), (answers.framed, framed)])
def test_outputs_are_held_against_the_golden_ones(check: Any, make: Any) -> None:
    asked, golden = manifest(outputs=OUTPUTS), pack(OUTPUTS)
    assert check(make(OUTPUTS), asked, golden) is None
    off = {**OUTPUTS, "scores": np.array([[0.51, -2.0]], dtype=np.float32)}
    assert "0.005 off" in check(make(off), asked, golden)
    other = {**OUTPUTS, "labels": np.array([b"dog", b"cow"], dtype=object)}
    assert "inf off" in check(make(other), asked, golden)
    short = {**OUTPUTS, "scores": np.array([0.5], dtype=np.float32)}
    assert "another shape" in check(make(short), asked, golden)
    assert "must have the outputs" in check(make({"scores": OUTPUTS["scores"]}), asked, golden)
    assert "status 500" in check(Response(500, {}, b"no"), asked, golden)


def test_outputs_that_are_never_the_same_twice_are_not_held_against_anything() -> None:
    asked = manifest(outputs=OUTPUTS)._replace(stable_outputs=("labels",))
    drawn = {**OUTPUTS, "scores": np.array([[9.0, 9.0]], dtype=np.float32)}
    assert answers.framed(framed(drawn), asked, pack(OUTPUTS)) is None


def test_an_inference_response_without_binary_outputs_is_wrong() -> None:
    asked = manifest(outputs=OUTPUTS)
    found = answers.binary(Response(200, {}, b'{"outputs": []}'), asked, pack(OUTPUTS))
    assert found is not None
    assert "binary outputs" in found
