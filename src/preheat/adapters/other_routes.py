"""What FastAPI answers beside the hot routes, as it is seen: the documentation, a function's own routes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..metrics import OTHER
from .observe import close, describe, known_method, traceresponse

if TYPE_CHECKING:
    from ..function import Function


class OtherRoutes:
    """Counts what an ASGI application answers. ``hot``: whether a path is one, and counted there.
    A response without an outcome gets one: by its status, as its route knows none."""

    def __init__(self, app: Any, function: Function, hot: Callable[[str], object]) -> None:
        self._app = app
        self._function = function
        self._hot = hot

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http" or self._hot(scope["path"]):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = known_method(scope["method"])
        seen = self._function.service.telemetry.begin(method, OTHER, time.perf_counter_ns(), headers)
        status, told = 500, [("x-preheat-outcome", "failed")]

        async def observing(message: MutableMapping[str, Any]) -> None:
            nonlocal status, told
            if message["type"] == "http.response.start":
                status, raw = message["status"], list(message.get("headers", ()))
                told = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
                names = {name for name, _ in told}
                for name, value in (
                    ("x-preheat-outcome", _outcome(status)),
                    ("x-preheat-instance", self._function.service.instance),
                ):
                    if name not in names:
                        told.append((name, value))
                        raw.append((name.encode(), value.encode()))
                if seen.traced:
                    name, value = traceresponse(seen)
                    raw.append((name.encode(), value.encode()))
                message = {**message, "headers": raw}
            await send(message)

        try:
            await self._app(scope, receive, observing)
        finally:
            if seen.traced:
                describe(seen, scope["path"], headers)
            close(self._function.service, seen, status, told)


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status < 500:
        return "rejected"
    return "unavailable" if status == 503 else "failed"
