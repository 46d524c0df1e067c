"""The Lambda Runtime API for one process and its clones, one clone at a time.

Source: AWS Lambda developer guide, "Lambda runtime API"; the restore endpoints as awslambdaric calls them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .credentials import secrets_of

PREFIX = "/2018-06-01/runtime"
CREDENTIALS = "/2021-04-23/credentials"
"""Where the SDKs fetch credentials under SnapStart: others before the snapshot than after each restore."""
_ARN = "arn:aws:lambda:eu-west-1:000000000000:function:rehearsal:1"
TIMEOUT_MS = 30_000
"""The function's timeout."""

Tell = Callable[[dict[str, Any]], None]


class RuntimeApi:
    """``tell`` is called, from any thread, with what arrives: responses and errors."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._clone = 0
        self._event: bytes | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def next_clone(self) -> None:
        """What waits for an event now belongs to a clone that is over."""
        with self._changed:
            self._clone += 1
            self._event = None
            self._changed.notify_all()

    def invoke(self, event: Any) -> None:
        """Give the running clone an event; its answer is told."""
        with self._changed:
            self._event = json.dumps(event).encode()
            self._changed.notify_all()

    def close(self) -> None:
        self.next_clone()
        self._server.shutdown()
        self._server.server_close()

    # What the handler calls

    def wait_event(self) -> bytes | None:
        """The next event for the clone that asks; None where it is over."""
        self.tell("next")
        with self._changed:
            mine = self._clone
            self._changed.wait_for(lambda: self._event is not None or self._clone != mine)
            if self._clone != mine:
                return None
            event, self._event = self._event, None
            return event

    def tell(self, what: str, **fields: Any) -> None:
        self._tell({"what": what, **fields})

    def secrets(self) -> dict[str, str]:
        """The credentials that are valid now."""
        return secrets_of(self._clone)


def _handler(api: RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path == f"{PREFIX}/invocation/next":
                event = api.wait_event()
                if event is None:
                    self.close_connection = True
                    return
                self._answer(
                    200,
                    event,
                    **{
                        "Lambda-Runtime-Aws-Request-Id": "00000000-0000-4000-8000-000000000000",
                        "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + TIMEOUT_MS),
                        "Lambda-Runtime-Invoked-Function-Arn": _ARN,
                    },
                )
            elif self.path == f"{PREFIX}/restore/next":
                self._answer(200, b"{}")
            elif self.path == CREDENTIALS:
                later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 21600))
                self._answer(200, json.dumps({**api.secrets(), "Expiration": later}).encode())
            else:
                self._answer(404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            kind = self.headers.get("Lambda-Runtime-Function-Error-Type", "")
            if self.path.startswith(f"{PREFIX}/invocation/"):
                api.tell("response" if self.path.endswith("/response") else "error", body=body)
            elif self.path in (f"{PREFIX}/init/error", f"{PREFIX}/restore/error"):
                api.tell("init error" if "init" in self.path else "restore error", body=body, type=kind)
            # The native client crashes where an answer has no content type.
            self._answer(202, b'{"status":"OK"}')

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # a clone was ended
                self.close_connection = True

    return Handler
