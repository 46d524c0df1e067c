"""Requests as they are seen from outside, over HTTP: one outcome each, by route, and what a span says of it.

The outcome that is counted is read from the response's own header, so the two agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..metrics import OTHER
from ..telemetry import Observation

if TYPE_CHECKING:
    from ..service import Service
    from .messages import HttpRequest, HttpResponse

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNKNOWN = "_OTHER"
"""OpenTelemetry's word for a method that is none of HTTP's."""
_PROBES = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Asked every few seconds by machines: counted, but neither traced nor logged."""
SCRAPE_WAIT_S = 5.0
"""Seconds that a scrape waits for the start to end: importing prometheus_client beside it would slow it."""


def observed(
    service: Service, request: HttpRequest, route: str, answer: Callable[[], HttpResponse]
) -> HttpResponse:
    """The answer to a request, counted, timed and told."""
    seen = began(service, request, route)
    before = service.telemetry.look_at(seen)
    try:
        response = answer()
    finally:
        service.telemetry.look_at(before)
    return told(service, seen, request, response)


def began(service: Service, request: HttpRequest, route: str) -> Observation:
    """A request to a route is looked at from now on."""
    method, quiet = known_method(request.method), route in _PROBES
    return service.telemetry.begin(method, route, request.arrived_ns, request.headers, quiet=quiet)


def told(service: Service, seen: Observation, request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Its answer, counted, timed and told."""
    if seen.traced:
        response.headers.append(traceresponse(seen))
        describe(seen, request.path, request.headers)
    close(service, seen, response.status, response.headers, quiet=seen.route in _PROBES)
    return response


def refused(service: Service, response: HttpResponse) -> HttpResponse:
    """Count a request that reached no route: unreadable, too large, or one connection too many."""
    seen = service.telemetry.begin(_UNKNOWN, OTHER, time.perf_counter_ns(), {}, quiet=True)
    close(service, seen, response.status, response.headers, quiet=True)
    return response


def metrics(service: Service, request: HttpRequest) -> tuple[bytes, str]:
    """The exposition, and its content type. Raises NotFoundError where prometheus_client is not installed."""
    service.settled(SCRAPE_WAIT_S)
    from ..exposition import render

    return render(service, request.headers.get("accept", ""))


def close(
    service: Service,
    seen: Observation,
    status: int,
    headers: list[tuple[str, str]],
    *,
    quiet: bool = False,
) -> None:
    """Count and tell it, with the outcome and the start that the response's headers name."""
    seen.status = status
    for name, value in headers:
        if name == "x-preheat-outcome":
            seen.outcome = value
        elif name == "x-preheat-start":
            seen.start = value
    if status >= 500:
        seen.error = str(status)
    if seen.traced:
        seen.attributes["http.response.status_code"] = status
    service.telemetry.end(seen, quiet=quiet)


def describe(seen: Observation, path: str, headers: Mapping[str, str]) -> None:
    """OpenTelemetry's conventions for HTTP servers (1.23 and later)."""
    seen.attributes = {
        "http.request.method": seen.method,
        "url.path": path,
        "url.scheme": headers.get("x-forwarded-proto", "http"),
    }
    if seen.route != OTHER:
        seen.attributes["http.route"] = seen.route
    for attribute, header in (("server.address", "host"), ("user_agent.original", "user-agent")):
        if header in headers:
            seen.attributes[attribute] = headers[header]


def traceresponse(seen: Observation) -> tuple[str, str]:
    """The header that names the request's own span (W3C Trace Context 2)."""
    assert seen.trace is not None  # noqa: S101 - asked for what is traced
    return "traceresponse", seen.trace.header


def known_method(method: str) -> str:
    """A method as a label: one of HTTP's, or the word for all others."""
    return method if method in _METHODS else _UNKNOWN
