"""A request's body as its sender meant it: decompressed, never larger than the limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, TooLargeError, UnsupportedMediaError

if TYPE_CHECKING:
    from ..service import Service
    from .messages import HttpRequest


def read_body(service: Service, request: HttpRequest) -> bytes:
    """The body, decompressed, never larger than the limit. Raises TooLargeError before it would be."""
    limit = service.max_bytes
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
