"""Sentence embeddings with FastAPI, onnxruntime and tokenizers, the way their documentation shows it.

The model is loaded by the lifespan (FastAPI, "Lifespan Events"), uvicorn serves; a route that is no coroutine
runs in a thread of the pool.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from embedder import Embedder
from fastapi import FastAPI
from pydantic import BaseModel

models: dict[str, Embedder] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001 - the signature that FastAPI asks for
    models["embedder"] = Embedder()
    yield
    models.clear()


app = FastAPI(lifespan=lifespan)


class Text(BaseModel):
    input: str


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/predict")
def predict(text: Text) -> Embeddings:
    return Embeddings(embeddings=models["embedder"].embed([text.input]).tolist())
