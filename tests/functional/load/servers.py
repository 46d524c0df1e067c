"""Targets: servers that are not Preheat's, and a plain gateway that scales a real one from zero and back."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ...conftest import Server

Reply = tuple[int, Mapping[str, str], bytes]
Answer = Callable[[str, str, Mapping[str, str], bytes], Reply]
"""From method, path, headers (names in lower case) and body."""


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _OneAtATime(HTTPServer):
    request_queue_size = 256


@contextlib.contextmanager
def answering(answer: Answer, *, one_at_a_time: bool = False, context: Any = None) -> Iterator[str]:
    """A server that answers so; gives its URL. ``context``: of TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0" if one_at_a_time else "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, told, content = answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in {"content-type": "application/json", **told}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _any

        def log_message(self, *_: object) -> None: ...

    server = (_OneAtATime if one_at_a_time else _Listening)(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def plain(_method: str, _path: str, _headers: Mapping[str, str], _body: bytes) -> Reply:
    return 200, {}, b'{"ok": true}'


class OneInstance:
    """What `preheat up` promises a load test: requests wait for an instance, `GET /_preheat/status` tells
    them, and a scale to 0 answers when it is so. One instance at most."""

    def __init__(self, artifact: Path, cache: Path) -> None:
        self._artifact, self._cache = artifact, cache
        self._lock = threading.Lock()
        self._server: Server | None = None
        self.started = 0
        self.stuck = False
        """Whether it says of a scale that it is done, and keeps its instance."""

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path == "/_preheat/status":
            with self._lock:
                instances = [{"name": "filetype-1", "state": "ready"}] if self._server else []
            return 200, {}, json.dumps({"functions": {"filetype": {"instances": instances}}}).encode()
        if path == "/_preheat/functions/filetype/scale" and method == "POST":
            assert json.loads(body) == {"instances": 0}
            assert headers["content-type"] == "application/json"
            if not self.stuck:
                self.close()
            return 200, {}, b'{"function": "filetype", "asked": 0, "done": true}'
        if not path.startswith("/filetype/"):
            return (
                404,
                {"x-preheat-outcome": "rejected"},
                b'{"error": "no such function", "code": "not_found"}',
            )
        return self._pass_on(method, path.removeprefix("/filetype"), headers, body)

    def _pass_on(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        with self._lock:
            if self._server is None:
                self._server = Server(self._artifact, PREHEAT_CACHE=str(self._cache))
                self.started += 1
            server = self._server
        hop = {"host", "connection", "content-length"}
        with contextlib.closing(server.connect()) as connection:
            connection.request(method, path, body, {k: v for k, v in headers.items() if k not in hop})
            response = connection.getresponse()
            content = response.read()
        told = {k.lower(): v for k, v in response.getheaders()}
        return response.status, {k: v for k, v in told.items() if k not in hop | {"date"}}, content

    def close(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.stop()
            self._server = None


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
