"""OpenAI's embeddings endpoint: ``POST /v1/embeddings``, its request and its answer.

Source: OpenAI API reference, "Create embeddings". ``input`` is what the task takes; ``model`` must be the one
that is served, if it is named; ``dimensions`` must be the model's own, since cutting a vector short is only
meaningful for a model that was trained for it. ``user`` and unknown fields have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..errors import InvalidRequestError, NotFoundError, UnprocessableError
from ..tasks import prepare
from ..tensors import Array, Tensors
from .values import dumps, shown

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..tasks import Task

FORMATS = ("float", "base64")


class Embedder(Protocol):
    """What a task must offer for this endpoint."""

    def vectors(self, outputs: Tensors, inputs: Tensors) -> Array:
        """float32 [texts, dimension]."""

    def token_counts(self, inputs: Tensors) -> list[int]: ...


class EmbeddingsRequest(NamedTuple):
    input: Any
    """As sent; the task reads it."""
    encoding_format: str = "float"
    dimensions: int | None = None


def embeddings(
    document: object, manifest: Manifest, task: Task
) -> tuple[Tensors, Callable[[Tensors], bytes]]:
    """Read a request, decoded from JSON: the model's inputs, and what makes the answer's JSON of its outputs.

    Raises NotFoundError where the task gives no embeddings, and RequestError for what cannot be answered.
    """
    if not all(callable(getattr(task, name, None)) for name in ("vectors", "token_counts")):
        raise NotFoundError(f"the model {manifest.name!r} gives no embeddings")
    embedder: Embedder = task  # type: ignore[assignment]  # its methods were just seen
    request = decode(document, manifest)
    dimension = getattr(task, "dimension", None)
    if dimension is not None:
        _check_dimensions(request, dimension)
    inputs = prepare(task, {"input": request.input}, manifest.inputs)

    def answer(outputs: Tensors) -> bytes:
        tokens = sum(embedder.token_counts(inputs))
        return encode(request, embedder.vectors(outputs, inputs), tokens, manifest.name)

    return inputs, answer


def decode(document: object, manifest: Manifest) -> EmbeddingsRequest:
    """Read a request. Raises InvalidRequestError that names the field, NotFoundError for another model."""
    if not isinstance(document, dict):
        raise InvalidRequestError(f"the request must be a JSON object, not {shown(document)}")
    if "input" not in document:
        raise InvalidRequestError("the request has no field 'input'")
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequestError(f"model must be a string, not {shown(model)}")
    if model is not None and model != manifest.name:
        raise NotFoundError(f"there is no model {shown(model)} here; this server has {manifest.name!r}")
    encoding = document.get("encoding_format")
    if encoding is not None and encoding not in FORMATS:
        raise InvalidRequestError(f"encoding_format must be 'float' or 'base64', not {shown(encoding)}")
    dimensions = document.get("dimensions")
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise InvalidRequestError(f"dimensions must be a whole number from 1 on, not {shown(dimensions)}")
    return EmbeddingsRequest(document["input"], encoding or "float", dimensions)


def encode(request: EmbeddingsRequest, vectors: Array, tokens: int, model: str) -> bytes:
    """The answer's JSON. ``vectors``: [texts, dimension]; ``tokens``: of all texts together.

    Raises UnprocessableError for vectors that are not finite, InvalidRequestError for another length wanted.
    """
    _check_dimensions(request, vectors.shape[1])
    if not np.isfinite(vectors).all():
        raise UnprocessableError("the model gave NaN or infinite values", code="nonfinite_output")
    if request.encoding_format == "base64":
        from binascii import b2a_base64

        rows = np.ascontiguousarray(vectors, dtype="<f4")
        values: list[Any] = [b2a_base64(row.tobytes(), newline=False).decode() for row in rows]
    else:
        values = vectors.tolist()
    return dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(values)],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _check_dimensions(request: EmbeddingsRequest, dimension: int) -> None:
    if request.dimensions not in (None, dimension):
        raise InvalidRequestError(
            f"dimensions is {shown(request.dimensions)}; the vectors of this model have {dimension} and are "
            "not meaningful when cut"
        )
