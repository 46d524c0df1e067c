"""Sentence embeddings with BentoML, the way its documentation shows it.

One worker with one thread, its default. BATCH=1 lets its dispatcher join requests ("Adaptive batching"),
with its default limits.
"""

from __future__ import annotations

import os

import bentoml
import numpy as np
from embedder import Embedder


@bentoml.service(traffic={"timeout": 60})
class Embedding:
    def __init__(self) -> None:
        self.embedder = Embedder()

    @bentoml.api(batchable=os.environ.get("BATCH") == "1")
    def encode(self, sentences: list[str]) -> np.ndarray:
        return self.embedder.embed(sentences)
