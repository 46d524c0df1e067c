"""JSON as RFC 8259 has it: from a client that is not trusted, and for one that may have asked for much.

Nobody else is answered while the standard library's decoder and encoder work, so that they are given a
millisecond's work at a time.
"""

from __future__ import annotations

import json
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from ..errors import InvalidRequestError
from ..pauses import joined, large, made, pause, room

LARGE = 256 * 1024
"""Characters from which JSON is decoded a piece at a time."""
HUGE = 4 * 1024 * 1024
"""Characters from which no garbage is collected meanwhile."""
ITEMS = 4096
"""Items that are encoded at once, or characters of the text that they become."""
FEW = 32
"""Items of a list within a list that are worth an encoding of their own."""
DEPTH = 5
"""What is nested deeper is encoded whole."""


def loads(body: bytes | memoryview) -> Any:
    """Decode UTF-8 JSON. Raises InvalidRequestError for anything else: NaN and infinities, which JSON has no
    words for, and nesting past the interpreter's recursion limit included."""
    try:
        text = str(body, "utf-8") if len(body) < LARGE else _text(body)
        if len(text) < LARGE:
            return json.loads(text, parse_constant=_refuse)
        from . import large_json  # few clients send that much

        if len(text) >= HUGE:
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


def _text(body: bytes | memoryview) -> str:
    """What ``str`` gives, which is a copy for ASCII and work for anything else. Raises UnicodeDecodeError."""
    if isinstance(body, bytes) and body.isascii():
        room(len(body))
        return str(body, "ascii")
    decode, parts = getincrementaldecoder("utf-8")().decode, []
    for at in range(0, len(body), LARGE):
        parts.append(decode(body[at : at + LARGE], at + LARGE >= len(body)))
        pause()
    return joined(parts)


def _refuse(word: str) -> NoReturn:
    raise InvalidRequestError(f"{word} is not a JSON number; send numbers that are finite")


def dumps(value: Any, encoder: json.JSONEncoder) -> str:
    """What ``encoder.encode`` gives, for an encoder that does not indent. Raises ValueError."""
    return encoder.encode(value) if _size(value, DEPTH) < ITEMS else _dumps(value, encoder, DEPTH)


def _size(value: Any, depth: int) -> int:
    """About how many items there are, going by the first of each list."""
    if type(value) is list and value:
        return len(value) * (_size(value[0], depth - 1) if depth else 1)
    if type(value) is dict and depth:
        return sum(_size(item, depth - 1) for item in value.values())
    return 1


def _dumps(value: Any, encoder: json.JSONEncoder, depth: int) -> str:
    if type(value) is dict and depth and set(map(type, value)) == {str}:
        members = sorted(value.items()) if encoder.sort_keys else value.items()
        texts = (
            f"{encoder.encode(key)}{encoder.key_separator}{_dumps(item, encoder, depth - 1)}"
            for key, item in members
        )
        return f"{{{encoder.item_separator.join(texts)}}}"
    if type(value) is list and value and depth:
        if type(value[0]) in (list, dict) and _size(value[0], depth) > FEW:
            pieces: Iterable[Any] = value
            texts = (_dumps(item, encoder, depth - 1) for item in pieces)
        else:
            pieces = (value[start : start + ITEMS] for start in range(0, len(value), ITEMS))
            texts = (encoder.encode(piece)[1:-1] for piece in pieces)
        return f"[{encoder.item_separator.join(_paused(texts))}]"
    return encoder.encode(value)


def _paused(texts: Iterator[str]) -> Iterator[str]:
    since = 0
    for text in texts:
        yield text
        since += len(text)
        if since >= ITEMS:
            since = 0
            pause()
