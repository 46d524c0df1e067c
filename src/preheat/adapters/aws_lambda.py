"""The direct door on AWS Lambda: an event in, a response out, no web framework between.

Takes what a Function URL and API Gateway send (payload formats 2.0 and 1.0), what a load balancer sends,
batches of a queue (``sqs.py``), and a direct invocation, whose event is the body of ``/predict``. A path that
is not hot goes to FastAPI.
Source of the shapes: AWS Lambda developer guide, "Invoking Lambda functions using …" for each service.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, PreheatError
from ..principals import lambda_principal, principal
from .observe import refused
from .routes import HttpRequest, HttpResponse, from_error, respond

if TYPE_CHECKING:
    from ..function import Function

Event = Mapping[str, Any]

_TEXTUAL = ("application/json", "text/", "application/javascript", "application/xml")


class LambdaHandler:
    """What Lambda calls with each event. The model is started by the first call at the latest."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, event: Any, context: Any = None) -> Any:
        try:
            return self._answer(event, context)
        finally:
            if self.function.settings.trace_flush == "answer":  # afterwards the instance is frozen
                self.function.service.telemetry.flush()

    def _answer(self, event: Any, context: Any) -> Any:
        self.function.start()
        arrived_ns = time.perf_counter_ns()
        deadline_ns = _deadline_ns(context)
        if not _is_http(event):
            from .sqs import handle_batch, is_batch

            if is_batch(event):
                return handle_batch(self.function.service, event, deadline_ns)
            return self._direct(event, context, arrived_ns, deadline_ns)
        try:
            request, query = _request(event, arrived_ns)
            who = lambda_principal(event, self.function.settings.jwt_claim)
            request = request._replace(principal=who, deadline_ns=deadline_ns)
            response = respond(self.function.service, request) or self.function.bridge.respond(request, query)
        except PreheatError as error:
            response = refused(self.function.service, from_error(self.function.service, error))
        return _event_response(response, multi_value="multiValueHeaders" in event)

    def _direct(self, event: Any, context: Any, arrived_ns: int, deadline_ns: int) -> Any:
        """The task's answer to an event that is its natural JSON. An error is raised with its message, so
        that Lambda reports the invocation as failed. Its tenant is the function: AWS let the caller invoke
        it, and does not tell who that was. Where a key is required, the invocation's id is one: it stays the
        same when Lambda tries an asynchronous invocation again."""
        body, headers = json.dumps(event).encode(), {"content-type": "application/json"}
        modes = self.function.service.modes
        if modes.get("/predict", modes[""]) == "required" and hasattr(context, "aws_request_id"):
            headers["idempotency-key"] = str(context.aws_request_id)
        who = principal("invoke", str(getattr(context, "invoked_function_arn", "") or ""))
        request = HttpRequest("POST", "/predict", headers, body, arrived_ns, who, deadline_ns)
        response = respond(self.function.service, request)
        assert response is not None  # noqa: S101 - /predict is hot
        answer = json.loads(response.body)
        if response.status != 200:
            raise InvalidRequestError(answer["error"], code=answer["code"])
        return answer


def _deadline_ns(context: Any) -> int:
    """``perf_counter_ns`` at which Lambda ends the invocation; 0 where no context tells."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return time.perf_counter_ns() + int(remaining()) * 1_000_000 if remaining else 0


def _is_http(event: Any) -> bool:
    return isinstance(event, dict) and "requestContext" in event and ("rawPath" in event or "path" in event)


def _request(event: Event, arrived_ns: int) -> tuple[HttpRequest, str]:
    """The HTTP request inside an event, and its query string. Raises InvalidRequestError."""
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    for name, values in (event.get("multiValueHeaders") or {}).items():
        headers[str(name).lower()] = ", ".join(map(str, values))
    if event.get("cookies"):
        headers["cookie"] = "; ".join(event["cookies"])
    context = event["requestContext"]
    http = context.get("http") if isinstance(context, dict) else None
    if isinstance(http, dict):  # payload format 2.0
        method, path = str(http.get("method", "GET")), str(event.get("rawPath", "/"))
        query = str(event.get("rawQueryString", ""))
    else:  # payload format 1.0, and load balancers
        method, path = str(event.get("httpMethod", "GET")), str(event.get("path", "/"))
        query = _query(event)
    return HttpRequest(method, _unquoted(path), headers, _body(event), arrived_ns), query


def _body(event: Event) -> bytes:
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise InvalidRequestError("the event's body must be a string")
    if not event.get("isBase64Encoded"):
        return body.encode("utf-8", "surrogatepass")
    import base64

    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise InvalidRequestError(f"the body is not base64, and the event says that it is: {error}") from None


def _query(event: Event) -> str:
    from urllib.parse import urlencode

    many = event.get("multiValueQueryStringParameters")
    return urlencode(many or event.get("queryStringParameters") or {}, doseq=True)


def _unquoted(path: str) -> str:
    if "%" not in path:
        return path
    from urllib.parse import unquote

    return unquote(path)


def _event_response(response: HttpResponse, *, multi_value: bool) -> dict[str, Any]:
    """The response as every front end of Lambda takes it; binary bodies in base64."""
    import base64

    kind = next((value for name, value in response.headers if name == "content-type"), "")
    textual = kind.startswith(_TEXTUAL)
    body = response.body.decode() if textual else base64.b64encode(response.body).decode()
    answer: dict[str, Any] = {"statusCode": response.status, "body": body, "isBase64Encoded": not textual}
    if multi_value:  # a load balancer in this mode reads no others
        values: dict[str, list[str]] = {}
        for name, value in response.headers:
            values.setdefault(name, []).append(value)
        answer["multiValueHeaders"] = values
    else:
        answer["headers"] = dict(response.headers)
    return answer
