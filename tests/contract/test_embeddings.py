"""OpenAI's embeddings over every door, and what is not one."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from .conftest import Door

JSON = {"content_type": "application/json"}
TEXTS = ["Cold starts are measured.", "A much longer sentence, so that the batch has to be padded somewhere."]


def embed(door: Door, **document: Any) -> Any:
    return door("POST", "/v1/embeddings", json.dumps(document).encode(), **JSON)


def test_one_text_and_several_agree(embed_door: Door) -> None:
    one = embed(embed_door, input=TEXTS[0], model="embed").json()
    many = embed(embed_door, input=TEXTS, model="embed").json()
    assert [row["index"] for row in many["data"]] == [0, 1]
    assert len(one["data"][0]["embedding"]) == 384
    assert many["data"][0]["embedding"] == pytest.approx(one["data"][0]["embedding"], abs=1e-4)
    assert sum(x * x for x in one["data"][0]["embedding"]) == pytest.approx(1, abs=1e-3)
    assert one["usage"]["prompt_tokens"] > 3
    assert (one["object"], one["model"]) == ("list", "embed")


def test_base64_holds_the_same_numbers(embed_door: Door) -> None:
    plain = embed(embed_door, input=TEXTS[0]).json()["data"][0]["embedding"]
    packed = embed(embed_door, input=TEXTS[0], encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<384f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


def test_the_natural_json_gives_the_same(embed_door: Door) -> None:
    answer = embed_door("POST", "/predict", json.dumps({"input": TEXTS[0]}).encode(), **JSON)
    vector = embed(embed_door, input=TEXTS[0]).json()["data"][0]["embedding"]
    assert answer.json()["embeddings"][0] == pytest.approx(vector, abs=1e-6)


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({}, 400),
        ({"input": 7}, 400),
        ({"input": []}, 400),
        ({"input": [7.5]}, 400),
        ({"input": [[]]}, 400),
        ({"input": [10**9]}, 400),
        ({"input": [-1]}, 400),
        ({"input": "a", "model": "gpt"}, 404),
        ({"input": "a", "encoding_format": "hex"}, 400),
        ({"input": "a", "dimensions": 7}, 400),
        ({"input": "a", "dimensions": 0}, 400),
        ({"input": ["a"] * 100_000}, 413),
        ({"input": "a " * 100_000}, 200),
        ({"input": "\ud800"}, 400),
        ({"input": ""}, 200),
    ],
)
def test_inputs_that_do_not_fit(embed_door: Door, document: dict[str, Any], status: int) -> None:
    answer = embed(embed_door, **document)
    assert answer.status == status, answer.body[:300]
    assert embed(embed_door, input="good").status == 200
