"""Doors that take a request as it is, sound or not; each gives the statuses that came back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from preheat import Function

from ..conftest import ROOT, Server, serving
from ..functional.local.conftest import up
from .corpus import Parsed, parsed

ARTIFACT = ROOT / "functions" / "filetype" / "artifact"
GOOD = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n"
    b"content-length: 40\r\n\r\n" + b"import os\nprint(os.getcwd())\n".ljust(40)
)
WAIT_S = 20.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Door:
    """``send`` gives the statuses that came back, none where the door takes no such bytes. ``pid``: of the
    process that answers, the caller's own for doors within it."""

    name = ""

    def __init__(self, send: Callable[[bytes], list[int]], pid: int | str = "self") -> None:
        self.send = send
        self._pid = pid

    def answers(self) -> bool:
        """Whether a good request is answered well."""
        return self.send(GOOD) == [200]

    def rss_kib(self) -> int:
        """What the process has in memory."""
        with open(f"/proc/{self._pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def _socket(port: int) -> Callable[[bytes], list[int]]:
    def send(raw: bytes) -> list[int]:
        received, whole = b"", parsed(raw) is not None
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            # What was refused may be cut off by its sender's own bytes; what came before that counts.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(raw)
                if whole:  # whoever hangs up early wants no answer
                    received = client.recv(65536)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(65536):
                    received += part
        return [int(status) for status in _STATUS.findall(received) if status != b"100"]

    return send


def _split(request: Parsed) -> tuple[str, str]:
    target = re.sub(r"^https?://[^/]*", "", request.target).partition("#")[0]
    path, _, query = target.partition("?")
    return path or "/", query


def _asgi(app: Any, loop: asyncio.AbstractEventLoop) -> Callable[[bytes], list[int]]:
    async def run(request: Parsed) -> int:
        path, query = _split(request)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": request.headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return parts.pop() if parts else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asyncio.wait_for(app(scope, receive, send), WAIT_S)
        return int(sent[0]["status"])

    def ask(raw: bytes) -> list[int]:
        request = parsed(raw)
        return [] if request is None else [loop.run_until_complete(run(request))]

    return ask


def _lambda(handler: Any, version: int) -> Callable[[bytes], list[int]]:
    def ask(raw: bytes) -> list[int]:
        request = parsed(raw)
        if request is None:
            return []
        path, query = _split(request)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        event: dict[str, Any] = {
            "headers": headers,
            "body": base64.b64encode(request.body).decode(),
            "isBase64Encoded": True,
        }
        if version == 2:
            http = {"method": request.method, "path": path}
            event |= {
                "version": "2.0",
                "rawPath": path,
                "rawQueryString": query,
                "requestContext": {"http": http},
            }
        else:
            event |= {"httpMethod": request.method, "path": path, "requestContext": {"stage": "prod"}}
        answer = handler(json.loads(json.dumps(event)), None)
        json.dumps(answer)
        return [int(answer["statusCode"])]

    return ask


@contextmanager
def _function() -> Iterator[Function]:
    with tempfile.TemporaryDirectory() as cache:
        function = Function(environ={"PREHEAT_ARTIFACT": str(ARTIFACT), "PREHEAT_CACHE": cache})
        function.start()
        yield function
        function.service.close()


@contextmanager
def _server() -> Iterator[Door]:
    with tempfile.TemporaryDirectory() as cache, serving(ARTIFACT, PREHEAT_CACHE=cache) as server:
        server.wait_ready()
        yield Door(_socket(server.port), server.process.pid)
        _alive(server)


def _alive(server: Server) -> None:
    assert server.process.poll() is None, "the server is gone"


@contextmanager
def _up() -> Iterator[Door]:
    with tempfile.TemporaryDirectory() as folder, up(Path(folder), str(ARTIFACT)) as gateway:
        door = Door(_socket(gateway.port), gateway.process.pid)
        assert door.answers()
        yield door
        _alive(gateway)


@contextmanager
def _lean() -> Iterator[Door]:
    with _function() as function, contextlib.closing(asyncio.new_event_loop()) as loop:
        yield Door(_asgi(function.app, loop))


@contextmanager
def _fastapi() -> Iterator[Door]:
    with _function() as function, contextlib.closing(asyncio.new_event_loop()) as loop:
        yield Door(_asgi(function.api, loop))


@contextmanager
def _lambda_2() -> Iterator[Door]:
    with _function() as function:
        yield Door(_lambda(function.handler, 2))
        function.handler.close()


@contextmanager
def _lambda_1() -> Iterator[Door]:
    with _function() as function:
        yield Door(_lambda(function.handler, 1))
        function.handler.close()


DOORS: dict[str, Callable[[], AbstractContextManager[Door]]] = {
    "server": _server,
    "up": _up,
    "lean": _lean,
    "fastapi": _fastapi,
    "lambda-v2": _lambda_2,
    "lambda-v1": _lambda_1,
}
