"""What is not hot on AWS Lambda: the FastAPI application behind Mangum, loaded when it is first asked for.

Mangum runs the application for one event; events are read, and answers written, as the direct door does it
(``lambda_events.py``), so that both answer alike. The lifespan is off: the model is started by the handler.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ..errors import NotFoundError, PreheatError
from ..principals import lambda_principal
from .lambda_events import deadline_ns, event_response, is_http, request_of
from .messages import HttpResponse
from .responses import from_error

try:
    from mangum import Mangum
    from mangum.types import LambdaConfig
    from mangum.types import Response as AsgiResponse
except ModuleNotFoundError as missing:
    raise NotFoundError(
        "this path is answered through Mangum, which is not installed: pip install 'preheat[lambda,api]'",
        code="no_api",
    ) from missing

if TYPE_CHECKING:
    from ..function import Function


class MangumDoor:
    """The FastAPI application of a function, called with Lambda events.

    The event loop is this door's own: it is opened by the first event, and ``close`` leaves nothing of it
    open, for a snapshot.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._loop: asyncio.AbstractEventLoop | None = None
        app = function.api  # may not be installed: asked for before anything is opened
        with _loop_of(self):
            self.mangum = Mangum(app, lifespan="off", custom_handlers=[_front_end(function)])

    def __call__(self, event: Any, context: Any = None) -> Any:
        try:
            with _loop_of(self):
                return self.mangum(event, context)
        except (
            PreheatError
        ) as error:  # an event that is not as documented, or too large, as its answer may be
            return event_response(from_error(self._function.service, error), event)

    def close(self) -> None:
        """Close the event loop; the next event opens another."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None


class _loop_of:
    """Mangum takes the thread's current event loop: this makes the door's own the current one."""

    def __init__(self, door: MangumDoor) -> None:
        self._door = door

    def __enter__(self) -> None:
        if self._door._loop is None:
            self._door._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._door._loop)

    def __exit__(self, *_: object) -> None:
        asyncio.set_event_loop(None)


def _front_end(function: Function) -> Any:
    class FrontEnd:
        """How Mangum converts: see mangum.types.LambdaHandler."""

        def __init__(self, event: Any, context: Any, config: LambdaConfig) -> None:  # noqa: ARG002
            self.event = event
            self.request, query = request_of(event, time.perf_counter_ns(), function.service.max_bytes)
            self.body = self.request.body
            headers = {"content-length": str(len(self.body)), **self.request.headers}
            http = event["requestContext"].get("http") or event["requestContext"].get("identity") or {}
            self.scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": self.request.method,
                "scheme": headers.get("x-forwarded-proto", "https"),
                "path": self.request.path,
                "raw_path": self.request.path.encode("utf-8", "surrogatepass"),
                "root_path": "",
                "query_string": query.encode("utf-8", "surrogatepass"),
                "headers": [
                    (n.encode("latin-1", "replace"), v.encode("utf-8", "surrogatepass"))
                    for n, v in headers.items()
                ],
                "client": (str(http.get("sourceIp", "")), 0),
                "server": (headers.get("host", "lambda"), 443),
                "aws.event": event,
                "aws.context": context,
                "preheat.principal": lambda_principal(event, function.settings.jwt_claim),
                "preheat.deadline_ns": deadline_ns(context),
            }

        @classmethod
        def infer(cls, event: Any, context: Any, config: LambdaConfig) -> bool:  # noqa: ARG003
            return is_http(event)

        def __call__(self, response: AsgiResponse) -> dict[str, Any]:
            headers = [
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in response["headers"]
                if name.lower() != b"content-length"
            ]
            return event_response(HttpResponse(response["status"], headers, response["body"]), self.event)

    return FrontEnd
