"""What a history proves: pure functions from events to violations.

A call's effect lies somewhere between its sending and its return, so every rule takes the bound that speaks
for the store: nothing is reported that could have come about in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import permutations
from typing import NamedTuple

from .history import Event, Kind, by_key

CLOCK_S = 0.005
"""How far a store that counts in milliseconds may be off."""
ASKED_S = 0.5
"""A key is kept asking for where no longer than this passes between two claims."""


class Rule(StrEnum):
    TWO_OUTCOMES = "two committed outcomes"
    REPLAYS_DIFFER = "replays that differ"
    STALE_WRITE = "stale owner's write accepted"
    LEASE_BROKEN = "lease taken before it lapsed, or far too long"
    LOST = "acknowledged outcome lost"
    INVENTED = "outcome of no execution"
    OTHER_PAYLOAD = "another payload answered"
    EXECUTIONS = "execution without a crash or lapse before it"
    RECOVERY = "recovery later than lease + margin"


class Violation(NamedTuple):
    rule: Rule
    key: str
    detail: str


@dataclass
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    keys: int = 0
    executions: int = 0
    repeated: dict[str, int] = field(default_factory=dict)
    """Executions that did not end a key, by cause: killed, lapsed, raised, store failed."""
    takeovers: int = 0
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a crash until another's claim of the key succeeded."""
    unclear: int = 0
    """Crashed keys whose recovery is held against the bound, at most, but is no figure: the store was away
    meanwhile, a claim that nobody knows of may have held the key, or nobody asked when it was free."""


@dataclass
class Owner:
    """One fence's hold of a key."""

    fence: str
    who: str
    began: float
    """When its last claim was sent."""
    granted: float
    """When that claim's answer arrived."""
    renewals: list[float] = field(default_factory=list)
    """When each renewal that the store accepted was sent, the claim included."""
    gave_up: float | None = None
    """When the first commit or release was sent."""
    closed: bool = False
    """Whether a commit or release returned, accepted or not."""
    failed: bool = False
    """Whether the last commit or release failed for the store's sake."""


class Execution(NamedTuple):
    fence: str
    who: str
    started: float
    outcome: str
    raised: bool


def check(events: list[Event], *, lease: float, margin: float = 1.0) -> Verdict:
    """Hold a history against every rule. ``lease`` in seconds; ``margin``: what recovery may take beyond."""
    verdict = Verdict()
    deaths = {event.who: event.at for event in events if event.kind is Kind.KILLED}
    outages = _outages(events)
    for key, happened in by_key(events).items():
        owners = _owners(happened)
        executions = _executions(happened)
        committed = {event.value for event in happened if event.kind in (Kind.COMMITTED, Kind.REPLAY)}
        verdict.keys += 1
        verdict.executions += len(executions)
        verdict.takeovers += sum(e.kind is Kind.CLAIMED and e.value not in ("", "1") for e in happened)
        for found in (
            _outcomes(happened, executions),
            _stale_writes(happened, owners),
            _broken_leases(happened, owners, lease, margin),
            _count(executions, owners, deaths, committed, lease, verdict),
            _recovery(happened, owners, deaths, outages, lease, margin, verdict),
        ):
            verdict.violations += [Violation(rule, key, detail) for rule, detail in found]
    return verdict


Found = list[tuple[Rule, str]]


def _outcomes(happened: list[Event], executions: list[Execution]) -> Found:
    found: Found = []
    seen: dict[Kind, list[str]] = {}
    for event in happened:
        seen.setdefault(event.kind, []).append(event.value)
    committed = set(seen.get(Kind.COMMITTED, []))
    acknowledged = set(seen.get(Kind.ACKNOWLEDGED, []))
    replayed = acknowledged | set(seen.get(Kind.REPLAY, []))
    if len(committed) > 1:
        found.append((Rule.TWO_OUTCOMES, f"{sorted(committed)}"))
    if len(replayed) > 1:
        found.append((Rule.REPLAYS_DIFFER, f"{sorted(replayed)}"))
    if acknowledged and set(seen.get(Kind.FINAL, [""])) != acknowledged:
        found.append((Rule.LOST, f"acknowledged {sorted(acknowledged)}, read {seen.get(Kind.FINAL)}"))
    made = {execution.outcome for execution in executions}
    if (committed | replayed) - made:
        found.append((Rule.INVENTED, f"{sorted((committed | replayed) - made)}"))
    if Kind.ANSWERED_OTHER in seen:
        found.append((Rule.OTHER_PAYLOAD, f"{seen[Kind.ANSWERED_OTHER]}"))
    return found


def _owners(happened: list[Event]) -> list[Owner]:
    """Who held the key, in the order of claims; a claim that is repeated counts from its last answer."""
    owners: dict[str, Owner] = {}
    for event in happened:
        if event.kind is Kind.CLAIMED:
            owner = owners.get(event.fence)
            if owner is None:
                owner = owners[event.fence] = Owner(event.fence, event.who, event.began, event.at)
            owner.began, owner.granted = event.began, event.at
            owner.renewals.append(event.began)
            continue
        owner = owners.get(event.fence)
        if owner is None:
            continue
        if event.kind is Kind.RENEWED:
            owner.renewals.append(event.began)
        elif event.kind in (Kind.COMMITTING, Kind.RELEASING):
            owner.gave_up = owner.gave_up or event.at
        elif event.kind in (Kind.COMMIT_FAILED, Kind.RELEASE_FAILED):
            owner.closed, owner.failed = True, True
        elif event.kind in (Kind.COMMITTED, Kind.COMMIT_REFUSED, Kind.RELEASED, Kind.RELEASE_REFUSED):
            owner.closed, owner.failed = True, False
    return sorted(owners.values(), key=lambda owner: owner.granted)


def _stale_writes(happened: list[Event], owners: list[Owner]) -> Found:
    """Writes that were sent after another's later claim had been answered, and were accepted."""
    found: Found = []
    own: dict[str, str] = {}
    holding: dict[str, Owner] = {owner.fence: owner for owner in owners}
    for event in happened:
        if event.kind is Kind.COMMITTING:
            own[event.fence] = event.value
        accepted = event.kind in (Kind.RENEWED, Kind.RELEASED) or (
            event.kind is Kind.COMMITTED and event.value == own.get(event.fence)
        )
        owner = holding.get(event.fence)
        if not accepted or owner is None:
            continue
        later = [
            o for o in owners if o.began >= owner.granted and o.granted <= event.began and o is not owner
        ]
        if later:
            found.append((Rule.STALE_WRITE, f"{event.kind} by {owner.who} after {later[0].who} had claimed"))
    return found


def _broken_leases(happened: list[Event], owners: list[Owner], lease: float, margin: float) -> Found:
    """Claims that were granted while another's lease still ran. It runs from its renewal's effect, so at
    least until ``lease`` after that was sent."""
    found: Found = []
    for before, after in permutations(owners, 2):
        if after.began < before.granted or (before.gave_up is not None and before.gave_up < after.granted):
            continue
        last = max(sent for sent in before.renewals if sent < after.granted)
        left = last + lease - after.granted
        if left > CLOCK_S:
            found.append(
                (Rule.LEASE_BROKEN, f"{after.who} claimed {left:.3f} s before {before.who}'s lapsed")
            )
    for event in happened:
        told = float(event.value) if event.kind is Kind.IN_PROGRESS else 0.0
        if told > lease + margin + event.at - event.began:  # it may have been right when it was asked
            found.append((Rule.LEASE_BROKEN, f"{event.who} was told that it lapses in {event.value} s"))
    return found


def _executions(happened: list[Event]) -> list[Execution]:
    raised = {event.value for event in happened if event.kind is Kind.RAISED}
    return [
        Execution(event.fence, event.who, event.at, event.value, event.value in raised)
        for event in happened
        if event.kind is Kind.STARTED
    ]


def _count(
    executions: list[Execution],
    owners: list[Owner],
    deaths: dict[str, float],
    stands: set[str],
    lease: float,
    verdict: Verdict,
) -> Found:
    """Every execution beyond the first needs one before it that a crash, a lapse, its own failure or the
    store's ended without an outcome; each of those accounts for one."""
    fences = {owner.fence: owner for owner in owners}
    causes: list[str] = []
    for execution in executions:
        owner = fences.get(execution.fence)
        lapse = (max(owner.renewals) if owner else execution.started) + lease - CLOCK_S
        # Where an engine tells of no claims, the next execution stands for the next claim.
        others = [o.granted for o in owners if o is not owner] or [
            e.started for e in executions if e is not execution
        ]
        if execution.raised:
            causes.append("raised")
        elif execution.who in deaths and not (owner and owner.closed):
            causes.append("killed")
        elif owner and owner.failed:
            causes.append("store failed")
        elif execution.outcome not in stands and any(granted >= lapse for granted in others):
            causes.append("lapsed")
    extra = len(executions) - 1
    for cause in causes[: max(extra, 0)]:
        verdict.repeated[cause] = verdict.repeated.get(cause, 0) + 1
    if extra > len(causes):
        return [(Rule.EXECUTIONS, f"{len(executions)} executions, causes {causes}")]
    return []


def _recovery(
    happened: list[Event],
    owners: list[Owner],
    deaths: dict[str, float],
    outages: list[tuple[float, float]],
    lease: float,
    margin: float,
    verdict: Verdict,
) -> Found:
    found: Found = []
    unanswered = {event.fence: event for event in happened if event.kind in _CLAIMS}
    for owner in owners:
        died = deaths.get(owner.who)
        if died is None or owner.closed or owner.granted > died:
            continue
        after = [e for e in happened if e.at > died and e.kind in (Kind.CLAIMED, Kind.REPLAY)]
        if not after or after[0].kind is Kind.REPLAY or owner.who == after[0].who:
            continue  # its commit was done, though nobody heard; or it was never taken over
        again = after[0]
        # The key is free a lease after the last moment at which somebody unseen may have claimed it.
        moments = [died]
        moments += [e.at for e in happened if e.kind is Kind.CLAIM_FAILED]
        moments += [deaths[e.who] for e in unanswered.values() if e.kind is Kind.CLAIMING and e.who in deaths]
        moments += [up for down, up in outages if down < again.at]
        free = max(moment for moment in moments if died <= moment < again.at)
        took = again.at - free
        late = took > lease + margin
        refused = [e.at for e in happened if e.kind is Kind.IN_PROGRESS and free <= e.at <= again.began]
        asked = again.began - max(refused, default=free) <= ASKED_S
        unseen = any(e.began < again.began and e.at > again.at for e in after if e.kind is Kind.CLAIMED)
        if free == died and asked and not unseen:
            verdict.recoveries.append(took)
        else:
            verdict.unclear += 1
        if late and asked and not unseen:
            found.append((Rule.RECOVERY, f"{took:.2f} s after {owner.who} died"))
    return found


_CLAIMS = (
    Kind.CLAIMING,
    Kind.CLAIMED,
    Kind.IN_PROGRESS,
    Kind.REPLAY,
    Kind.MISMATCH,
    Kind.CLAIM_FAILED,
)


def _outages(events: list[Event]) -> list[tuple[float, float]]:
    """When the store was away, from each kill until it answered again; and when a worker was frozen: it may
    have held a lock of the store's."""
    found: list[tuple[float, float]] = []
    began: dict[str, float] = {}
    for event in events:
        if event.kind in (Kind.DOWN, Kind.FROZEN):
            began[event.value] = event.at
        elif event.kind in (Kind.UP, Kind.THAWED):
            found.append((began.pop(event.value), event.at))
    return found
