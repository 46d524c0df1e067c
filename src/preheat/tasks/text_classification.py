"""Text to labels.

Request: ``{"input": text | [text, …]}``, or token ids as in text_embedding.
Answer: ``{"predictions": [{"label": …, "score": 0…1, "scores": {label: score, …}}, …]}``, one for each text,
the scores from the highest to the lowest.

Options and assets: those of tokens.Tokens and classes.Classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError
from ..tensors import Tensors
from . import Task
from .classes import Classes
from .fields import field
from .tokens import Tokens

if TYPE_CHECKING:
    from ..download import Artifact


class TextClassification(Task):
    libraries = ("tokenizers",)

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.tokens = Tokens(artifact)
        self.pads = self.tokens.padding
        self.classes = Classes(artifact)
        if len(set(self.classes.labels)) != len(self.classes.labels):
            raise ArtifactError("two labels are the same")

    def prepare(self, request: Any) -> Tensors:
        return self.tokens.encode(field(request, "input"), "input")

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:  # noqa: ARG002 - the scores say it all
        scores = self.classes.scores(outputs[self.classes.output])
        predictions = []
        for row in scores:
            best = self.classes.best(row, len(row))
            predictions.append({"label": best[0][0], "score": best[0][1], "scores": dict(best)})
        return {"predictions": predictions}
