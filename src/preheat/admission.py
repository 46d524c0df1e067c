"""Who comes in, who waits, who runs, who is sent away: bounded, and fair between tenants.

A request takes a place when it comes and gives it back when it leaves; to run, it takes a turn. There are as
many turns as may run at once, and ``queue`` places more than turns. Turns go round the tenants that wait, and
within a tenant to whoever came first; while another tenant is about, none has more than half of the turns, so
that the other's next request finds one. Heavy is a tenant that has used more than half of its share of the
engine lately, or has sent a lot: it lets light ones go first, for a while, and a light one beside heavy ones
alone may have every turn. What a heavy one runs is ended for a light one, and begun again after that:
inference can be, and it costs the heavy one alone. Where every place is taken, a tenant that has more than
its share loses its newest one that waits (longest queue drop: Suter, Lakshman, Stiliadis, Choudhury 1998).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Set
from threading import Lock
from typing import Any, TypeVar

from .errors import PreemptedError, PreheatError, ShedError, TimedOutError
from .overrun import Preemptible
from .quotas import Buckets, Usage, faded

Result = TypeVar("Result")
PRESENT_S = 1.0
"""A tenant is about for as long after it sent something."""
JUST_S = 0.02
"""A request that has come is being decoded for no longer than this, as a rule, and asks for its turn then."""
YIELD_S = 0.3
"""A heavy tenant lets light ones go first for no longer than this."""
MANY = 4
"""More requests than so many for each that may run at once are a lot."""
_FULL = "the server has all the requests that it can hold"


class Place:
    """One request's place. A lock of its own wakes that request and no other."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.came = time.perf_counter()
        self.cost_s = 0.0
        """Seconds of turns that others lost when it came; none once it has asked for its own in time."""
        self.error: PreheatError | None = None
        """Why its turn will not come."""
        self.call: Any = None
        """What it wants to run; others may run it along with theirs (preheat.batching)."""
        self.model: Any = None
        """What it is to run on: calls for one are run together, never those for two."""
        self.until = 0.0
        """``time.perf_counter`` of its deadline."""
        self.outputs: Any = None
        """What came of that, where another ran it."""
        self.ran_ns = 0
        """How long that other run took."""
        self.variant = ""
        """What it ran on."""
        self.counted = 0.0
        """CPU seconds of the thread that answers it which count as used already."""
        self.runs = Preemptible(YIELD_S)
        """What ends its runs for those who go first."""
        self.spent_ns = 0
        """How long its runs took together, without what it waited between them."""
        self.preempted = 0
        """How often that happened."""
        self.began = 0.0
        """``time.perf_counter`` of its latest turn; 0: it has had none."""
        self.waiting = False
        self.given_back = False
        self._turn = Lock()
        self._turn.acquire()

    def come(self) -> None:
        self.waiting = False
        self._turn.release()

    def wait(self, seconds: float = -1) -> bool:
        """Whether the turn came in time; negative: wait for ever."""
        return self._turn.acquire(timeout=seconds)


class Admission:
    """``queue``: places beside those that run. ``rate``: requests a second that each tenant may send, 0 for
    any number; ``burst``: how many of them at once."""

    def __init__(self, queue: int, *, rate: float = 0.0, burst: int = 0) -> None:
        self.queue = queue
        self.turns = 0
        """Requests that may run at once; 0 until the start is over."""
        self._buckets = Buckets(rate, burst)
        self._usage = Usage()
        self._places: dict[str, int] = {}
        self._taken = 0
        self._lines: dict[str, deque[Place]] = {}
        self._gathering: list[str | None] = []
        self._coming: set[Place] = set()
        """Those that have not asked for their turn yet."""
        self._running: set[Place] = set()
        self._ran: dict[str, float] = {}
        """When a tenant that waits had its last turn, or began to wait."""
        self._latest, self._before = ("", 0.0), ("", 0.0)
        """The last two tenants that sent something, and when: tells whether another than one is about."""
        self._closed: PreheatError | None = None
        self._lock = Lock()

    @property
    def running(self) -> int:
        """Requests that have a turn."""
        return len(self._running)

    @property
    def taken(self) -> int:
        """Places that are taken, of running and waiting requests alike."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Requests that wait for a turn."""
        return sum(map(len, self._lines.values()))

    def alone(self, tenant: str) -> bool:
        """Whether no other tenant than this one is about."""
        return not self._others_about(tenant)

    def open(self, turns: int) -> None:
        """Let as many run at once from now on."""
        with self._lock:
            self.turns = turns
            self._hand_out()

    def close(self, error: PreheatError, *, waiting: bool) -> None:
        """Take nobody in any more; with ``waiting``, send those away who wait for a turn."""
        with self._lock:
            self._closed = error
            if waiting:
                for line in self._lines.values():
                    for place in line:
                        place.error = error
                        place.come()
                self._lines.clear()

    def enter(self, tenant: str, *, soon: bool = True) -> Place:
        """Take a place. ``soon``: it will ask for its turn as soon as it is decoded; heavy tenants' runs are
        ended for it now. Raises ShedError, ThrottledError, and what ``close`` was given."""
        with self._lock:
            if self._closed is not None:
                raise type(self._closed)(str(self._closed))  # one instance would gather tracebacks
            self._buckets.pay(tenant)
            if self._full and not self._displace(tenant):
                raise ShedError(_FULL)
            self._note(tenant)
            self._taken += 1
            self._places[tenant] = self._places.get(tenant, 0) + 1
            place = Place(tenant)
            place.cost_s = self._preempt(tenant) if soon else 0.0
            self._coming.add(place)
            return place

    def turn(self, place: Place, until: float) -> bool:
        """Wait for the place's turn; False where another has run its call meanwhile (``take``), and what came
        of it is in ``outputs``. ``until``: ``time.perf_counter`` of its deadline.

        Raises TimedOutError where that comes first, ShedError where the place was taken away, and what the
        run raised where it was another's.
        """
        tenant = place.tenant
        with self._lock:
            self._coming.discard(place)
            self._preempt(tenant)
            if place.came > time.perf_counter() - JUST_S:
                place.cost_s = 0.0
            if not self._waits(tenant):
                self._ran.setdefault(tenant, time.perf_counter())
                if self._may(tenant) and not self._yields(tenant):
                    del self._ran[tenant]
                    self._run(place)
                    return True
            self._lines.setdefault(tenant, deque()).append(place)
            place.waiting = True
        self._wait(place, until)
        return place.outputs is None

    def held(self, place: Place, until: float, run: Callable[[], Result]) -> Result:
        """What ``run`` gives, which the place has its turn for. Where that is ended for another tenant's, it
        is begun again when the place's turn comes anew, before all others of its tenant.

        Raises what ``run`` does, and TimedOutError and ShedError as ``turn``.
        """
        while True:
            try:
                return run()
            except PreemptedError:
                place.preempted += 1
                self._go_back(place, until, YIELD_S)

    def pause(self, place: Place, until: float, for_s: float) -> None:
        """Between two pieces of what the place runs: let others go first, light ones for no longer than this.
        Raises as ``held``."""
        place.runs = Preemptible(for_s)
        self._go_back(place, until, for_s)

    def _go_back(self, place: Place, until: float, for_s: float) -> None:
        """From its turn to the head of its tenant's line, behind the others', until its turn comes anew."""
        with self._lock:
            self._end(place)
            line = self._lines.pop(place.tenant, deque())
            line.appendleft(place)
            self._lines[place.tenant] = line
            place.waiting = True
            self._ran[place.tenant] = time.perf_counter() - (YIELD_S - for_s)
            self._hand_out()
        self._wait(place, until)

    def _wait(self, place: Place, until: float) -> None:
        look_s = JUST_S if place.began else YIELD_S  # for no longer is its turn kept for who has just come
        while not place.wait(max(min(until - time.perf_counter(), look_s), 0.0)):
            with self._lock:
                if place.waiting and time.perf_counter() >= until:
                    self._leave_line(place)
                    raise TimedOutError("its deadline passed before its turn came")
                if place.waiting:
                    self._hand_out()
                    continue
            place.wait()  # its turn has just come, or another runs it
            break
        if place.error is not None:
            raise place.error

    def take(self, fits: Callable[[Place], bool]) -> list[Place]:
        """Take those out of line that fit; the caller runs their calls with its own, and calls ``come``."""
        with self._lock:
            taken = [
                place for line in self._lines.values() for place in line if not place.began and fits(place)
            ]
            for place in taken:
                self._leave_line(place)
        return taken

    def gather(self, tenant: str | None, *, end: bool = False) -> None:
        """From now on, let whoever comes of a tenant (None: of any) wait in line, to be taken; until the same
        with ``end``."""
        with self._lock:
            if end:
                self._gathering.remove(tenant)
                self._hand_out()
            else:
                self._gathering.append(tenant)

    def used(self, place: Place, seconds: float) -> None:
        """A request took so much of a CPU without a turn, to be decoded, say, and may have kept the
        interpreter for as long, which all turns need."""
        place.counted += seconds
        with self._lock:
            self._usage.add(place.tenant, seconds * self.turns)

    def holds(self, tenant: str) -> bool:
        """Whether a tenant's requests are better not looked at now: it is heavy, and a light one's request
        has just come and is not answered, waits for its turn or runs."""
        with self._lock:
            recent = time.perf_counter() - JUST_S
            come = {other for other, seen in (self._latest, self._before) if seen > recent}
            return self._is_behind(tenant, come & self._places.keys())

    @property
    def half_full(self) -> bool:
        """Whether half of the places are taken."""
        return 2 * self._taken >= self.turns + self.queue

    def done(self, place: Place) -> None:
        """Give a turn back, for the next in line."""
        with self._lock:
            if place in self._running:  # else it was ended for another's, and its turn did not come again
                self._end(place)
            self._hand_out()

    def leave(self, place: Place) -> None:
        """Give the place back."""
        with self._lock:
            self._give_back(place)
            if place in self._coming:
                self._coming.discard(place)
                self._hand_out()  # what was kept for it

    def _give_back(self, place: Place) -> None:
        if place.given_back:  # it was displaced
            return
        place.given_back = True
        if place.cost_s:  # for nothing: as if it had used them itself
            self._usage.add(place.tenant, place.cost_s)
        self._taken -= 1
        left = self._places[place.tenant] - 1
        if left:
            self._places[place.tenant] = left
        else:
            del self._places[place.tenant]

    @property
    def _full(self) -> bool:
        return self._taken >= self.turns + self.queue

    def _note(self, tenant: str) -> None:
        if tenant != self._latest[0]:
            self._before = self._latest
        self._latest = (tenant, time.perf_counter())

    def _waits(self, tenant: str) -> bool:
        """Whether whoever comes now has to stand in line, although there may be a turn."""
        return tenant in self._lines or tenant in self._gathering or None in self._gathering

    def _may(self, tenant: str) -> bool:
        """Whether there is a turn for a tenant."""
        if self.running >= self.turns:
            return False
        own = sum(place.tenant == tenant for place in self._running)
        if own < (self.turns + 1) // 2 or not self._others_about(tenant):
            return True
        others = [other for other in self._places if other != tenant]
        return bool(others) and not self._heavy(tenant) and all(map(self._heavy, others))

    def _heavy(self, tenant: str) -> bool:
        """Whether a tenant has sent a lot, or used more than half of its share of the engine lately."""
        if self._places.get(tenant, 0) > MANY * self.turns:
            return True
        since = [place.began for place in self._running if place.tenant == tenant]
        return self._usage.turns(tenant, since) > self.turns / max(len(self._places), 1) / 2

    def _others_about(self, tenant: str) -> bool:
        other, seen = self._before if self._latest[0] == tenant else self._latest
        return other != tenant and time.perf_counter() < seen + PRESENT_S

    def _yields(self, tenant: str) -> bool:
        """Whether a heavy tenant lets a light one finish, or begin, first. Not for long, so that many light
        ones together hold nobody up."""
        if time.perf_counter() >= self._ran.get(tenant, 0.0) + YIELD_S:
            return False
        recent = time.perf_counter() - JUST_S
        kept = {place.tenant for place in self._coming if place.cost_s and place.came > recent}
        return self._is_behind(tenant, kept)

    def _is_behind(self, tenant: str, come: Set[str]) -> bool:
        """Whether a tenant is heavy, and a light one has a turn, waits for it or is among those that come."""
        others = {*self._lines, *(place.tenant for place in self._running), *come} - {tenant}
        return bool(others) and self._heavy(tenant) and not all(map(self._heavy, others))

    def _preempt(self, tenant: str) -> float:
        """End what heavy tenants run, where this one may go first; the seconds that they lose by that."""
        others = [place for place in self._running if place.tenant != tenant]
        if not others or self._heavy(tenant):
            return 0.0
        now = time.perf_counter()
        return sum(
            faded(now - other.began) + JUST_S
            for other in others
            if self._heavy(other.tenant) and other.runs.preempt()
        )

    def _run(self, place: Place) -> None:
        place.began = time.perf_counter()
        self._running.add(place)
        if place.tenant in self._lines:
            self._ran[place.tenant] = place.began

    def _end(self, place: Place) -> None:
        self._running.remove(place)
        self._usage.add(place.tenant, faded(time.perf_counter() - place.began))

    def _hand_out(self) -> None:
        """Wake those whose turn it is: the tenants take turns, in the order in which they began to wait."""
        while True:
            tenant = next((t for t in self._lines if self._may(t) and not self._yields(t)), None)
            if tenant is None:
                return
            line = self._lines.pop(tenant)
            place = line.popleft()
            if line:
                self._lines[tenant] = line  # behind the others
            else:
                self._ran.pop(tenant, None)
            self._run(place)
            place.come()

    def _leave_line(self, place: Place) -> None:
        line = self._lines[place.tenant]
        line.remove(place)
        place.waiting = False
        if not line:
            del self._lines[place.tenant]
            self._ran.pop(place.tenant, None)

    def _greedy(self, tenant: str) -> str | None:
        """The tenant with the most places, if one that waits can go and leave it no fewer than this one then
        has."""
        lines = [other for other, line in self._lines.items() if other != tenant and not line[-1].began]
        if not lines:  # none, or but those whose runs others may wait for
            return None
        greedy = max(lines, key=self._places.__getitem__)
        return greedy if self._places[greedy] > self._places.get(tenant, 0) + 1 else None

    def _displace(self, tenant: str) -> bool:
        """Take the newest waiting place of the greedy one; whether there is one."""
        greedy = self._greedy(tenant)
        if greedy is None:
            return False
        place = self._lines[greedy][-1]
        place.error = ShedError(f"{_FULL}, and this tenant has the most of them")
        self._leave_line(place)
        self._give_back(place)
        place.come()
        return True
