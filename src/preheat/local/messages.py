"""HTTP/1.1 as the gateway speaks it: a client's request, an instance's response, and errors of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import NamedTuple

from .. import errors
from ..adapters.messages import add_header

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect".split()
)
"""What belongs to one connection only (RFC 9110, 7.6.1), and ``Expect``, which the gateway has answered."""
_NOT_PASSED_ON = HOP_BY_HOP | {
    b"content-length",
    b"x-preheat-timeout",
    b"grpc-timeout",
    b"x-forwarded-prefix",
}
"""What of a client's request an instance gets anew, or not at all."""
ERRORS: tuple[tuple[type[errors.PreheatError], int, str], ...] = (
    (errors.NotFoundError, 404, "rejected"),
    (errors.TooLargeError, 413, "rejected"),
    (errors.UnsupportedMediaError, 415, "rejected"),
    (errors.UnprocessableError, 422, "rejected"),
    (errors.UnauthenticatedError, 401, "rejected"),
    (errors.RequestError, 400, "rejected"),
    (errors.CrashedError, 502, "crashed"),
    (errors.TimedOutError, 504, "timed_out"),
    (errors.FailedStartError, 503, "failed_start"),
    (errors.ShedError, 503, "shed"),
    (errors.UnavailableError, 503, "unavailable"),
)
"""Status and ``x-preheat-outcome`` of what the gateway itself answers. Instances answer for themselves."""


class Request(NamedTuple):
    method: bytes
    path: str
    """As sent, still escaped, without the query."""
    query: bytes
    headers: Headers
    """As sent, in order."""
    body: bytes
    arrived_ns: int
    """``perf_counter_ns`` when its last byte had come."""

    def header(self, name: bytes) -> str | None:
        """The values under a name in lower case, joined with commas; None for none."""
        found = [value.decode("latin-1") for key, value in self.headers if key.lower() == name]
        return ", ".join(found) if found else None

    def lowered(self) -> dict[str, str]:
        """Every header by its name in lower case."""
        headers: dict[str, str] = {}
        for name, value in self.headers:
            add_header(headers, name.lower(), value)
        return headers


class Response(NamedTuple):
    status: int
    reason: bytes
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> str:
        """The value under a name in lower case; empty where there is none."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), "")


def request_bytes(request: Request, path: str, prefix: str, deadline_s: float) -> bytes:
    """A client's request as an instance gets it: at ``path``, in one piece, its framing and its time anew.
    ``prefix``: what stood before the path, by which the function's own pages link to each other."""
    target = path.encode("latin-1") + (b"?" + request.query if request.query else b"")
    lines = [request.method + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in request.headers if name.lower() not in _NOT_PASSED_ON]
    lines.append(b"content-length: %d" % len(request.body))
    lines.append(b"x-preheat-timeout: %.3f" % deadline_s)
    if prefix:
        lines.append(b"x-forwarded-prefix: " + prefix.encode("latin-1"))
    return b"\r\n".join(lines) + b"\r\n\r\n" + request.body


def response_bytes(response: Response, keep_alive: bool, *, head: bool = False) -> bytes:
    """A response as a client gets it, in one piece; every header of an instance as it was."""
    lines = [b"HTTP/1.1 %d " % response.status + response.reason]
    lines += [name + b": " + value for name, value in response.headers if name.lower() not in HOP_BY_HOP]
    if not response.header(b"content-length") and response.status not in (204, 304):
        lines.append(b"content-length: %d" % len(response.body))
    lines.append(b"connection: keep-alive" if keep_alive else b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head else response.body)


def placed(response: Response, prefix: str) -> Response:
    """A response whose ``Location`` is a path of the function's, as the client has to ask for it."""
    if not prefix or not response.header(b"location").startswith("/"):
        return response
    there = prefix.encode("latin-1")
    headers = [(n, there + v if n.lower() == b"location" else v) for n, v in response.headers]
    return response._replace(headers=headers)


def own(status: int, body: bytes, content_type: str, *more: tuple[str, str]) -> Response:
    """A response of the gateway's own."""
    from http import HTTPStatus

    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    headers = [("content-type", content_type), ("date", date), *more]
    return Response(status, HTTPStatus(status).phrase.encode(), _encoded(headers), body)


def document(value: object, status: int = 200) -> Response:
    """A JSON document."""
    return own(status, json.dumps(value).encode(), "application/json", ("cache-control", "no-store"))


def refusal(error: errors.PreheatError) -> Response:
    """An error of the tree as a response: what happened is in its status, its code and its outcome."""
    known = (each[1:] for each in ERRORS if isinstance(error, each[0]))
    status, outcome = next(known, (500, "failed"))
    more = [("x-preheat-outcome", outcome)]
    if isinstance(error, errors.UnavailableError):
        more.append(("retry-after", str(error.retry_after)))
    if status == 401:
        more.append(("www-authenticate", "Bearer"))
    body = json.dumps({"error": str(error), "code": error.code}).encode()
    return own(status, body, "application/json", *more)


def _encoded(headers: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
