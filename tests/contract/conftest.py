"""Every door to the same function, behind one way of asking."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import uvicorn

from preheat import Function

from ..conftest import Answer, Server

DOORS = ("server", "lean", "fastapi", "uvicorn", "lambda-v2", "lambda-v1", "mangum-v2", "mangum-v1")


class Door(Protocol):
    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request; header names with ``_`` for ``-``."""
        ...


def _names(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _started(artifact: Path, cache: Path) -> Function:
    function = Function(environ={"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(cache)})
    function.start()
    return function


def _server(server: Server) -> Door:
    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        return server.request(method, path, body or None, _names(headers))

    return ask


def _asgi(app: Any) -> Door:
    async def send(method: str, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            return await client.request(method, path, content=body or None, headers=raw)

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        import asyncio

        response = asyncio.run(send(method, path, body, _names(headers)))
        return Answer(response.status_code, dict(response.headers), response.content)

    return ask


def _lambda(handler: Callable[..., Any], event_of: Callable[..., dict[str, Any]]) -> Door:
    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        event = json.loads(json.dumps(event_of(method, path, body, _names(headers))))
        answer = handler(event, None)
        json.dumps(answer)
        raw = answer["body"]
        data = base64.b64decode(raw) if answer["isBase64Encoded"] else raw.encode()
        found = answer.get("headers") or {n: ", ".join(v) for n, v in answer["multiValueHeaders"].items()}
        return Answer(answer["statusCode"], found, data)

    return ask


def _event_v2(method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {"http": {"method": method, "path": path}},
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


def _event_v1(method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "httpMethod": method,
        "path": path,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "requestContext": {"stage": "prod"},
        "body": base64.b64encode(body).decode() if body else None,
        "isBase64Encoded": bool(body),
    }


class Uvicorn:
    """The lean door under uvicorn, in a thread, its lifespan run."""

    def __init__(self, app: Any) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < deadline
            assert self.thread.is_alive()
            time.sleep(0.01)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.socket.getsockname()[1], timeout=30)
        try:
            connection.request(method, path, body or None, _names(headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.socket.close()


def _doors(artifact: Path, server: Server, tmp: Path, name: str) -> Iterator[Door]:
    if name == "server":
        yield _server(server)
        return
    yield from door_of(_started(artifact, tmp), name)


def door_of(function: Function, name: str) -> Iterator[Door]:
    """A door to a function that has started, but for the server's own."""
    if name == "lean":
        yield _asgi(function.app)
    elif name == "fastapi":
        yield _asgi(function.api)
    elif name == "uvicorn":
        running = Uvicorn(function.app)
        yield running.ask
        running.stop()
    else:
        # The whole application behind Mangum, hot routes too, which the handler never sends there.
        handler = function.handler.mangum if name.startswith("mangum") else function.handler
        yield _lambda(handler, _event_v2 if name.endswith("v2") else _event_v1)
        function.handler.close()


@pytest.fixture(scope="module", params=DOORS)
def door(
    request: pytest.FixtureRequest,
    filetype_artifact: Path,
    filetype_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Door]:
    """Each door to the filetype function in turn."""
    yield from _doors(filetype_artifact, filetype_server, tmp_path_factory.mktemp("cache"), request.param)


@pytest.fixture(scope="module", params=DOORS)
def embed_door(
    request: pytest.FixtureRequest,
    embed_artifact: Path,
    embed_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Door]:
    """Each door to the embed function in turn."""
    yield from _doors(embed_artifact, embed_server, tmp_path_factory.mktemp("cache"), request.param)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
