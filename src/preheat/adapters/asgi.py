"""The lean ASGI door: the hot routes alone, every other path handed to FastAPI, which is loaded then.

Runs under any ASGI server. The core is synchronous (a session's run is), so each request takes a thread.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, PreheatError, TooLargeError
from ..service import State
from .messages import HttpRequest, HttpResponse, add_header
from .observe import refused
from .responses import from_error
from .routes import match, respond

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..function import Function

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class LeanDoor:
    def __init__(self, function: Function) -> None:
        self.function = function
        self._threads: Executor | None = None
        self._asked_to_start = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and match(scope["path"]):
            await self._http(scope, receive, send)
        else:
            try:
                api = await self._in_thread(lambda: self.function.api)
            except PreheatError as error:  # FastAPI is not installed
                service = self.function.service
                await send_response(refused(service, from_error(service, error)), "GET", send)
            else:
                await api(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._in_thread(self.function.start)
                except PreheatError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                self.function.service.defers = True
                await send({"type": "lifespan.startup.complete"})
            else:
                self.function.service.drain()
                await self._in_thread(self.function.service.close)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.function.service
        if service.state is State.STARTING and not self._asked_to_start:
            self._asked_to_start = True  # a server that sends no lifespan: the first request starts the model
            self._executor().submit(self.function.start)
        try:
            request = await read_request(scope, receive, service.max_bytes)
        except ConnectionResetError:
            return
        except PreheatError as error:
            response: HttpResponse | None = refused(service, from_error(service, error))
        else:
            response = await self._in_thread(lambda: respond(service, request))
        assert response is not None  # noqa: S101 - the path is hot
        await send_response(response, scope["method"], send)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        import asyncio  # by now the server has it; a function's module must not bring it to our own

        return await asyncio.get_running_loop().run_in_executor(self._executor(), work)

    def _executor(self) -> Executor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            # Every request that may run or wait has a thread, and a few are left to shed what is over that.
            self._threads = ThreadPoolExecutor(self.function.settings.queue + 64, "preheat")
        return self._threads


async def read_request(scope: Scope, receive: Receive, limit: int) -> HttpRequest:
    """The whole request of an HTTP scope. Raises what ``read_body`` raises."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        add_header(headers, name, value)
    body = await read_body(receive, headers.get("content-length"), limit)
    return HttpRequest(
        scope["method"],
        scope["path"],
        headers,
        body,
        time.perf_counter_ns(),
        # Written by the door that carries the application on Lambda; no server makes them from a request.
        principal=scope.get("preheat.principal", ""),
        deadline_ns=scope.get("preheat.deadline_ns", 0),
    )


async def read_body(receive: Receive, announced: str | None, limit: int) -> bytes:
    """A request's body. Raises TooLargeError as soon as it is known to be over ``limit`` bytes,
    InvalidRequestError where it is not as long as announced, ConnectionResetError where the client left."""
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise TooLargeError(f"the body has {announced} bytes; the limit is {limit}")
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(f"the body is larger than {limit} bytes")
        parts.append(part)
        more = message.get("more_body", False)
    if announced is not None and announced.isdigit() and int(announced) != size:
        raise InvalidRequestError(f"the body has {size} bytes, and {announced} were announced")
    return b"".join(parts)


async def send_response(response: HttpResponse, method: str, send: Send) -> None:
    """Send a response, with its length, and without its body to HEAD."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else response.body})
