"""JSON as RFC 8259 has it: from a client that is not trusted, and for one that may have asked for much.

Nobody else is answered while the standard library's decoder and encoder work, so that they are given a
millisecond's work at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from ..errors import InvalidRequestError
from ..pauses import large, made, pause

LARGE = 256 * 1024
"""Bytes from which JSON is decoded a piece at a time."""
ITEMS = 4096
"""Items of a list that are encoded at once, or characters of the text that they become."""


def loads(body: bytes | memoryview) -> Any:
    """Decode UTF-8 JSON. Raises InvalidRequestError for anything else: NaN and infinities, which JSON has no
    words for, and nesting past the interpreter's recursion limit included."""
    try:
        text = str(body, "utf-8")
        if len(text) < LARGE:
            return json.loads(text, parse_constant=_refuse)
        from . import large_json  # few clients send that much

        large()
        document = large_json.loads(text, _refuse)
        made(document)
        return document
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not UTF-8") from None
    except RecursionError:
        raise InvalidRequestError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from None


def _refuse(word: str) -> NoReturn:
    raise InvalidRequestError(f"{word} is not a JSON number; send numbers that are finite")


def dumps(value: Any, encoder: json.JSONEncoder) -> str:
    """What ``encoder.encode`` gives, for an encoder that does not indent. Raises ValueError."""
    if type(value) is dict and set(map(type, value)) == {str}:
        members = sorted(value.items()) if encoder.sort_keys else value.items()
        texts = (f"{encoder.encode(k)}{encoder.key_separator}{dumps(v, encoder)}" for k, v in members)
        return f"{{{encoder.item_separator.join(texts)}}}"
    if type(value) is list and value:
        if type(value[0]) in (list, dict):
            return f"[{encoder.item_separator.join(_each(value, encoder))}]"
        if len(value) > ITEMS:
            pieces = (value[start : start + ITEMS] for start in range(0, len(value), ITEMS))
            return f"[{encoder.item_separator.join(text[1:-1] for text in _each(pieces, encoder))}]"
    return encoder.encode(value)


def _each(values: Iterable[Any], encoder: json.JSONEncoder) -> Iterator[str]:
    since = 0
    for value in values:
        if since >= ITEMS:
            since = 0
            pause()
        text = dumps(value, encoder)
        since += len(text)
        yield text
