"""A response as the bytes of HTTP/1.1."""

from __future__ import annotations

import time
from functools import lru_cache

from .messages import HttpResponse

_REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    302: "Found",
    304: "Not Modified",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def encoded(response: HttpResponse, keep_alive: bool, *, head: bool = False, now: int = 0) -> bytes:
    """Head and body as one piece: two writes would meet Nagle's algorithm and delayed acknowledgement.
    ``now``: seconds since the epoch; 0: as the clock says."""
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, '')}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append(f"content-length: {len(response.body)}")
    lines.append(f"date: {_date(now or int(time.time()))}")
    lines.append(f"connection: {'keep-alive' if keep_alive else 'close'}")
    text = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
    return text if head else text + response.body


def encoded_refusal(response: HttpResponse, keep_alive: bool, *, head: bool = False) -> bytes:
    """``encoded``, for one that says why a request found no place: under a flood it is the same again and
    again, and made once a second."""
    status, headers, body = response
    return _refusal(status, tuple(headers), body, keep_alive, head, int(time.time()))


@lru_cache(maxsize=16)
def _refusal(
    status: int, headers: tuple[tuple[str, str], ...], body: bytes, keep_alive: bool, head: bool, now: int
) -> bytes:
    return encoded(HttpResponse(status, list(headers), body), keep_alive, head=head, now=now)


_dates: dict[int, str] = {}


def _date(now: int) -> str:
    """The HTTP date of a second since the epoch; the last one is kept."""
    text = _dates.get(now)
    if text is None:
        _dates.clear()
        text = _dates[now] = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))
    return text
