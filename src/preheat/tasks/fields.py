"""Reading the natural requests of the built-in tasks: fields by name, texts, encoded contents.

Everything here raises InvalidRequestError or TooLargeError and names the field; nothing else comes out.
"""

from __future__ import annotations

import binascii
from typing import Any

from ..errors import InvalidRequestError, TooLargeError
from ..protocol.values import shown


def field(request: object, name: str) -> Any:
    """A field that a request must have."""
    if not isinstance(request, dict):
        raise InvalidRequestError(
            f"the request must be an object with the field {name!r}, not {shown(request)}"
        )
    if name not in request:
        raise InvalidRequestError(f"the request has no field {name!r}")
    return request[name]


def items(value: object, name: str, limit: int) -> list[Any]:
    """One thing or a list of things, as a list of 1 to ``limit``."""
    if not isinstance(value, list):
        return [value]
    if not value:
        raise InvalidRequestError(f"{name} is an empty list; send at least one")
    if len(value) > limit:
        raise TooLargeError(f"{name} has {len(value)} items; the limit is {limit}")
    return value


def texts(value: object, name: str, limit: int) -> list[str]:
    """A text or a list of texts."""
    found = items(value, name, limit)
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise InvalidRequestError(f"{at(value, name, index)} must be a text, not {shown(text)}")
        if not text.isascii() and not _is_unicode(text):
            raise InvalidRequestError(f"{at(value, name, index)} has half of a surrogate pair")
    return found


def contents(request: object, name: str, limit: int) -> list[bytes]:
    """A content or a list of contents: the raw body, or base64 (RFC 4648, padded) in a JSON field."""
    if isinstance(request, bytes | bytearray | memoryview):
        return [bytes(request)]
    value = field(request, name)
    found = []
    for index, text in enumerate(items(value, name, limit)):
        where = at(value, name, index)
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where} must be base64 text, not {shown(text)}")
        try:
            found.append(binascii.a2b_base64(text, strict_mode=True))
        except ValueError as error:
            raise InvalidRequestError(f"{where} is not base64: {error}") from None
    return found


def at(value: object, name: str, index: int) -> str:
    """How a message names one of ``items``."""
    return f"{name}[{index}]" if isinstance(value, list) else name


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
