"""Requests made by chance from a seed: cases of the corpus changed, and documents put together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from .corpus import cases

KINDS = ("changed", "document", "binary", "headers", "path")
LARGEST = 100_000
"""Bytes of a case that is changed: larger ones take the time of many."""
_WORDS = (
    *(
        "",
        "bytes",
        "filetype",
        "INT32",
        "BYTES",
        "FP32",
        "\x00",
        "\ud800",
        "é" * 40,
        "a" * 3000,
        "../..",
        "null",
    ),
    *("target_label", "-1", "1e999", "true", "%s%n", "{{7*7}}"),
)
_NUMBERS = (0, 1, -1, 2, 2048, 2047, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308)
_NAMES = (
    *(
        "content-encoding",
        "idempotency-key",
        "prefer",
        "x-preheat-start",
        "authorization",
        "x-api-key",
        "accept",
    ),
    *(
        "traceparent",
        "cookie",
        "inference-header-content-length",
        "content-type",
        "expect",
        "range",
        "connection",
    ),
)
_VALUES = (
    *(
        "gzip",
        "deflate",
        "respond-async",
        "wait=0",
        "application/json",
        "text/html",
        "0",
        "1",
        "-1",
        "close",
        "\xff",
    ),
    *("Bearer x", "a" * 2000, ", , ,", '"', "application/octet-stream", "9" * 40),
)
_PATHS = (
    *(
        "/predict",
        "/v2/models/filetype/infer",
        "/v2/models/filetype",
        "/v2",
        "/metrics",
        "/coldstart",
        "/docs",
    ),
    *("/v1/embeddings", "/openapi.json", "/v2/requests/x", "/v2/models/filetype/versions/1/infer", "/"),
)
_METHODS = ("GET", "POST", "HEAD", "DELETE", "PUT", "OPTIONS")


def requests(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` requests, each with its kind."""
    random = Random(seed)
    bases = [case.raw for case in cases() if len(case.raw) <= LARGEST]
    makers = {
        "changed": lambda: _changed(random, random.choice(bases), random.choice(bases)),
        "document": lambda: _posted(random, json.dumps(_document(random)).encode()),
        "binary": lambda: _binary(random),
        "headers": lambda: _posted(random, b'{"content": "aGVsbG8gd29ybGQ="}', _headers(random)),
        "path": lambda: _path(random),
    }
    for _ in range(count):
        kind = random.choice(KINDS)
        yield kind, makers[kind]()


def _changed(random: Random, base: bytes, other: bytes) -> bytes:
    data = bytearray(base)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 2, 8, 64)))
        match random.randrange(6):
            case 0:
                data[at:end] = random.randbytes(end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end] * random.choice((1, 2, 100))
            case 3:
                data[at:] = other[random.randrange(len(other) + 1) :]
            case 4:
                data[at:at] = random.choice(_WORDS).encode("utf-8", "surrogatepass")
            case 5:
                data[at:at] = random.choice((b"\r\n", b"\r\n\r\n", b"\x00", b": ", b"[" * 2000, b'"'))
    return bytes(data)


def _value(random: Random, depth: int = 0) -> Any:
    match random.randrange(7 if depth < 4 else 4):
        case 0:
            return random.choice(_WORDS)
        case 1:
            return random.choice(_NUMBERS)
        case 2:
            return random.choice((None, True, False))
        case 3:
            return random.choice(([1, 2048], [65] * 2048, [], {}))
        case 4:
            return {random.choice(_WORDS): _value(random, depth + 1) for _ in range(random.randrange(4))}
        case _:
            return [_value(random, depth + 1) for _ in range(random.randrange(4))]


def _tensor(random: Random) -> dict[str, Any]:
    made: dict[str, Any] = {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [65] * 2048}
    for _ in range(random.randrange(3)):
        field = random.choice(("name", "shape", "datatype", "data", "parameters", "shape"))
        if random.random() < 0.2:
            made.pop(field, None)
        elif field == "shape" and random.random() < 0.6:
            made[field] = [random.choice((*_NUMBERS, 1, 2048)) for _ in range(random.randrange(5))]
        else:
            made[field] = _value(random)
    return made


def _document(random: Random) -> Any:
    if random.random() < 0.2:
        return _value(random)
    made: dict[str, Any] = {"inputs": [_tensor(random) for _ in range(random.choice((0, 1, 1, 1, 2)))]}
    for field in ("id", "outputs", "parameters", "content", "input", "model"):
        if random.random() < 0.2:
            made[field] = _value(random)
    return made


def _posted(random: Random, body: bytes, headers: str = "content-type: application/json\r\n") -> bytes:
    path = random.choice((*_PATHS[:2], *_PATHS[:2], "/v1/embeddings"))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def _headers(random: Random) -> str:
    return "".join(
        f"{random.choice(_NAMES)}: {random.choice(_VALUES)}\r\n" for _ in range(random.randrange(1, 6))
    )


def _binary(random: Random) -> bytes:
    size = random.choice((8192, 8192, 8191, 0, -1, 2**40, 4))
    entry = {**_tensor(random), "parameters": {"binary_data_size": size}}
    if random.random() < 0.8:
        entry.pop("data", None)
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "target_label"}]}).encode()
    body = head + random.randbytes(random.choice((8192, 8192, 8191, 0, 100)))
    length = random.choice((len(head), len(head), len(head) + 1, 0, len(body), 10**9))
    kind = f"content-type: application/octet-stream\r\ninference-header-content-length: {length}\r\n"
    return _posted(random, body, kind)


def _path(random: Random) -> bytes:
    path = random.choice(_PATHS)
    for _ in range(random.randrange(3)):
        at = random.randrange(1, len(path) + 1)
        path = (
            path[:at] + random.choice(("/", "%00", "%2e", "..", "?", "a", "%ff", ";", "//", "%")) + path[at:]
        )
    return f"{random.choice(_METHODS)} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
