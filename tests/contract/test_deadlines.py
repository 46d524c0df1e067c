"""How long a client waits, told in headers: over every door."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from .conftest import Door

BODY = json.dumps({"content": base64.b64encode(b"import os\n\nprint(os.getcwd())\n" * 9).decode()}).encode()


def predict(door: Door, **headers: str) -> Any:
    return door("POST", "/predict", BODY, content_type="application/json", **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"x_preheat_timeout": "30"},
        {"x_preheat_timeout": "29.5"},
        {"grpc_timeout": "30S"},
        {"grpc_timeout": "30000m"},
        {"grpc_timeout": "1H"},
        {"grpc_timeout": "99999999u"},
        {"x_preheat_timeout": "30", "grpc_timeout": "1M"},
    ],
)
def test_time_enough(door: Door, headers: dict[str, str]) -> None:
    assert predict(door, **headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x_preheat_timeout": "0"},
        {"x_preheat_timeout": "0.000001"},
        {"grpc_timeout": "1n"},
        {"grpc_timeout": "1u"},
        {"x_preheat_timeout": "30", "grpc_timeout": "1u"},
        {"x_preheat_timeout": "0.000001", "grpc_timeout": "1H"},
    ],
)
def test_the_shortest_time_counts(door: Door, headers: dict[str, str]) -> None:
    answer = predict(door, **headers)
    assert answer.status == 504
    assert answer.headers["x-preheat-outcome"] == "timed_out"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["code"] == "timed_out"


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "nan", "5, 5", "1.", ".5", "1234567890", "٣"])
def test_seconds_that_are_none(door: Door, value: str) -> None:
    answer = predict(door, x_preheat_timeout=value if value.isascii() else "\xb2")
    assert answer.status == 400
    assert answer.headers["x-preheat-outcome"] == "rejected"
    assert answer.json()["code"] == "timeout_malformed"
    assert "seconds as a decimal number" in answer.json()["error"]


@pytest.mark.parametrize("value", ["", "1", "S", "1s", "1.5S", "-1S", "123456789m", "1S, 1S", "1 S"])
def test_a_grpc_timeout_that_is_none(door: Door, value: str) -> None:
    answer = predict(door, grpc_timeout=value)
    assert answer.status == 400
    assert answer.json()["code"] == "timeout_malformed"
    assert "eight digits and a unit" in answer.json()["error"]


def test_a_malformed_one_is_told_by_every_route(door: Door) -> None:
    assert door("GET", "/v2/models/filetype", grpc_timeout="soon").status == 400
    assert door("GET", "/coldstart", x_preheat_timeout="soon").status == 400
