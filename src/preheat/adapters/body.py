"""A request's body as its sender meant it: decompressed, never larger than the limit, of a known type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, TooLargeError, UnsupportedMediaError

if TYPE_CHECKING:
    from .messages import HttpRequest


def read_body(request: HttpRequest, limit: int) -> bytes:
    """The body, decompressed, never larger than ``limit`` bytes. Raises TooLargeError before it would be."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        data = request.body
    elif encoding in ("gzip", "deflate"):
        data = _decompress(request.body, encoding, limit)
    else:
        raise UnsupportedMediaError(f"content encoding {encoding!r} is not spoken here; send gzip or deflate")
    if len(data) > limit:
        raise TooLargeError(f"the body is larger than {limit} bytes")
    return data


def _decompress(data: bytes, encoding: str, limit: int) -> bytes:
    import zlib  # few clients compress

    # 31: a gzip header; 15: a zlib header, which is what HTTP calls deflate (RFC 9110, 8.4.1.2).
    stream = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"the body is not {encoding}: {error}") from None
    if len(plain) <= limit and not stream.eof:
        raise InvalidRequestError(f"the {encoding} body is cut short")
    return plain


def content_type(request: HttpRequest, accepted: tuple[str, ...]) -> str:
    """The request's media type; JSON where it names none. Raises UnsupportedMediaError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower() or accepted[0]
    for candidate in accepted:
        if kind == candidate or (candidate.endswith("/*") and kind.startswith(candidate[:-1])):
            return kind
    hint = "; curl needs -H 'content-type: …'" if kind == "application/x-www-form-urlencoded" else ""
    raise UnsupportedMediaError(f"the content type must be {' or '.join(accepted)}, not {kind!r}{hint}")
