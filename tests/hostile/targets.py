"""What is fuzzed: each takes bytes, and may raise nothing but a PreheatError."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from preheat import manifest as manifests
from preheat.adapters import lambda_events
from preheat.adapters.aws_lambda import lambda_principal
from preheat.adapters.messages import HttpResponse
from preheat.adapters.sqs import is_batch
from preheat.errors import PreheatError
from preheat.manifest import Limits, Manifest, TensorSpec
from preheat.protocol import v2
from preheat.tensors import unpack

CORPUS = Path(__file__).with_name("fuzz_corpus")
"""What coverage-guided fuzzing found, a folder a target; `make fuzz` adds to it."""


@cache
def _model() -> Manifest:
    """A model of three data types, one of them of free rank."""
    inputs = (
        TensorSpec("bo", "BOOL", ("batch", None)),
        TensorSpec("b", "BYTES", None),
        TensorSpec("f", "FP32", (2, "n")),
    )
    outputs = (TensorSpec("y", "FP32", ("batch", 3)),)
    blank = dict.fromkeys(Manifest._fields)
    fields = {"name": "m", "version": "sha256:0", "inputs": inputs, "outputs": outputs, "limits": Limits()}
    return Manifest(**{**blank, **fields})  # type: ignore[arg-type]


def tensors(data: bytes) -> None:
    """The binary codec: two bytes of header length, then a request; and the same as a file of tensors."""
    if len(data) < 2:
        return
    length, body = int.from_bytes(data[:2], "little"), data[2:]
    with suppress(PreheatError):
        v2.decode(body, length if length < 0xFFFF else None, _model())
    with suppress(PreheatError):
        unpack(data)


def manifest(data: bytes) -> None:
    """A manifest that is signed, or vouched for otherwise: its digest stops nothing."""
    with suppress(PreheatError):
        read = manifests.load(data, vouched=lambda _: True)
        for variant in read.variants:
            read.measured(variant.name, "steady_ms")
            read.joined(variant.name)


def event(data: bytes) -> None:
    """A Lambda event, from the JSON that Lambda's client made objects of."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    lambda_events.foreign(found)
    is_batch(found)
    if not lambda_events.is_http(found):
        return
    with suppress(PreheatError):
        lambda_events.request_of(found, 0, 1 << 20)
        lambda_principal(found, "sub")
        headers = [("content-type", "application/json"), ("set-cookie", "a=b"), ("set-cookie", "c=d")]
        json.dumps(lambda_events.event_response(HttpResponse(200, headers, b"{}"), found))


TARGETS: dict[str, Callable[[bytes], None]] = {"tensors": tensors, "manifest": manifest, "event": event}
