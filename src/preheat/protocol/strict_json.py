"""JSON as RFC 8259 has it, from a client that is not trusted."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import InvalidRequestError


def loads(body: bytes | memoryview) -> Any:
    """Decode UTF-8 JSON. Raises InvalidRequestError for anything else: NaN and infinities, which JSON has no
    words for, and nesting past the interpreter's recursion limit included."""
    try:
        return json.loads(str(body, "utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError:
        raise InvalidRequestError("the body is not UTF-8") from None
    except RecursionError:
        raise InvalidRequestError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from None


def _refuse(word: str) -> NoReturn:
    raise InvalidRequestError(f"{word} is not a JSON number; send numbers that are finite")
