"""Text to vectors, with a sentence encoder.

Request: ``{"input": text | [text, …] | [token id, …] | [[token id, …], …]}``. Texts are cut to the option
``max_length``; token ids are taken as they are, special tokens included.
Answer: ``{"embeddings": [[number, …], …]}``, one vector for each text.

Options: ``pooling`` (``mean``, ``cls``, ``max``, ``last``) makes one vector out of those of the tokens, for a
model that does not do it itself; ``normalize`` scales vectors to length 1.
The asset ``tokenizer`` is a ``tokenizer.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError
from ..tensors import Array, Tensors
from . import Task
from .fields import field
from .tokens import Tokens

if TYPE_CHECKING:
    from ..download import Artifact
    from ..manifest import TensorSpec

POOLINGS = ("mean", "cls", "max", "last")
SENTENCE = "sentence_embedding"
"""Name of the output that sentence-transformers' exports pool by themselves."""


class TextEmbedding(Task):
    libraries = ("tokenizers",)

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.tokens = Tokens(artifact)
        self.pads = self.tokens.padding
        self.normalize = self.options.get("normalize", False)
        self.pooling = self.options.get("pooling", "mean")
        if not isinstance(self.normalize, bool):
            raise ArtifactError(f"the option normalize must be true or false, not {self.normalize!r}")
        if self.pooling not in POOLINGS:
            raise ArtifactError(
                f"the option pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}"
            )
        spec = _vector_output(artifact.manifest.outputs)
        self.output = spec.name
        last = spec.shape[-1] if spec.shape else None
        self.dimension = last if isinstance(last, int) else None
        """Length of a vector; None where only a run tells."""

    def prepare(self, request: Any) -> Tensors:
        return self.tokens.encode(field(request, "input"), "input")

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:
        return {"embeddings": self.vectors(outputs, inputs).tolist()}

    def vectors(self, outputs: Tensors, inputs: Tensors) -> Array:
        """The vectors of the texts that ``prepare`` made ``inputs`` of, float32 [texts, dimension]."""
        array = outputs[self.output].astype(np.float32, copy=False)
        if array.ndim == 3:
            array = pool(array, self.tokens.mask(inputs), self.pooling)
        if self.normalize:
            # The floor is torch.nn.functional.normalize's.
            array = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
        return array

    def token_counts(self, inputs: Tensors) -> list[int]:
        """Tokens of each text that ``prepare`` made ``inputs`` of, special tokens included."""
        counts: list[int] = self.tokens.mask(inputs).sum(axis=1).tolist()
        return counts


def pool(array: Array, mask: Array, pooling: str) -> Array:
    """One vector out of those of a text's tokens: [texts, tokens, dimension] -> [texts, dimension].

    ``mask``: booleans [texts, tokens], false where there is padding. A text without tokens gives zeros.
    """
    rows = np.arange(len(array))
    if pooling == "cls":
        pooled: Array = array[rows, mask.argmax(axis=1)]
    elif pooling == "last":
        pooled = array[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]
    elif pooling == "max":
        pooled = np.where(mask[:, :, None], array, np.float32(-np.inf)).max(axis=1)
    else:
        weights = mask.astype(np.float32)
        # A product of matrices per text, without a masked copy of the whole array.
        total = np.matmul(weights[:, None, :], array)[:, 0, :]
        pooled = total / np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-9))
    return np.where(mask.any(axis=1, keepdims=True), pooled, np.float32(0))


def _vector_output(specs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The pooled output by its known name; else one vector a token; else one vector a text.

    The order matters: BERT's ``pooler_output`` is a vector a text too, and not a sentence embedding.
    """
    ranked = [
        *(spec for spec in specs if spec.name == SENTENCE),
        *(spec for spec in specs if spec.shape is not None and len(spec.shape) == 3),
        *(spec for spec in specs if spec.shape is None or len(spec.shape) == 2),
    ]
    floats = [spec for spec in ranked if spec.dtype.startswith("FP")]
    if not floats:
        raise ArtifactError("the model has no output that is a vector for each text or token")
    return floats[0]
