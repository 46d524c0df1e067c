"""Run an ASGI application for a server of threads: one event loop in a thread of its own, made when the first
request that is not hot arrives. Responses are gathered whole; streams and web sockets need an ASGI server."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from .messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from .asgi import App


class Bridge:
    def __init__(self, app: App) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="preheat-api", daemon=True).start()

    def respond(self, request: HttpRequest, query: str) -> HttpResponse:
        """The application's answer; an exception without one is the caller's."""
        return asyncio.run_coroutine_threadsafe(self._call(request, query), self._loop).result()

    async def _call(self, request: HttpRequest, query: str) -> HttpResponse:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.path.encode(),
            "root_path": request.headers.get("x-forwarded-prefix", ""),
            "query_string": query.encode("latin-1"),
            "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in request.headers.items()],
            "client": None,
            "server": None,
        }
        status = 500
        headers: list[tuple[str, str]] = []
        parts: list[bytes] = []
        unread = [request.body]

        async def receive() -> MutableMapping[str, Any]:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await self._loop.create_future()  # the client stays until it is answered
            raise AssertionError  # never reached

        async def send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers.extend((n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:  # Starlette answers 500 first, and raises then, for whoever keeps the log
            if not headers:
                raise
            traceback.print_exc(file=sys.stderr)
        plain = [(n, v) for n, v in headers if n not in ("content-length", "transfer-encoding", "connection")]
        return HttpResponse(status, plain, b"".join(parts))
