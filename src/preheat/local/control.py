"""What the gateway answers itself: its status, as JSON and as a page, and a function scaled by hand."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ..errors import InvalidRequestError, NotFoundError, UnsupportedMediaError
from ..protocol import strict_json
from .messages import Request, Response, document, own
from .page import body, page
from .status import status

if TYPE_CHECKING:
    from .gateway import Gateway


_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'"
)
"""The page is whole as it is, and asks nobody but the gateway."""


class Control:
    """Routes under ``/_preheat/``: ``GET /`` the page, ``GET live`` what it puts in again and again, ``GET
    status``, ``POST functions/NAME/scale`` with ``{"instances": N}``, answered when it is so."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, request: Request, path: str) -> Response:
        """Raises NotFoundError, InvalidRequestError, UnsupportedMediaError."""
        method = "GET" if request.method == b"HEAD" else request.method.decode("latin-1")
        parts = path.strip("/").split("/")
        if len(parts) == 3 and parts[0] == "functions" and parts[2] == "scale":
            return await self._scale(request, parts[1]) if method == "POST" else _not_allowed("POST")
        if path not in ("", "live", "status"):
            raise NotFoundError(f"there is no /_preheat/{path}; there are /_preheat/ and /_preheat/status")
        if method != "GET":
            return _not_allowed("GET")
        found = status(self._gateway)
        if path == "status":
            return document(found)
        if path == "":
            return _html(page(found))
        text = body(found)
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if request.header(b"if-none-match") == tag:
            return own(304, b"", "text/html; charset=utf-8", ("etag", tag))
        return _html(text, ("etag", tag))

    async def _scale(self, request: Request, name: str) -> Response:
        # A page of another site may post forms, but no JSON, without being asked first (CORS).
        kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UnsupportedMediaError(
                "the content type must be application/json; curl needs -H 'content-type: application/json'"
            )
        asked = strict_json.loads(request.body)
        if not isinstance(asked, dict) or set(asked) != {"instances"}:
            raise InvalidRequestError('send {"instances": N}')
        done = await self._gateway.scale_to(name, asked["instances"])
        found = {"function": name, "asked": asked["instances"], "done": done}
        if not done:
            return document({**found, "error": "it did not come so in time", "code": "timed_out"}, 504)
        return document(found)


def _html(text: str, *more: tuple[str, str]) -> Response:
    headers = [("cache-control", "no-cache"), ("content-security-policy", _POLICY), *more]
    return own(200, text.encode(), "text/html; charset=utf-8", *headers)


def _not_allowed(method: str) -> Response:
    text = json.dumps({"error": f"this takes {method}", "code": "method_not_allowed"}).encode()
    return own(405, text, "application/json", ("allow", method), ("x-preheat-outcome", "rejected"))
