"""Each rule on histories written by hand: what is in order passes, each violation is found."""

from __future__ import annotations

import pytest

from .checker import Rule, Verdict, check
from .history import Event, Kind

LEASE = 1.0


def e(at: float, who: str, kind: Kind, fence: str = "", value: str = "", began: float = 0.0) -> Event:
    return Event(at, who, kind, "key", fence, value, began or at - 0.01)


def rules(*events: Event) -> set[Rule]:
    return {violation.rule for violation in verdict(*events).violations}


def verdict(*events: Event) -> Verdict:
    return check(sorted(events), lease=LEASE)


def owner(at: float, who: str, fence: str, attempt: int = 1) -> list[Event]:
    """A claim that was granted, and its execution, which would give the outcome ``o-fence``."""
    return [
        e(at - 0.02, who, Kind.CLAIMING, fence),
        e(at, who, Kind.CLAIMED, fence, str(attempt)),
        e(at + 0.001, who, Kind.STARTED, fence, f"o-{fence}"),
    ]


def commit(at: float, who: str, fence: str, stands: str | None) -> list[Event]:
    """A commit, and what it gave."""
    sent = e(at - 0.01, who, Kind.COMMITTING, fence, f"o-{fence}")
    if stands is None:
        return [sent, e(at, who, Kind.COMMIT_REFUSED, fence)]
    return [sent, e(at, who, Kind.COMMITTED, fence, f"o-{stands}")]


def told(*outcomes: str, final: str | None = None) -> list[Event]:
    """What clients were told, one after the other, and what was read when all was over."""
    answers = [e(90 + n, "c1", Kind.ACKNOWLEDGED, value=f"o-{o}") for n, o in enumerate(outcomes)]
    return [*answers, e(99, "supervisor", Kind.FINAL, value=f"o-{final}" if final else "")]


ONE = [*owner(1, "w1", "A"), *commit(1.1, "w1", "A", "A")]
"""A key's plain life."""
DIES = [*owner(1, "w1", "A"), e(1.1, "w1", Kind.KILLED, value="running")]
LAPSES = [*owner(1, "w1", "A"), *owner(2.2, "w2", "B", 2)]
"""The second owner claims after the first one's lease."""


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([*ONE, e(2, "w2", Kind.REPLAY, "B", "o-A"), *told("A", "A", final="A")], id="replayed"),
        pytest.param([*DIES, *owner(2.05, "w2", "B", 2), *commit(2.1, "w2", "B", "B")], id="taken over"),
        pytest.param(
            [*LAPSES, *commit(2.3, "w2", "B", "B"), *commit(2.4, "w1", "A", "B")], id="lost a commit"
        ),
        pytest.param([*LAPSES, *commit(2.3, "w1", "A", None), *commit(2.4, "w2", "B", "B")], id="refused"),
        pytest.param([*owner(1, "w1", "A"), *commit(3, "w1", "A", "A")], id="lapsed, and nobody came"),
        pytest.param(
            [*LAPSES, e(2.3, "w1", Kind.RENEWAL_REFUSED, "A"), *commit(2.4, "w2", "B", "B")],
            id="renewed late",
        ),
        pytest.param(
            [
                *owner(1, "w1", "A"),
                e(1.1, "w1", Kind.RAISED, "A", "o-A"),
                e(1.1, "w1", Kind.RELEASING, "A"),
                e(1.12, "w1", Kind.RELEASED, "A"),
                *owner(1.2, "w2", "B"),
                *commit(1.3, "w2", "B", "B"),
                *told("B", final="B"),
            ],
            id="raised, and run again at once",
        ),
        pytest.param(
            [
                # Granted at 1.0, and heard at 2.5, when another had the key already.
                e(0.9, "w1", Kind.CLAIMING, "A"),
                e(2.5, "w1", Kind.CLAIMED, "A", "1", 0.9),
                e(2.51, "w1", Kind.STARTED, "A", "o-A"),
                *owner(2.2, "w2", "B", 2),
                *commit(2.4, "w2", "B", "B"),
                *commit(2.6, "w1", "A", "B"),
            ],
            id="a claim whose answer came too late",
        ),
        pytest.param(
            [
                *owner(1, "w1", "A"),
                e(1.1, "w1", Kind.COMMITTING, "A", "o-A"),
                e(1.2, "w1", Kind.COMMIT_FAILED, "A"),
                e(1.3, "w2", Kind.REPLAY, "B", "o-A"),
                *told("A", final="A"),
            ],
            id="a commit that was done though it failed",
        ),
    ],
)
def test_in_order(events: list[Event]) -> None:
    assert rules(*events) == set()


def test_two_outcomes() -> None:
    assert Rule.TWO_OUTCOMES in rules(*LAPSES, *commit(2.3, "w1", "A", "A"), *commit(2.4, "w2", "B", "B"))


@pytest.mark.parametrize(
    "events",
    [
        [*LAPSES, *commit(2.3, "w2", "B", "B"), *told("B", "A", final="B")],
        [*LAPSES, e(3, "w3", Kind.REPLAY, "C", "o-A"), e(4, "w3", Kind.REPLAY, "D", "o-B")],
    ],
)
def test_replays_that_differ(events: list[Event]) -> None:
    assert Rule.REPLAYS_DIFFER in rules(*events)


@pytest.mark.parametrize(
    "write",
    [
        commit(2.4, "w1", "A", "A"),
        [e(2.4, "w1", Kind.RENEWED, "A")],
        [e(2.4, "w1", Kind.RELEASING, "A"), e(2.41, "w1", Kind.RELEASED, "A")],
    ],
    ids=["commit", "heartbeat", "release"],
)
def test_stale_writes(write: list[Event]) -> None:
    assert Rule.STALE_WRITE in rules(*LAPSES, *write)


def test_a_write_beside_the_takeover_may_have_come_first() -> None:
    # Sent before the other's claim was answered, so that the store may have taken it before that.
    late = [e(2.15, "w1", Kind.COMMITTING, "A", "o-A"), e(2.4, "w1", Kind.COMMITTED, "A", "o-A", 2.15)]
    assert Rule.STALE_WRITE not in rules(*LAPSES, *late)


def test_a_lease_that_is_taken_too_early() -> None:
    assert rules(*owner(1, "w1", "A"), *owner(1.5, "w2", "B", 2)) == {Rule.LEASE_BROKEN, Rule.EXECUTIONS}
    renewed = [*owner(1, "w1", "A"), e(1.8, "w1", Kind.RENEWED, "A"), *owner(2.2, "w2", "B", 2)]
    assert Rule.LEASE_BROKEN in rules(*renewed)
    assert Rule.LEASE_BROKEN in rules(*DIES, *owner(1.6, "w2", "B", 2))


def test_a_lease_that_is_far_too_long() -> None:
    assert rules(*ONE, e(1.05, "w2", Kind.IN_PROGRESS, "B", "60.0")) == {Rule.LEASE_BROKEN}
    assert rules(*ONE, e(1.05, "w2", Kind.IN_PROGRESS, "B", "0.95")) == set()


def test_lost_outcomes() -> None:
    assert rules(*ONE, *told("A")) == {Rule.LOST}
    assert Rule.LOST in rules(*ONE, *owner(5, "w2", "B"), *commit(5.1, "w2", "B", "B"), *told("A", final="B"))


def test_outcomes_that_nobody_made() -> None:
    assert rules(*ONE, *told("A", "X", final="A")) == {Rule.INVENTED, Rule.REPLAYS_DIFFER, Rule.LOST}


def test_another_payload() -> None:
    assert rules(*ONE, e(2, "c1", Kind.ANSWERED_OTHER, value="o-A")) == {Rule.OTHER_PAYLOAD}


def test_executions_without_a_cause() -> None:
    again = [*ONE, *owner(5, "w2", "B", 1), *commit(5.1, "w2", "B", "A")]
    assert rules(*again) == {Rule.EXECUTIONS}
    # One crash accounts for one more execution, not for two.
    twice = [*DIES, *owner(2.05, "w2", "B", 2), *commit(2.06, "w2", "B", "B"), *owner(2.07, "w3", "C", 3)]
    assert Rule.EXECUTIONS in rules(*twice)
    assert verdict(*DIES, *owner(2.05, "w2", "B", 2)).repeated == {"killed": 1}


def test_recovery() -> None:
    def asked(until: float) -> list[Event]:
        """Others that ask all the time, and are refused."""
        times = [1.2 + n * 0.1 for n in range(int((until - 1.2) / 0.1))]
        return [
            event
            for at in times
            for event in (
                e(at, "w9", Kind.CLAIMING, "Z"),
                e(at + 0.01, "w9", Kind.IN_PROGRESS, "Z", "0.5"),
            )
        ]

    assert verdict(*DIES, *asked(2), *owner(2.05, "w2", "B", 2)).recoveries == [pytest.approx(0.95)]
    assert rules(*DIES, *asked(3.9), *owner(4, "w2", "B", 2)) == {Rule.RECOVERY}
    unasked = verdict(*DIES, *owner(4, "w2", "B", 2))
    assert (unasked.recoveries, unasked.unclear, unasked.violations) == ([], 1, [])
    away = [e(1.5, "s", Kind.DOWN, value="store"), e(3.2, "s", Kind.UP, value="store")]
    outage = verdict(*DIES, *asked(3.9), *away, *owner(4, "w2", "B", 2))
    assert (outage.unclear, outage.violations) == (1, [])


def test_keys_do_not_mix() -> None:
    other = [event._replace(key="other", value=event.value.replace("o-A", "o-Z")) for event in ONE]
    assert rules(*ONE, *other) == set()
    assert verdict(*ONE, *other).keys == 2
