import re
import time

from preheat.phases import ColdStartReport, Phase, PhaseClock, Span, process_start_ns


def report(clock: PhaseClock) -> ColdStartReport:
    return ColdStartReport(clock, instance="i", facts={"variant": "portable"})


def test_the_process_started_before_now_and_not_long_ago() -> None:
    start = process_start_ns()
    assert start is not None
    assert 0 < time.perf_counter_ns() - start < 3600e9


def test_phases_are_timed_with_their_attributes() -> None:
    clock = PhaseClock()
    with clock.phase(Phase.COMPILE) as attributes:
        time.sleep(0.01)
        attributes["variant"] = "mapped"
    document = report(clock).to_dict()
    compiled = next(p for p in document["phases"] if p["phase"] == "compile")
    assert compiled["duration_ms"] >= 10
    assert compiled["attributes"] == {"variant": "mapped"}
    assert document["phases"][0]["phase"] == "platform"
    assert document["phases"][0]["start_ms"] == 0


def test_what_no_phase_covers_is_told_and_overlap_counts_once() -> None:
    clock = PhaseClock()
    clock.origin_ns = 0
    clock.spans = [
        Span(Phase.PLATFORM, 0, 10_000_000, {}),
        Span(Phase.IMPORT, 20_000_000, 60_000_000, {}),
        Span(Phase.DOWNLOAD, 30_000_000, 70_000_000, {}),
    ]
    made = report(clock)
    made.ready_ns = 80_000_000
    assert made.total_ms == 80
    assert made.unaccounted_ms == 20


def test_the_first_request_counts_from_readiness_where_it_waited() -> None:
    made = report(PhaseClock())
    before = made.server_timing()
    made.first_request(made.ready_ns - 1_000_000)
    span = made.spans[-1]
    assert span.phase is Phase.FIRST_REQUEST
    assert span.begin_ns == made.ready_ns
    assert "first_request" not in before
    assert re.search(r"first_request;dur=\d+\.\d{3}, total;dur=\d+\.\d{3}$", made.server_timing())
