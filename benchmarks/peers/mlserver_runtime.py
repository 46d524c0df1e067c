"""Sentence embeddings with MLServer: a custom inference runtime, the way its documentation shows it.

One worker process, its default ("Parallel Inference"); Open Inference Protocol v2. ``max_batch_size`` and
``max_batch_time`` of its settings let it join requests ("Adaptive Batching").
"""

from __future__ import annotations

from typing import List  # noqa: UP035 - the type that its codecs know

import numpy as np
from embedder import Embedder
from mlserver import MLModel
from mlserver.codecs import decode_args


class Embedding(MLModel):
    async def load(self) -> bool:
        self.embedder = Embedder()
        return True

    @decode_args
    async def predict(self, sentences: List[str]) -> np.ndarray:  # noqa: UP006 - see above
        return self.embedder.embed(sentences)
