"""Sentence embeddings with FastAPI, onnxruntime and tokenizers, the way their documentation shows it.

The model is loaded by the lifespan (FastAPI, "Lifespan Events"), the session has default options
(onnxruntime, "Get started with Python"), uvicorn serves. MODEL is the exported ONNX file, TOKENIZER the
tokenizer.json.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

models: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - the signature that FastAPI asks for
    tokenizer = Tokenizer.from_file(os.environ["TOKENIZER"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    models["tokenizer"] = tokenizer
    models["session"] = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
    yield
    models.clear()


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    input: str


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/predict")
def predict(text: Text) -> Embeddings:
    encoding = models["tokenizer"].encode(text.input)
    feeds = {
        "input_ids": np.array([encoding.ids], dtype=np.int64),
        "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
    }
    tokens = models["session"].run(None, feeds)[0]
    mask = feeds["attention_mask"][..., None]
    vectors = (tokens * mask).sum(axis=1) / mask.sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(embeddings=vectors.tolist())
