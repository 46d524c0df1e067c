"""A client's requests on one connection most often have the same head, but for the length of what follows it:
such a head is parsed once."""

from __future__ import annotations

import time
from typing import NamedTuple

from .messages import HttpRequest

LONGEST = 4096
"""Bytes of a head that is remembered."""


class Head(NamedTuple):
    """A request's head as it came, which its client's next one most often has too."""

    before: bytes
    """Up to the digits of the content length."""
    after: bytes
    """From there to the empty line's end."""
    request: HttpRequest
    query: str

    @classmethod
    def of(cls, data: bytes, request: HttpRequest, query: str) -> Head | None:
        """Of data that is one whole request; None where the next one has to be parsed all the same."""
        digits = request.headers.get("content-length", "").encode()
        size = data.find(b"\r\n\r\n", 0, LONGEST) + 4
        if not digits == b"%d" % len(request.body) == b"%d" % (len(data) - size):
            return None
        head = data[:size].lower()
        line = head.find(b"\r\ncontent-length:")
        if line < 0 or b"\r\nexpect:" in head:
            return None
        at = data.find(digits, line, size)
        return cls(data[:at], data[at + len(digits) : size], request._replace(body=b""), query)

    def again(self, data: bytes, most: int) -> HttpRequest | None:
        """The request that ``data`` is, and nothing else, if it has this head; None for any other data.
        ``most``: bytes of a body."""
        if not data.startswith(self.before):
            return None
        at = len(self.before)
        end = data.find(b"\r", at, at + 20)
        digits = data[at:end]
        if not digits.isdigit() or not data.startswith(self.after, end):
            return None
        body = data[end + len(self.after) :]
        if len(body) != int(digits) or len(body) > most:
            return None
        like = self.request
        headers = {**like.headers, "content-length": digits.decode()}
        now = time.perf_counter_ns()
        return HttpRequest(like.method, like.path, headers, body, now, sender=like.sender)
