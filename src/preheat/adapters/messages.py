"""A request and a response as every door and every route knows them, whatever carried them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..admission import Place

Headers = list[tuple[str, str]]


class Sender:
    """Who sends the requests that have one and the same head: what is in it tells."""

    def __init__(self) -> None:
        self.tenant: str | None = None
        """None until it is looked up."""


class HttpRequest(NamedTuple):
    method: str
    path: str
    """Decoded, without the query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    arrived_ns: int
    """``perf_counter_ns`` when its last byte had come."""
    principal: str = ""
    """Who sends it, where the platform has verified that; never what a header says."""
    deadline_ns: int = 0
    """``perf_counter_ns`` at which its time is up, as the platform or the client says; 0: none."""
    place: Place | None = None
    """The place that it has already, taken for it by its door, which gives it back; None: it has none yet."""
    sender: Sender | None = None
    """What those with this very head share; None where they share nothing."""


class HttpResponse(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def add_header(headers: dict[str, str], name: bytes, value: bytes) -> None:
    """Put a header, its name in lower case, among those of a request; a repeated one is joined with commas
    (RFC 9110, 5.3)."""
    key, text = name.decode("latin-1"), value.decode("latin-1")
    headers[key] = f"{headers[key]}, {text}" if key in headers else text
