"""HTTP inside Lambda events: an event to a request, a response to what the front end takes.

Three shapes: payload format 2.0 (Function URLs, API Gateway HTTP APIs), payload format 1.0 (API Gateway REST
APIs) and a load balancer's. Source: AWS Lambda developer guide, "Invoking Lambda functions using …" for each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidRequestError, TooLargeError
from .messages import Headers, HttpRequest, HttpResponse
from .routes import match

Event = Mapping[str, Any]

INVOCATION_BYTES = 6 * 1024**2
"""What Lambda takes as the event or the result of a synchronous invocation, as JSON."""
BALANCER_BYTES = 1024**2
"""What a load balancer takes of either."""

_TEXTUAL = ("text/", "application/json", "application/javascript", "application/xml")


def is_http(event: Any) -> bool:
    """Whether an event carries an HTTP request."""
    return isinstance(event, dict) and "requestContext" in event and ("rawPath" in event or "path" in event)


def deadline_ns(context: Any) -> int:
    """``perf_counter_ns`` at which Lambda ends the invocation; 0 where no context tells."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return time.perf_counter_ns() + int(remaining()) * 1_000_000 if remaining else 0


def foreign(event: Any) -> str:
    """The AWS service whose event this is, where it is one that brings no inference; empty for a direct
    invocation."""
    if not isinstance(event, dict):
        return ""
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else None
    if isinstance(first, dict):
        source = str(first.get("eventSource") or first.get("EventSource") or "")
        return "" if source == "aws:sqs" else source
    if "detail-type" in event:
        return str(event.get("source") or "EventBridge")
    if "requestContext" in event:
        return "an API Gateway web socket, or of another front end without a path,"
    return "a Lambda authorizer" if "methodArn" in event or "routeArn" in event else ""


def request_of(event: Event, arrived_ns: int, max_bytes: int) -> tuple[HttpRequest, str]:
    """The HTTP request inside an event, and its query string.

    ``max_bytes``: the largest body. Raises InvalidRequestError for an event that is not as documented,
    TooLargeError before a body over the limit is decoded.
    """
    context = _mapping(event, "requestContext")
    http = _mapping(context, "http")
    headers = _headers(event)
    if http or event.get("version") == "2.0":
        method, path = http.get("method", "GET"), event.get("rawPath", "/")
        query = event.get("rawQueryString") or ""
    else:
        method, path, query = event.get("httpMethod", "GET"), event.get("path", "/"), _query(event, context)
    if not isinstance(method, str) or not isinstance(path, str) or not isinstance(query, str):
        raise InvalidRequestError("the event's method, path and query must be strings")
    path = _without_stage(_unquoted(path) or "/", context)
    return HttpRequest(method.upper(), path, headers, _body(event, max_bytes), arrived_ns), query


def event_response(response: HttpResponse, event: Event) -> dict[str, Any]:
    """The response as the front end of ``event`` takes it; binary bodies in base64.

    Raises TooLargeError where it is more than Lambda or the load balancer passes on.
    """
    import base64

    kind = next((value for name, value in response.headers if name == "content-type"), "")
    encoded = any(name == "content-encoding" for name, _ in response.headers)
    body, textual = "", kind.startswith(_TEXTUAL) and not encoded
    if textual:
        try:
            body = response.body.decode()
        except UnicodeDecodeError:  # another charset than UTF-8
            textual = False
    if not textual:
        body = base64.b64encode(response.body).decode()
    answer: dict[str, Any] = {"statusCode": response.status, "body": body, "isBase64Encoded": not textual}
    context = event.get("requestContext")
    balancer = isinstance(context, Mapping) and "elb" in context
    _put_headers(answer, response.headers, event, balancer=balancer)
    held_against_limit(answer, len(body), BALANCER_BYTES if balancer else INVOCATION_BYTES)
    return answer


def held_against_limit(answer: Any, length: int, limit: int = INVOCATION_BYTES) -> None:
    """Raises TooLargeError where an answer with a body of ``length`` is over ``limit`` bytes as JSON.

    Beyond the limit Lambda itself fails the invocation, and tells the client nothing. Escapes can make a body
    six times as long, so that only large ones need to be encoded for it.
    """
    if length * 6 + 65536 > limit and (size := len(json.dumps(answer))) > limit:
        raise TooLargeError(
            f"the answer takes {size} bytes and {limit} can be passed on: send fewer inputs at a time, or "
            "ask /v2 for the outputs that you need, as binary data",
            code="answer_too_large",
        )


def _put_headers(answer: dict[str, Any], headers: Headers, event: Event, *, balancer: bool) -> None:
    cookies = [value for name, value in headers if name == "set-cookie"]
    if "multiValueHeaders" in event:
        values: dict[str, list[str]] = {}
        for name, value in headers:
            values.setdefault(name, []).append(value)
        answer["multiValueHeaders"] = values  # a load balancer in this mode reads no others
        return
    joined: dict[str, str] = {}
    for name, value in headers:
        if name != "set-cookie":
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
    if not balancer and "httpMethod" not in event:  # payload format 2.0
        if cookies:
            answer["cookies"] = cookies
    elif balancer:
        # One value a name: names that differ in case alone are different keys here and one header there.
        joined.update(zip(_cases("set-cookie"), cookies, strict=False))
    elif cookies:
        answer["multiValueHeaders"] = {"set-cookie": cookies}
    answer["headers"] = joined


def _cases(name: str) -> list[str]:
    """Spellings of a header's name, a capital in another place each."""
    letters = [i for i, letter in enumerate(name) if letter.isalpha()]
    return [name, *(name[:i] + name[i].upper() + name[i + 1 :] for i in letters), name.upper()]


def _mapping(record: Event, name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise InvalidRequestError(f"the event's {name} must be an object")
    return value or {}


def _headers(event: Event) -> dict[str, str]:
    headers = {name.lower(): str(value) for name, value in _mapping(event, "headers").items()}
    for name, values in _mapping(event, "multiValueHeaders").items():
        if not isinstance(values, list):
            raise InvalidRequestError("the event's multiValueHeaders must hold lists")
        separator = "; " if name.lower() == "cookie" else ", "
        headers[name.lower()] = separator.join(map(str, values))
    cookies = event.get("cookies")
    if cookies:
        if not isinstance(cookies, list):
            raise InvalidRequestError("the event's cookies must be a list")
        headers["cookie"] = "; ".join(map(str, cookies))
    return headers


def _body(event: Event, max_bytes: int) -> bytes:
    body = event.get("body") or ""
    if not isinstance(body, str):
        raise InvalidRequestError("the event's body must be a string")
    limit = min(max_bytes, INVOCATION_BYTES)
    encoded = bool(event.get("isBase64Encoded"))
    if len(body) // 4 * 3 - 3 > limit if encoded else len(body) > limit:
        raise TooLargeError(f"the body is larger than {limit} bytes")
    if not encoded:
        return body.encode("utf-8", "surrogatepass")
    import base64

    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise InvalidRequestError(f"the body is not base64, and the event says that it is: {error}") from None


def _query(event: Event, context: Mapping[str, Any]) -> str:
    pairs = _mapping(event, "multiValueQueryStringParameters") or _mapping(event, "queryStringParameters")
    many = [
        (name, v) for name, value in pairs.items() for v in (value if isinstance(value, list) else [value])
    ]
    if "elb" in context:  # a load balancer passes on what it was sent, encoded as it was
        return "&".join(f"{name}={value}" for name, value in many)
    from urllib.parse import urlencode

    return urlencode(many)


def _without_stage(path: str, context: Mapping[str, Any]) -> str:
    """The path without the stage, which an HTTP API puts before it unless it is ``$default``."""
    stage = context.get("stage")
    prefix = f"/{stage}"
    if not context.get("http") or not stage or stage == "$default" or match(path):
        return path
    return path[len(prefix) :] or "/" if path == prefix or path.startswith(f"{prefix}/") else path


def _unquoted(path: str) -> str:
    if "%" not in path:
        return path
    from urllib.parse import unquote

    return unquote(path)
