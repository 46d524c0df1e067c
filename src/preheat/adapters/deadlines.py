"""How long a client waits for its answer: ``x-preheat-timeout``, and gRPC's ``grpc-timeout``.

Both are relative, so that no two clocks need agree; the time counts from the request's arrival. Source of the
second one's form: gRPC over HTTP/2, "Requests": at most eight digits and a unit.
"""

from __future__ import annotations

import re

from ..errors import InvalidRequestError
from .messages import HttpRequest

SECONDS, GRPC = "x-preheat-timeout", "grpc-timeout"
_SECONDS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,9})?")
_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_NS = {"H": 3600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}


def shortest(request: HttpRequest) -> int:
    """``perf_counter_ns`` at which the first of its times is up: those of its headers, and the platform's.

    0 where it has none. Raises InvalidRequestError for a header that is malformed.
    """
    found = [request.deadline_ns] if request.deadline_ns else []
    header = request.headers.get(SECONDS)
    if header is not None:
        if not _SECONDS.fullmatch(header):
            raise InvalidRequestError(
                f"{SECONDS} must be seconds as a decimal number, 2.5 say, and be sent once; not {header!r}",
                code="timeout_malformed",
            )
        found.append(request.arrived_ns + int(float(header) * 1e9))
    header = request.headers.get(GRPC)
    if header is not None:
        parts = _GRPC.fullmatch(header)
        if parts is None:
            raise InvalidRequestError(
                f"{GRPC} must be at most eight digits and a unit of H, M, S, m, u, n: 2500m is 2.5 seconds; "
                f"not {header!r}",
                code="timeout_malformed",
            )
        found.append(request.arrived_ns + int(parts[1]) * _UNIT_NS[parts[2]])
    return min(found, default=0)
