"""Sentence embeddings with KServe's Python server: a custom predictor, the way its documentation shows it.

``load`` is called before the server starts, and V1 of its protocol is spoken. Requests are joined by an agent
beside the container, not by this server.
"""

from __future__ import annotations

import argparse
from typing import Any

import kserve
from embedder import Embedder


class Embedding(kserve.Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.embedder = Embedder()
        self.ready = True
        return self.ready

    def predict(
        self,
        payload: dict[str, Any],
        headers: dict[str, str] | None = None,  # noqa: ARG002 - the signature that KServe asks for
    ) -> dict[str, Any]:
        return {"predictions": self.embedder.embed(payload["instances"]).tolist()}


class Local(kserve.ModelServer):
    """It listens on every address, without a setting for that; what is only measured stays on loopback."""

    async def _serve(self) -> None:
        self._rest_server.config.host = "127.0.0.1"
        await super()._serve()


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_args()
    Local().start([Embedding("embed")])
