"""What a piece of work gives back, and the same as bytes that outlive the process."""

from __future__ import annotations

import json
from typing import NamedTuple

from .errors import CancelledError, EngineError, PreheatError, UnprocessableError


class Answer(NamedTuple):
    """Bytes, ready to be sent by any door."""

    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


STORED: dict[str, type[PreheatError]] = {
    "unprocessable": UnprocessableError,
    "cancelled": CancelledError,
    "failed": EngineError,
}
"""Errors that are an outcome: what the model refused, what was called off, and background work that failed
for good. Any other error says nothing of the next try, so it is not kept."""


def pack(answer: Answer | PreheatError) -> bytes:
    """A line of JSON, then the body as it is."""
    if isinstance(answer, PreheatError):
        kind = next(name for name, error in STORED.items() if isinstance(answer, error))
        head: dict[str, object] = {"error": kind, "code": answer.code}
        body = str(answer).encode()
    else:
        head = {"type": answer.content_type, "headers": answer.headers}
        body = answer.body
    return json.dumps(head).encode() + b"\n" + body


def unpack(data: bytes) -> Answer | PreheatError:
    """What was packed, byte for byte."""
    line, _, body = data.partition(b"\n")
    head = json.loads(line)
    if "error" in head:
        return STORED[head["error"]](body.decode(), code=head["code"])
    return Answer(body, head["type"], tuple((name, value) for name, value in head["headers"]))
