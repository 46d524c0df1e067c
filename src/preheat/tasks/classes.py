"""Scores to labels, for every task that classifies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, EngineError
from ..tensors import Array

if TYPE_CHECKING:
    from ..download import Artifact

ACTIVATIONS = ("softmax", "sigmoid", "none")


class Classes:
    """The labels of a model, and what its scores mean.

    Labels: the asset ``labels`` (JSON, a list of texts or an object of index to text, as transformers'
    ``id2label``), or the option ``labels`` of the same form. Option ``activation``: ``softmax`` (one label
    holds), ``sigmoid`` (each holds or not) or ``none`` (the model's output is the scores).
    """

    def __init__(self, artifact: Artifact) -> None:
        """Raises ArtifactError where labels are missing or do not match the model."""
        options = artifact.manifest.options
        self.labels = _labels(artifact)
        self.activation: str = options.get("activation", "softmax")
        if self.activation not in ACTIVATIONS:
            raise ArtifactError(
                f"the option activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}"
            )
        specs = [
            spec
            for spec in artifact.manifest.outputs
            if spec.dtype.startswith("FP") and (spec.shape is None or len(spec.shape) == 2)
        ]
        if not specs:
            raise ArtifactError("the model has no output of scores, [batch, classes]")
        spec = next((spec for spec in specs if spec.name == "logits"), specs[0])
        self.output = spec.name
        count = spec.shape[1] if spec.shape else None
        if isinstance(count, int) and count != len(self.labels):
            raise ArtifactError(f"the model gives {count} scores, and there are {len(self.labels)} labels")

    def scores(self, logits: Array) -> Array:
        """float32 [batch, classes] from what the model gave. Raises EngineError for another shape."""
        values: Array = logits.astype(np.float32, copy=False)
        if values.ndim != 2 or values.shape[1] != len(self.labels):
            raise EngineError(f"the model gave scores of shape {values.shape} for {len(self.labels)} labels")
        if self.activation == "softmax":
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            values = powers / powers.sum(axis=1, keepdims=True)
        elif self.activation == "sigmoid":
            values = 0.5 + 0.5 * np.tanh(0.5 * values)  # 1 / (1 + exp(-x)), without overflow
        return values

    def best(self, scores: Array, count: int) -> list[tuple[str, float]]:
        """The highest of one row's scores with their labels, best first."""
        order = np.argsort(-scores, kind="stable")[:count].tolist()
        return [(self.labels[index], float(scores[index])) for index in order]


def _labels(artifact: Artifact) -> list[str]:
    path, value = artifact.asset("labels"), artifact.manifest.options.get("labels")
    where = "the option 'labels'"
    if path is not None:
        where = path
        try:
            with open(path, "rb") as file:
                value = json.loads(file.read())
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None
    if value is None:
        raise ArtifactError("a task that classifies needs the asset 'labels' or the option 'labels'")
    labels: list[Any] = value if isinstance(value, list) else []
    if isinstance(value, dict):
        labels = [value.get(str(index)) for index in range(len(value))]
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ArtifactError(f"{where} must be a list of texts, or an object of index to text from 0 on")
    return labels
