"""Real models, asked by many at once: the answers are those of each request alone."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import Function
from preheat.adapters.messages import HttpRequest
from preheat.adapters.routes import respond

TEXTS = [
    "a cat",
    "a dog that barks at night",
    "the sea",
    "rain on the roof of a small house",
    "no",
    "bread and salt",
]


def ask(function: Function, path: str, document: Any) -> Any:
    headers = {"content-type": "application/json"}
    body = json.dumps(document).encode()
    response = respond(function.service, HttpRequest("POST", path, headers, body, time.perf_counter_ns()))
    assert response is not None
    assert response.status == 200, response.body
    return json.loads(response.body)


def at_once(function: Function, calls: list[tuple[str, Any]]) -> tuple[list[Any], list[int]]:
    """All calls from threads of their own; their answers, and the rows of every run."""
    current = function.service.current
    assert current is not None
    rows: list[int] = []
    infer = current.engine.infer

    def seen(inputs: Any, *more: Any) -> Any:
        rows.append(len(next(iter(inputs.values()))))
        return infer(inputs, *more)

    current.engine.infer = seen  # type: ignore[method-assign]
    answers: list[Any] = [None] * len(calls)

    def send(index: int) -> None:
        answers[index] = ask(function, *calls[index])

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    current.engine.infer = infer  # type: ignore[method-assign]
    return answers, rows


def started(artifact: Path, cache: Path, **environ: str) -> Function:
    settings = {"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(cache), "PREHEAT_BATCH_MS": "20"}
    function = Function(environ={**settings, "PREHEAT_CONCURRENCY": "1", **environ})
    function.start()
    return function


def test_embeddings_of_different_lengths(embed_artifact: Path, cache: Path) -> None:
    joined = started(embed_artifact, cache)
    alone = started(embed_artifact, cache, PREHEAT_BATCH_MS="0")
    assert alone.service.current is not None
    assert alone.service.current.batcher is None
    calls = [("/predict", {"input": TEXTS[i % len(TEXTS)]}) for i in range(36)]
    answers, rows = at_once(joined, calls)
    assert max(rows) > 1
    assert sum(rows) == len(calls)
    metrics = joined.service.telemetry.metrics
    sizes, requests = metrics.batch.read()[()]
    assert (sum(sizes), requests) == (len(rows), len(calls)), (
        "each run was counted once, with all it answered"
    )
    assert sum(metrics.run.read()[()][0]) == len(rows)
    assert sum(metrics.wait.read()[()][0]) == len(calls)
    for (path, document), answer in zip(calls, answers, strict=True):
        want = ask(alone, path, document)["embeddings"]
        np.testing.assert_allclose(answer["embeddings"], want, atol=2e-4)


def test_requests_of_several_rows_and_routes(embed_artifact: Path, cache: Path) -> None:
    function = started(embed_artifact, cache)
    calls: list[tuple[str, Any]] = []
    for i in range(18):
        calls.append(("/predict", {"input": [TEXTS[i % 6], TEXTS[(i + 1) % 6]]}))
        calls.append(("/v1/embeddings", {"input": TEXTS[i % 6]}))
    answers, _ = at_once(function, calls)
    for (path, document), answer in zip(calls, answers, strict=True):
        want = ask(function, path, document)
        if path == "/predict":
            np.testing.assert_allclose(answer["embeddings"], want["embeddings"], atol=2e-4)
        else:
            assert answer["usage"] == want["usage"]
            np.testing.assert_allclose(
                answer["data"][0]["embedding"], want["data"][0]["embedding"], atol=2e-4
            )


def test_filetype(filetype_artifact: Path, cache: Path) -> None:
    function = started(filetype_artifact, cache)
    calls = [("/predict", {"content": content}) for content in ("aGVsbG8=", "JVBERi0xLjQK", "UEsDBBQA") * 8]
    answers, rows = at_once(function, calls)
    assert max(rows) > 1
    for (path, document), answer in zip(calls, answers, strict=True):
        want = ask(function, path, document)
        (got,), (wanted,) = answer["predictions"], want["predictions"]
        assert got == {**wanted, "score": pytest.approx(wanted["score"], abs=1e-3)}


def test_a_giant_request_is_run_in_pieces(embed_artifact: Path, cache: Path) -> None:
    function = started(embed_artifact, cache)
    texts = [f"{TEXTS[i % len(TEXTS)]} {'and so on ' * 40}" for i in range(24)]
    ask(function, "/predict", {"input": texts[0]})
    metrics = function.service.telemetry.metrics
    before = sum(metrics.run.read()[()][0])
    given = ask(function, "/predict", {"input": texts})["embeddings"]
    assert sum(metrics.run.read()[()][0]) - before > 2
    assert metrics.batch.read()[()][1] == 2, "two requests were answered, however many runs they took"
    for text, vector in zip(texts, given, strict=True):
        np.testing.assert_allclose(
            vector, ask(function, "/predict", {"input": text})["embeddings"][0], atol=2e-4
        )
