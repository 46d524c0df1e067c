"""W3C Trace Context: what is taken from a client, what is passed on."""

from __future__ import annotations

import pytest

from preheat.telemetry import wanted
from preheat.trace_context import child_of, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_the_client_s_context_is_followed(flags: str, sampled: bool) -> None:
    parent = parse(f"00-{TRACE}-{SPAN}-{flags}", "a=1,b=2")
    assert parent is not None
    own = child_of(parent)
    assert (own.trace_id, own.parent_id, own.state) == (TRACE, SPAN, "a=1,b=2")
    assert own.sampled is own.parent_sampled is sampled
    assert own.span_id != SPAN
    assert own.header == f"00-{TRACE}-{own.span_id}-{'01' if sampled else '00'}"
    assert parse(own.header) is not None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse(f"cc-{TRACE}-{SPAN}-01-what-comes-after") is not None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        "00-" + "\u0665" * 32 + f"-{SPAN}-01",
    ],
)
def test_what_is_malformed_begins_a_new_trace(header: str) -> None:
    assert parse(header) is None


def test_new_traces_differ() -> None:
    assert len({child_of(None).trace_id for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "console, otlp"}, True),
    ],
)
def test_opentelemetry_s_own_variables_switch_traces_on(environ: dict[str, str], on: bool) -> None:
    assert wanted(environ) is on
