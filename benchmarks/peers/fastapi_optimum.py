"""Sentence embeddings with FastAPI and optimum, the way Hugging Face's documentation shows it.

``ORTModelForFeatureExtraction`` and ``AutoTokenizer`` take the place of onnxruntime's session and of
tokenizers (optimum, "Inference pipelines with ONNX Runtime"). MODEL_FOLDER holds model.onnx, config.json and
the tokenizer's files, as optimum's own export leaves them; THREADS: the session's intra-op threads.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from optimum.onnxruntime import ORTModelForFeatureExtraction
from pydantic import BaseModel
from transformers import AutoTokenizer

models: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - the signature that FastAPI asks for
    folder = os.environ["MODEL_FOLDER"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("THREADS", "0"))
    models["tokenizer"] = AutoTokenizer.from_pretrained(folder)
    models["model"] = ORTModelForFeatureExtraction.from_pretrained(folder, session_options=options)
    yield
    models.clear()


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    input: str


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/predict")
def predict(text: Text) -> Embeddings:
    inputs = models["tokenizer"](text.input, truncation=True, return_tensors="np")
    tokens = models["model"](**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].astype(np.float32)
    vectors = (tokens * mask).sum(axis=1) / mask.sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(embeddings=vectors.tolist())
