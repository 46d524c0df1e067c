"""SQLite ledgers with one defect each, which a run must find."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from preheat.ledger import Claim, Ledger
from preheat.ledger.sqlite import SqliteLedger


class UnconditionalCommit(SqliteLedger):
    """The last owner to commit wins, whatever was committed before."""

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._finish("key = :key", key, fence, outcome, keep)


class OwnOutcome(SqliteLedger):
    """The loser of a commit is told that its own outcome stands."""

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        super().commit(key, fence, outcome, keep=keep)
        return outcome


class UnfencedRelease(SqliteLedger):
    """Whoever fails gives up the key, whoever holds it."""

    def release(self, key: str, fence: str) -> bool:
        with self._transaction() as run:
            done = run("DELETE FROM records WHERE key = :key AND outcome IS NULL", {"key": key})
            return bool(done.rowcount)


class UnfencedHeartbeat(SqliteLedger):
    """Any owner renews the lease, its own or another's, and believes that it holds it."""

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        with self._transaction() as run:
            done = run(
                "UPDATE records SET fence = :fence, lease = :now + :lease"
                " WHERE key = :key AND outcome IS NULL",
                {"key": key, "fence": fence, "lease": lease},
            )
            return bool(done.rowcount)


class WallClock(SqliteLedger):
    """Leases count on each worker's own wall clock."""

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with super()._transaction() as run:
            yield lambda statement, values: run(statement, {**values, "now": time.time()})


class ForgetfulCommit(SqliteLedger):
    """Now and then an outcome is acknowledged and never written."""

    _commits = 0

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        self._commits += 1
        if self._commits % 20 == 0:
            return outcome
        return super().commit(key, fence, outcome, keep=keep)


class LongLease(SqliteLedger):
    """A claim holds the key for three seconds longer than it was asked to."""

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        return super().claim(key, fingerprint, fence, lease=lease + 3.0, keep=keep, request=request)


BROKEN: dict[str, Callable[[str], Ledger]] = {
    "broken-unconditional-commit": UnconditionalCommit,
    "broken-own-outcome": OwnOutcome,
    "broken-unfenced-release": UnfencedRelease,
    "broken-unfenced-heartbeat": UnfencedHeartbeat,
    "broken-wall-clock": WallClock,
    "broken-forgetful-commit": ForgetfulCommit,
    "broken-long-lease": LongLease,
}
