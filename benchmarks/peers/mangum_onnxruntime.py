"""Sentence embeddings on AWS Lambda, the way tutorials show it: FastAPI behind Mangum, onnxruntime, boto3.

The model is loaded when the module is imported, so that it is there in the init phase; the session has
default options; a boto3 client stands ready beside it, as functions have one for their bucket or table. MODEL
is the exported ONNX file, TOKENIZER the tokenizer.json. Route and answer are those of fastapi_onnxruntime.
"""

from __future__ import annotations

import os
from typing import Any

import boto3
import numpy as np
import onnxruntime as ort
from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel
from tokenizers import Tokenizer

s3 = boto3.client("s3")
tokenizer = Tokenizer.from_file(os.environ["TOKENIZER"])
tokenizer.no_padding()
tokenizer.enable_truncation(256)
session: Any = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])

app = FastAPI()


class Text(BaseModel):
    input: str


class Embeddings(BaseModel):
    embeddings: list[list[float]]


@app.post("/predict")
def predict(text: Text) -> Embeddings:
    encoding = tokenizer.encode(text.input)
    feeds = {
        "input_ids": np.array([encoding.ids], dtype=np.int64),
        "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        "token_type_ids": np.array([encoding.type_ids], dtype=np.int64),
    }
    tokens = session.run(None, feeds)[0]
    mask = feeds["attention_mask"][..., None]
    vectors = (tokens * mask).sum(axis=1) / mask.sum(axis=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(embeddings=vectors.tolist())


handler = Mangum(app)
