"""A sample's state, outcome and times come from the answer's own words."""

from __future__ import annotations

from typing import Any

import pytest

from preheat.load.samples import UNKNOWN, sample, timings

COLD = (
    "platform;dur=29.3, import;dur=48.7, import;dur=10.3, compile;dur=8.7, first_request;dur=9.6, "
    "total;dur=236.6, wait;dur=157.5, run;dur=9.0"
)


def seen(headers: dict[str, str] | None = None, **fields: Any) -> Any:
    raw = {
        "number": 1,
        "at": 2.0,
        "sent": 2.001,
        "head": 2.25,
        "end": 2.251,
        "status": 200,
        "error": "",
        "detail": "",
        "headers": headers or {},
        "attempt": 0,
        "final": True,
        "key": "",
        **fields,
    }
    return sample(raw, "step", fields.pop("asked", "any"), False, 10.0, "local")


def test_server_timing_is_read_by_its_grammar() -> None:
    assert timings(COLD) == {
        "platform": 29.3,
        "import": 59.0,
        "compile": 8.7,
        "first_request": 9.6,
        "wait": 157.5,
        "run": 9.0,
    }
    assert timings("") == timings("run;dur=x") == timings(",,;") == {}


def test_client_and_server_times_are_kept_apart() -> None:
    one = seen({"server-timing": COLD, "x-preheat-start": "cold", "x-preheat-instance": "i7"})
    assert (one.at_s, one.lag_ms, one.client_ms, one.head_ms) == (12.0, 1.0, 251.0, 249.0)
    assert one.server_ms == pytest.approx(166.5)
    assert one.outside_ms == pytest.approx(251 - 1 - 166.5)
    assert (one.start, one.instance, one.outcome) == ("cold", "i7", "ok")


def test_a_state_is_never_guessed_from_latency() -> None:
    slow = seen({"content-type": "application/json"}, end=62.0, head=61.0)
    assert slow.client_ms == 60_000
    assert slow.start == UNKNOWN
    assert slow.server_ms is slow.outside_ms is None
    assert seen({"x-preheat-start": "lukewarm"}).start == UNKNOWN


@pytest.mark.parametrize(
    ("asked", "start", "as_asked"),
    [
        ("any", "warm", True),
        ("cold", "cold", True),
        ("cold", "restored", True),
        ("cold", "warm", False),
        ("warm", "cold", False),
        ("cold", "", False),
        ("warm", "", False),
    ],
)
def test_a_sample_in_another_state_than_asked_is_told_apart(asked: str, start: str, as_asked: bool) -> None:
    assert seen({"x-preheat-start": start})._replace(asked=asked).as_asked is as_asked


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, {}, "ok"),
        (503, {"x-preheat-outcome": "shed"}, "shed"),
        (429, {}, "throttled"),
        (503, {}, "unavailable"),
        (504, {}, "timed_out"),
        (500, {}, "failed"),
        (422, {}, "rejected"),
        (302, {"location": "https://elsewhere/"}, "redirected"),
        (200, {"content-type": "text/html; charset=utf-8"}, "html"),
        (404, {"content-type": "text/html"}, "rejected"),
    ],
)
def test_outcomes_by_class(status: int, headers: dict[str, str], outcome: str) -> None:
    assert seen(headers, status=status).outcome == outcome


def test_what_a_gateway_says_and_what_failed_here() -> None:
    assert seen({"x-envoy-upstream-service-time": "12"}).gateway_ms == 12
    refused = seen(status=0, error="refused", detail="Connection refused")
    assert (refused.outcome, refused.error, refused.good) == ("refused", "Connection refused", False)
