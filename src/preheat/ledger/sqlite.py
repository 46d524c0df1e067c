"""The embedded ledger: one SQLite file, shared by the processes of one host.

Leases count on the host's boot-time clock, which no clock change moves; a lease does not outlive the boot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from ..errors import LedgerError, SettingsError
from . import Claim, Claimed, InProgress, Mismatch, Pending, Record, Replay

if TYPE_CHECKING:
    from sqlite3 import Connection

SCHEMA = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    fence TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    boot TEXT NOT NULL,      -- the boot whose clock the lease counts on
    lease REAL NOT NULL,     -- seconds of CLOCK_BOOTTIME
    expires REAL NOT NULL,   -- seconds since the epoch
    outcome BLOB,
    request BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_expires ON records (expires);
CREATE INDEX IF NOT EXISTS records_pending ON records (key) WHERE outcome IS NULL AND length(request) > 0;
"""
_BUSY_S = 5.0
_PURGE_EVERY = 256


class SqliteLedger:
    """``sqlite:///path``; ``?synchronous=full`` syncs every commit to the disk."""

    def __init__(self, url: str) -> None:
        place, _, query = url.removeprefix("sqlite://").partition("?")
        options = parse_qs(query)
        self._synchronous = options.pop("synchronous", ["normal"])[-1].lower()
        if (
            options
            or self._synchronous not in ("normal", "full")
            or not place.startswith("/")
            or place == "/"
        ):
            raise SettingsError(
                f"{url!r} names no SQLite ledger: sqlite:///relative/file, sqlite:////absolute/file, with "
                "?synchronous=normal or full"
            )
        self.path = os.path.abspath(unquote(place[1:]))
        self.limit = 256 * 1024**2
        self.durability = "an acknowledged outcome survives a crash of any process" + (
            " and of the host" if self._synchronous == "full" else "; a power failure may take the last ones"
        )
        self._lock = Lock()
        self._connection: Connection | None = None
        self._pid = 0
        self._boot = ""
        self._claims = 0

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        with self._transaction() as run:
            now, wall = _boot_clock(), time.time()
            row = self._row(run, key, now, wall)
            if row is None:
                run(
                    "REPLACE INTO records VALUES (?, ?, ?, 1, ?, ?, ?, NULL, ?)",
                    (key, fingerprint, fence, self._boot, now + lease, wall + keep, request),
                )
                self._purge(run, wall)
                return Claimed(fence, 1, request)
            had, holder, attempt, left, outcome, stored = row
            if had != fingerprint:
                return Mismatch()
            if outcome is not None:
                return Replay(outcome)
            if holder == fence:
                return Claimed(fence, attempt, stored)
            if left > 0:
                return InProgress(left)
            run(
                "UPDATE records SET fence = ?, attempt = ?, boot = ?, lease = ?, expires = ? WHERE key = ?",
                (fence, attempt + 1, self._boot, now + lease, wall + keep, key),
            )
            return Claimed(fence, attempt + 1, stored)

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        with self._transaction() as run:
            done = run(
                "UPDATE records SET boot = ?, lease = ? WHERE key = ? AND fence = ? AND outcome IS NULL",
                (self._boot, _boot_clock() + lease, key, fence),
            )
            return bool(done.rowcount)

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        with self._transaction() as run:
            done = run(
                "UPDATE records SET outcome = ?, lease = 0, expires = ?"
                " WHERE key = ? AND fence = ? AND outcome IS NULL",
                (outcome, time.time() + keep, key, fence),
            )
            return outcome if done.rowcount else self._outcome(run, key)

    def release(self, key: str, fence: str) -> bool:
        held = (key, fence)
        with self._transaction() as run:
            kept = run(
                "UPDATE records SET lease = 0"
                " WHERE key = ? AND fence = ? AND outcome IS NULL AND length(request) > 0",
                held,
            )
            if kept.rowcount:
                return True
            return bool(
                run("DELETE FROM records WHERE key = ? AND fence = ? AND outcome IS NULL", held).rowcount
            )

    def read(self, key: str) -> Record | None:
        with self._transaction() as run:
            row = self._row(run, key, _boot_clock(), time.time())
        if row is None:
            return None
        fingerprint, _, attempt, left, outcome, request = row
        return Record(fingerprint, attempt, left, outcome, request)

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        with self._transaction() as run:
            done = run(
                "UPDATE records SET outcome = ?, fence = ?, lease = 0, expires = ?"
                " WHERE key = ? AND outcome IS NULL",
                (outcome, fence, time.time() + keep, key),
            )
            return outcome if done.rowcount else self._outcome(run, key)

    def remove(self, key: str) -> bool:
        with self._transaction() as run:
            return bool(run("DELETE FROM records WHERE key = ? AND outcome IS NOT NULL", (key,)).rowcount)

    def pending(self, limit: int) -> list[Pending]:
        with self._transaction() as run:
            rows = run(
                "SELECT key, fingerprint FROM records WHERE outcome IS NULL AND length(request) > 0"
                " AND (lease <= ? OR boot != ?) AND expires > ? LIMIT ?",
                (_boot_clock(), self._boot, time.time(), limit),
            ).fetchall()
        return [Pending(*row) for row in rows]

    def init(self) -> None:
        with self._transaction():
            pass

    def check(self) -> None:
        self.init()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _row(self, run: Any, key: str, now: float, wall: float) -> tuple[Any, ...] | None:
        """fingerprint, fence, attempt, seconds left of the lease, outcome, request; None for what expired."""
        row = run(
            "SELECT fingerprint, fence, attempt, boot, lease, expires, outcome, request FROM records"
            " WHERE key = ?",
            (key,),
        ).fetchone()
        if row is None:
            return None
        fingerprint, fence, attempt, boot, lease, expires, outcome, request = row
        left = max(lease - now, 0.0) if boot == self._boot and outcome is None else 0.0
        if expires <= wall and not left:
            return None
        return fingerprint, fence, attempt, left, outcome, request

    def _outcome(self, run: Any, key: str) -> bytes | None:
        row = run("SELECT outcome FROM records WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _purge(self, run: Any, wall: float) -> None:
        """Now and then remove what has expired, a little at a time."""
        self._claims += 1
        if self._claims % _PURGE_EVERY == 0:
            run(
                "DELETE FROM records WHERE key IN"
                " (SELECT key FROM records WHERE expires <= ? AND (outcome IS NOT NULL OR lease = 0)"
                " LIMIT 1024)",
                (wall,),
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """``execute`` inside one write transaction. Raises LedgerError for whatever SQLite refuses."""
        import sqlite3  # 20 ms that a request without a key does not pay

        with self._lock:
            try:
                connection = self._connect(sqlite3)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection.execute
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise LedgerError(f"the ledger {self.path} cannot be used: {error}") from error

    def _connect(self, sqlite3: Any) -> Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection  # a forked child must not use its parent's
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                self._boot = file.read().strip()
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} cannot be made: {error}") from error
        connection: Connection = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise LedgerError(
                    f"the ledger {self.path} has schema {version}; this version of Preheat knows {SCHEMA}: "
                    "name another file in PREHEAT_LEDGER, or run the newer Preheat"
                )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_TABLE} PRAGMA user_version = {SCHEMA}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        return connection


def _boot_clock() -> float:
    """Seconds since the host booted, sleep included; the same for every process of the host."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
