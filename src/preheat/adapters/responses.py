"""Answers and errors as HTTP responses: the one place where errors become statuses."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .. import errors
from .messages import Headers, HttpResponse

if TYPE_CHECKING:
    from ..answer import Answer
    from ..service import Service

DEFECT = "the server or its task met a defect; its log has it"
_STATUS: dict[type, tuple[int, str]] = {
    errors.NotFoundError: (404, "rejected"),
    errors.TooLargeError: (413, "rejected"),
    errors.UnsupportedMediaError: (415, "rejected"),
    errors.UnprocessableError: (422, "rejected"),
    errors.UnauthenticatedError: (401, "rejected"),
    errors.ForbiddenError: (403, "rejected"),
    errors.CancelledError: (410, "rejected"),
    errors.RequestError: (400, "rejected"),
    errors.InProgressError: (409, "in_progress"),
    errors.ThrottledError: (429, "throttled"),
    errors.TimedOutError: (504, "timed_out"),
    errors.LedgerError: (503, "unavailable"),
    errors.FailedStartError: (503, "unavailable"),
    errors.UnavailableError: (503, "shed"),
}


def from_error(service: Service, error: errors.PreheatError) -> HttpResponse:
    """The response for an error of the tree."""
    status, outcome = _status(type(error))
    extra = {}
    if isinstance(error, errors.UnavailableError):
        extra["retry-after"] = str(error.retry_after)
    if status == 401:
        extra["www-authenticate"] = "Bearer"
    return error_response(service, status, error.code, str(error), outcome, **extra)


def _status(kind: type) -> tuple[int, str]:
    """The status and the outcome of an error's class, or of the nearest that it is one of."""
    return next((_STATUS[one] for one in kind.__mro__ if one in _STATUS), (500, "failed"))


def replayed(service: Service, answer: Answer | errors.PreheatError) -> HttpResponse:
    """The response for an outcome that was recorded before."""
    response = recorded(service, answer)
    response.headers.append(("x-preheat-replayed", "true"))
    return response


def recorded(service: Service, answer: Answer | errors.PreheatError) -> HttpResponse:
    """The response for an outcome: the answer, or the refusal that is recorded as an answer is."""
    if isinstance(answer, errors.PreheatError):
        return from_error(service, answer)
    headers = [("content-type", answer.content_type), *answer.headers, *own(service)]
    return HttpResponse(200, headers, answer.body)


def own(service: Service, outcome: str = "ok") -> Headers:
    """The headers that every response has."""
    return [("x-preheat-instance", service.instance), ("x-preheat-outcome", outcome)]


def as_json(service: Service, status: int, document: Any, *extra: tuple[str, str]) -> HttpResponse:
    """The response that is a document; ``extra``: further headers."""
    outcome = "ok" if status == 200 else "unavailable"
    headers = [("content-type", "application/json"), *own(service, outcome), *extra]
    return HttpResponse(status, headers, json.dumps(document).encode())


def error_response(
    service: Service, status: int, code: str, message: str, outcome: str, **extra: str
) -> HttpResponse:
    """The response that says what is wrong; ``extra``: further headers."""
    headers = [("content-type", "application/json"), *own(service, outcome=outcome), *extra.items()]
    return HttpResponse(status, headers, _error_body(message, code))


@lru_cache(maxsize=16)  # under a flood it is the same one again and again
def _error_body(message: str, code: str) -> bytes:
    return json.dumps({"error": message, "code": code}).encode()
