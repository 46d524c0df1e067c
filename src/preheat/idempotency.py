"""One execution for each key, by the ledger: claim, run while the lease is renewed, commit what stands.

Knows neither HTTP nor models. A key's work may run more than once where its owner died or its lease lapsed;
one outcome is committed, and everybody gets that one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Condition, Thread
from typing import TYPE_CHECKING, NamedTuple

from .errors import InProgressError, LedgerError, UnprocessableError
from .ledger import Claimed, InProgress, Ledger, Mismatch, Replay, new_fence

if TYPE_CHECKING:
    from .ledger import Claim

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25


class Result(NamedTuple):
    outcome: bytes
    replayed: bool
    """Whether another execution than this caller's gave it."""
    attempt: int
    """Which execution of the key this caller ran; 0 where it ran none under the key."""
    degraded: bool
    """Whether it ran without its key, or was not recorded, because the ledger is down."""


class Idempotency:
    """``lease``: seconds after which the key of an owner that died may be taken over. ``keep``: seconds for
    which outcomes are replayed. ``down``: ``fail`` or ``open``, what happens while the ledger cannot be
    reached."""

    def __init__(self, ledger: Ledger, *, lease: float, keep: float, down: str = "fail") -> None:
        self.ledger = ledger
        self.lease = lease
        self.keep = keep
        self.down = down
        self._heart = Heart(ledger, lease)

    def run(self, key: str, fingerprint: str, work: Callable[[], bytes], *, wait: float = 0.0) -> Result:
        """Give the key's outcome: replayed where there is one, else that of ``work``, committed.

        ``wait``: seconds to wait for another execution of the key that runs now. Raises InProgressError where
        that does not end in time, UnprocessableError for a key that was used with another fingerprint,
        LedgerError where the ledger is down, and what ``work`` raises, with the key given up.
        """
        patience = Patience(wait)
        fence, again = new_fence(), False
        while True:
            asked = time.monotonic()
            try:
                claim = self.claim(key, fingerprint, fence)
            except LedgerError as error:
                if self.down != "open":
                    raise
                _warn(error)
                return Result(work(), False, 0, True)
            if isinstance(claim, Claimed):
                if time.monotonic() - asked >= self.lease and not again:
                    again = True  # frozen meanwhile: it may be another's by now
                    continue
                return self._finish(key, fence, claim.attempt, work, patience)
            if isinstance(claim, Replay):
                return Result(claim.outcome, True, 0, False)
            if isinstance(claim, Mismatch):
                raise mismatch()
            if not patience.pause(claim.retry_after):
                raise in_progress(claim)

    def close(self) -> None:
        """Give up every key that is held, and close the client."""
        self._heart.stop()
        self.ledger.close()

    def claim(self, key: str, fingerprint: str, fence: str, request: bytes = b"") -> Claim:
        """Claim a key; ``request`` is recorded with it, for whoever takes it over. Raises LedgerError."""
        return self.ledger.claim(key, fingerprint, fence, lease=self.lease, keep=self.keep, request=request)

    def hold(self, key: str, fence: str) -> None:
        """Renew the lease of a claimed key until ``finish`` or ``give_up``."""
        self._heart.hold(key, fence)

    def finish(self, key: str, fence: str, attempt: int, work: Callable[[], bytes]) -> Result:
        """Run a claimed key's work and commit it. Raises what ``run`` raises."""
        return self._finish(key, fence, attempt, work, Patience(0.0))

    def give_up(self, key: str, fence: str) -> None:
        """Let go of a claimed key, for the next claim to run."""
        self._heart.drop(key, fence)
        try:
            self.ledger.release(key, fence)
        except LedgerError as error:
            _warn(error)  # the lease lapses by itself

    def _finish(
        self, key: str, fence: str, attempt: int, work: Callable[[], bytes], patience: Patience
    ) -> Result:
        self._heart.hold(key, fence)
        try:
            outcome = work()
        except BaseException:
            self.give_up(key, fence)
            raise
        try:
            stands = self.ledger.commit(key, fence, outcome, keep=self.keep)
        except LedgerError as error:
            if self.down != "open":
                raise
            _warn(error)
            return Result(outcome, False, attempt, True)
        finally:
            self._heart.drop(key, fence)
        while stands is None:  # the lease lapsed, and who took the key over has not committed yet
            record = self.ledger.read(key)
            if record is not None:
                stands = record.outcome
            if stands is None and (record is None or not patience.pause(record.lease_left)):
                raise InProgressError(
                    "the lease of this request lapsed while it ran, and another execution of its key has not "
                    "ended yet: send it again",
                    retry_after=1,
                )
        return Result(stands, stands != outcome, attempt, False)


def mismatch() -> UnprocessableError:
    return UnprocessableError(
        "this Idempotency-Key was used with another request: send another key, or the same request",
        code="idempotency_key_reused",
    )


def in_progress(claim: InProgress) -> InProgressError:
    return InProgressError(
        "a request with this Idempotency-Key runs: send it again later, or with 'Prefer: wait=N'",
        retry_after=max(1, min(round(claim.retry_after), 5)),
    )


class Patience:
    """How long a caller waits for another execution, and how often it looks."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE_S

    def pause(self, lapses_in: float) -> bool:
        """Sleep a little, at most until the other's lease lapses; False where patience is at its end."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(max(min(self._pause, left, lapses_in + 0.001), 0.001))
        self._pause = min(self._pause * 1.5, _LONGEST_PAUSE_S)
        return True


class Heart:
    """Renews the leases of every key that this process holds, from one thread, which the first key starts."""

    def __init__(self, ledger: Ledger, lease: float) -> None:
        self._ledger = ledger
        self._lease = lease
        self._period = lease / 3
        self._due: dict[tuple[str, str], float] = {}
        self._until: dict[tuple[str, str], float] = {}
        self._changed = Condition()
        self._thread: Thread | None = None
        self._stopped = False

    def hold(self, key: str, fence: str, *, limit: float | None = None) -> None:
        """Renew from now on; with ``limit``, for at most that many seconds."""
        with self._changed:
            if limit is not None:
                self._until[key, fence] = time.monotonic() + limit
            self._due[key, fence] = time.monotonic() + self._period
            if self._thread is None or not self._thread.is_alive():
                self._stopped = False
                self._thread = Thread(target=self._beat, name="preheat-leases", daemon=True)
                self._thread.start()
            elif len(self._due) == 1:
                self._changed.notify()  # it sleeps until there is something to do

    def drop(self, key: str, fence: str) -> None:
        with self._changed:
            self._due.pop((key, fence), None)
            self._until.pop((key, fence), None)

    def stop(self) -> None:
        """Give up what is held; whoever runs under it still commits if nobody takes the key over first."""
        with self._changed:
            held, self._due, self._until, self._stopped = list(self._due), {}, {}, True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join(1.0)  # a snapshot that follows has no such thread in it
        for key, fence in held:
            try:
                self._ledger.release(key, fence)
            except LedgerError as error:
                _warn(error)

    def _beat(self) -> None:
        while True:
            with self._changed:
                while not self._stopped:
                    now = time.monotonic()
                    for held in [held for held, until in self._until.items() if until <= now]:
                        del self._until[held], self._due[held]
                    due = [held for held, at in self._due.items() if at <= now]
                    if due:
                        break
                    self._changed.wait(min(self._due.values()) - now if self._due else None)
                else:
                    return
                for held in due:
                    self._due[held] = now + self._period
            for key, fence in due:
                try:
                    lost = not self._ledger.heartbeat(key, fence, lease=self._lease)
                except LedgerError as error:
                    _warn(error)  # the next beat tries again
                else:
                    if lost:
                        self.drop(key, fence)


def _warn(error: LedgerError) -> None:
    print(f"warning: {error}", file=sys.stderr, flush=True)  # noqa: T201
