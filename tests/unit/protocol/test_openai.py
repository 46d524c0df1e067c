"""The embeddings endpoint, its answers read by the openai library's own models."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from preheat.errors import InvalidRequestError, NotFoundError, RequestError, UnprocessableError
from preheat.manifest import TensorSpec
from preheat.protocol import openai
from preheat.tensors import Array, Tensors

from ..test_manifest import manifest as any_manifest

MODEL = any_manifest(name="embed", inputs=(TensorSpec("x", "FP32", ("batch",)),))
VECTORS = np.array([[0.1, -2.5, 3], [1e-30, 1, 0]], dtype=np.float32)


class FakeEmbedding:
    """Turns texts into vectors of their length and its square."""

    def __init__(self, dimension: int | None = 2) -> None:
        self.dimension = dimension

    def prepare(self, request: Any) -> Tensors:
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        return {"x": np.array([len(text) for text in texts], dtype=np.float32)}

    def vectors(self, outputs: Tensors, inputs: Tensors) -> Array:
        return np.stack([outputs["x"], outputs["x"] ** 2], axis=1).astype(np.float32)

    def token_counts(self, inputs: Tensors) -> list[int]:
        return [int(n) for n in inputs["x"]]


def answered(document: Any, task: Any = None) -> CreateEmbeddingResponse:
    inputs, answer = openai.embeddings(document, MODEL, task or FakeEmbedding())
    return CreateEmbeddingResponse.model_validate(json.loads(answer(inputs)))  # a model that changes nothing


def test_the_clients_own_model_reads_the_answer() -> None:
    response = answered({"input": ["abc", "d"], "model": "embed", "user": "u", "encoding_format": "float"})
    assert response.object == "list"
    assert response.model == "embed"
    assert [(row.object, row.index, row.embedding) for row in response.data] == [
        ("embedding", 0, [3, 9]),
        ("embedding", 1, [1, 1]),
    ]
    assert (response.usage.prompt_tokens, response.usage.total_tokens) == (4, 4)
    assert answered({"input": "abc"}).data[0].embedding == [3, 9]


def test_base64_is_little_endian_float32() -> None:
    request = openai.decode({"input": "x", "encoding_format": "base64"}, MODEL)
    for vectors in (VECTORS, VECTORS[:, ::-1], VECTORS.astype(np.float64)):
        document = json.loads(openai.encode(request, vectors, 1, "embed"))
        raw = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in document["data"]]
        assert np.array_equal(np.stack(raw), vectors.astype(np.float32))


def test_numbers_are_exact() -> None:
    request = openai.decode({"input": "x"}, MODEL)
    document = json.loads(openai.encode(request, VECTORS, 1, "embed"))
    assert np.array_equal(np.array([row["embedding"] for row in document["data"]], dtype=np.float32), VECTORS)


def test_dimensions_must_be_the_models_own() -> None:
    assert answered({"input": "abc", "dimensions": 2}).data[0].embedding == [3, 9]
    for task in (FakeEmbedding(), FakeEmbedding(dimension=None)):  # before the run, or after it
        for wrong in (1, 3, 10**30):
            with pytest.raises(InvalidRequestError, match="the vectors of this model have 2"):
                answered({"input": "abc", "dimensions": wrong}, task)


@pytest.mark.parametrize(
    ("document", "error", "said"),
    [
        (None, InvalidRequestError, "must be a JSON object, not null"),
        ([], InvalidRequestError, "must be a JSON object, not a list"),
        ({}, InvalidRequestError, "no field 'input'"),
        ({"input": "a", "model": 7}, InvalidRequestError, "model must be a string, not 7"),
        ({"input": "a", "model": "text-embedding-3-small"}, NotFoundError, "this server has 'embed'"),
        ({"input": "a", "model": ""}, NotFoundError, "no model ''"),
        ({"input": "a", "encoding_format": "hex"}, InvalidRequestError, "'float' or 'base64', not 'hex'"),
        (
            {"input": "a", "encoding_format": ["float"]},
            InvalidRequestError,
            "'float' or 'base64', not a list",
        ),
        ({"input": "a", "dimensions": 0}, InvalidRequestError, "dimensions must be a whole number"),
        ({"input": "a", "dimensions": True}, InvalidRequestError, "dimensions must be a whole number"),
        ({"input": "a", "dimensions": "2"}, InvalidRequestError, "dimensions must be a whole number"),
    ],
)
def test_wrong_requests_are_refused_by_field(document: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        answered(document)


def test_a_model_of_another_kind_has_no_embeddings() -> None:
    with pytest.raises(NotFoundError, match="'embed' gives no embeddings"):
        openai.embeddings({"input": "a"}, MODEL, object())  # type: ignore[arg-type]


def test_vectors_that_are_not_finite_are_not_sent() -> None:
    for format_ in openai.FORMATS:
        with pytest.raises(UnprocessableError) as caught:
            openai.encode(openai.EmbeddingsRequest("x", format_), VECTORS * np.float32(np.nan), 1, "embed")
        assert caught.value.code == "nonfinite_output"


def test_the_codecs_bring_numpy_and_nothing_else() -> None:
    script = (
        "import sys, numpy; before = set(sys.modules)\n"
        "import preheat.protocol.openai, preheat.protocol.v2\n"
        "print(*sorted(m.partition('.')[0] for m in set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert set(done.stdout.split()) <= {"preheat", "json", "_json", "gc", "__future__"}, done


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("input", "model", "encoding_format", "dimensions", "user")


@given(
    JSON
    | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON | st.sampled_from(["embed", "float"])))
)
def test_no_document_raises_anything_else(document: Any) -> None:
    try:
        request = openai.decode(document, MODEL)
    except RequestError:
        return
    assert request.encoding_format in openai.FORMATS
