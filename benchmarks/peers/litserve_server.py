"""Sentence embeddings with LitServe, the way its documentation shows it.

One worker on the CPU. BATCH: how many requests it runs as one ("Batching"), 1 for none; it then waits 10 ms
for others, whether there are any or not.
"""

from __future__ import annotations

import os
from typing import Any

import litserve as ls
from embedder import Embedder


class Embedding(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - the signature that LitServe asks for
        self.embedder = Embedder()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["input"]

    def predict(self, x: Any) -> Any:
        """One text, or a list of them where requests are batched; LitServe cuts the answers apart."""
        return self.embedder.embed(x) if isinstance(x, list) else self.embedder.embed([x])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"embeddings": [output.tolist()]}


if __name__ == "__main__":
    batch = int(os.environ.get("BATCH", "1"))
    api = Embedding(max_batch_size=batch, batch_timeout=0.01 if batch > 1 else 0.0)
    server = ls.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
