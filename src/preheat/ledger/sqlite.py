"""The embedded ledger: one SQLite file on a local disk, shared by the processes of one host.

Leases and expiry count on the host's boot-time clock, which no clock change moves. A lease does not outlive
the boot; an outcome does, and then expires by the wall clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from ..errors import LedgerError, SettingsError
from . import Claim, Claimed, InProgress, Mismatch, Pending, Record, Replay
from .forks import ForkAware

if TYPE_CHECKING:
    from sqlite3 import Connection

SCHEMA = 2
_TABLE = """
CREATE TABLE records (
    key TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    fence TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    boot TEXT NOT NULL,      -- the boot whose clock lease and until count on
    lease REAL NOT NULL,     -- seconds of CLOCK_BOOTTIME; 0: given up, or done
    until REAL NOT NULL,     -- when it expires, in seconds of CLOCK_BOOTTIME
    expires REAL NOT NULL,   -- the same in seconds since the epoch, for later boots
    outcome BLOB,
    request BLOB NOT NULL
) WITHOUT ROWID
"""
_INDEXES = (
    "CREATE INDEX records_expires ON records (expires)",
    "CREATE INDEX records_pending ON records (key) WHERE outcome IS NULL AND length(request) > 0",
)
_UPGRADES = {
    0: (_TABLE, *_INDEXES),
    1: (  # it had no `until`
        "ALTER TABLE records RENAME TO records_1",
        _TABLE,
        "INSERT INTO records SELECT key, fingerprint, fence, attempt, boot, lease, :now + expires - :wall,"
        " expires, outcome, request FROM records_1",
        "DROP TABLE records_1",
        *_INDEXES,
    ),
}
"""What makes the present schema of an older one, or of an empty file."""
_LIVE = "(boot = :boot AND lease > :now)"
_LEFT = "max(lease - :now, 0.0) * (boot = :boot)"
_FRESH = "(CASE WHEN boot = :boot THEN until > :now ELSE expires > :wall END)"
_KNOWN = f"({_FRESH} OR {_LIVE})"
_HELD = "key = :key AND fence = :fence AND outcome IS NULL"
_KEPT = "boot = :boot, until = :now + :keep, expires = :wall + :keep"
_BUSY_S = 5.0
_PURGE_EVERY = 256
_ADVICE = {
    "SQLITE_CORRUPT": "it is damaged: move it away, a new one is made; what it recorded is lost",
    "SQLITE_NOTADB": "it is no SQLite file: name another file, or move it away",
    "SQLITE_FULL": "its disk is full",
    "SQLITE_READONLY": "it, or its folder, may not be written",
    "SQLITE_CANTOPEN": "it, or its folder, may not be opened or made",
    "SQLITE_PERM": "it, or its folder, may not be written",
    "SQLITE_BUSY": f"another process held it for {_BUSY_S:g} s",
    "SQLITE_IOERR": "its disk failed or is full",
}


class SqliteLedger(ForkAware):
    """``sqlite:///path``; ``?synchronous=full`` syncs every commit to the disk."""

    limit = 256 * 1024**2

    def __init__(self, url: str) -> None:
        place, _, query = url.removeprefix("sqlite://").partition("?")
        options = parse_qs(query)
        self._synchronous = options.pop("synchronous", ["normal"])[-1].lower()
        if (
            options
            or self._synchronous not in ("normal", "full")
            or not place.startswith("/")
            or place.endswith("/")
        ):
            raise SettingsError(
                f"PREHEAT_LEDGER={url} names no SQLite ledger: sqlite:///relative/file, "
                "sqlite:////absolute/file, with ?synchronous=normal or full"
            )
        super().__init__()
        self.path = os.path.abspath(unquote(place[1:]))
        self.name = self.path
        self.durability = "an acknowledged outcome survives a crash of any process" + (
            " and of the host" if self._synchronous == "full" else "; a power failure may take the last ones"
        )
        self._connection: Connection | None = None
        self._file = (0, 0)
        self._boot = ""
        self._claims = 0

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        with self._transaction() as run:
            values = {"key": key, "fence": fence, "fingerprint": fingerprint, "lease": lease, "keep": keep}
            row = run(
                f"SELECT fingerprint, fence, attempt, {_LEFT}, outcome, request FROM records"
                f" WHERE key = :key AND {_KNOWN}",
                values,
            ).fetchone()
            if row is None:
                run(
                    "REPLACE INTO records VALUES (:key, :fingerprint, :fence, 1, :boot, :now + :lease,"
                    " :now + :keep, :wall + :keep, NULL, :request)",
                    values | {"request": request},
                )
                self._purge(run)
                return Claimed(fence, 1, request)
            had, holder, attempt, left, outcome, stored = row
            if had != fingerprint:
                return Mismatch()
            if outcome is not None:
                return Replay(outcome)
            if holder != fence:
                if left > 0:
                    return InProgress(left)
                attempt += 1
            run(
                f"UPDATE records SET fence = :fence, attempt = :attempt, lease = :now + :lease, {_KEPT}"
                " WHERE key = :key",
                values | {"attempt": attempt},
            )
            return Claimed(fence, attempt, stored)

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        with self._transaction() as run:
            # After another boot `until` counts on another clock: it is turned over with the lease.
            done = run(
                "UPDATE records SET"
                " until = CASE WHEN boot = :boot THEN until ELSE :now + expires - :wall END,"
                f" boot = :boot, lease = :now + :lease WHERE {_HELD} AND lease > 0",
                {"key": key, "fence": fence, "lease": lease},
            )
            return bool(done.rowcount)

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._finish(_HELD, key, fence, outcome, keep)

    def release(self, key: str, fence: str) -> bool:
        held = {"key": key, "fence": fence}
        with self._transaction() as run:
            if run(f"UPDATE records SET lease = 0 WHERE {_HELD} AND length(request) > 0", held).rowcount:
                return True
            return bool(run(f"DELETE FROM records WHERE {_HELD}", held).rowcount)

    def read(self, key: str) -> Record | None:
        with self._transaction() as run:
            row = run(
                f"SELECT fingerprint, attempt, {_LEFT}, outcome, request FROM records"
                f" WHERE key = :key AND {_KNOWN}",
                {"key": key},
            ).fetchone()
        return None if row is None else Record(*row)

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._finish(f"key = :key AND outcome IS NULL AND {_KNOWN}", key, fence, outcome, keep)

    def remove(self, key: str) -> bool:
        with self._transaction() as run:
            return bool(
                run(
                    f"DELETE FROM records WHERE key = :key AND outcome IS NOT NULL AND {_FRESH}", {"key": key}
                ).rowcount
            )

    def pending(self, limit: int) -> list[Pending]:
        with self._transaction() as run:
            rows = run(
                "SELECT key, fingerprint FROM records WHERE outcome IS NULL AND length(request) > 0"
                f" AND NOT {_LIVE} AND {_FRESH} LIMIT :limit",
                {"limit": limit},
            ).fetchall()
        return [Pending(*row) for row in rows]

    def init(self) -> None:
        with self._transaction():
            pass

    def check(self) -> None:
        if not os.path.exists(self.path):
            raise LedgerError(
                f"there is no ledger {self.path}: preheat ledger init or the first keyed request makes it",
                code="ledger_schema",
            )
        with self._transaction() as run:
            found = run("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise LedgerError(f"the ledger {self.path} cannot be used: {_ADVICE['SQLITE_CORRUPT']}")

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _finish(self, condition: str, key: str, fence: str, outcome: bytes, keep: float) -> bytes | None:
        with self._transaction() as run:
            done = run(
                f"UPDATE records SET outcome = :outcome, fence = :fence, lease = 0, {_KEPT}"
                f" WHERE {condition}",
                {"key": key, "fence": fence, "outcome": outcome, "keep": keep},
            )
            if done.rowcount:
                return outcome
            row = run(f"SELECT outcome FROM records WHERE key = :key AND {_KNOWN}", {"key": key}).fetchone()
            return row[0] if row else None

    def _purge(self, run: Any) -> None:
        """Now and then remove what has expired, a little at a time."""
        self._claims += 1
        if self._claims % _PURGE_EVERY == 0:
            run(
                "DELETE FROM records WHERE key IN (SELECT key FROM records"
                f" WHERE expires <= :wall AND NOT {_KNOWN} LIMIT 1024)",
                {},
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """``execute`` inside one write transaction, with :now, :wall and :boot beside what it is given.
        Raises LedgerError for whatever SQLite refuses."""
        import sqlite3  # 20 ms that a request without a key does not pay

        with self._lock:
            try:
                connection = self._connect(sqlite3)
                connection.execute("BEGIN IMMEDIATE")
                clocks = self._clocks()  # after the lock, which may have taken a while
                try:
                    yield lambda statement, values=clocks: connection.execute(statement, clocks | values)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    self._disconnect()  # the next call looks at the file anew
                name = getattr(error, "sqlite_errorname", "")
                advice = next((words for code, words in _ADVICE.items() if name.startswith(code)), "")
                raise LedgerError(
                    f"the ledger {self.path} cannot be used: {advice or error}"
                    + (f" ({error})" if advice else "")
                ) from error

    def _connect(self, sqlite3: Any) -> Connection:
        if self._connection is not None and self._file == _identity(self.path):
            return self._connection
        self._disconnect()  # somebody removed or replaced the file: nobody else reads that one any more
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                self._boot = file.read().strip()
        except OSError as error:
            raise LedgerError(f"the ledger {self.path} cannot be made: {error.strerror}") from error
        connection: Connection = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection, sqlite3)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, _identity(self.path)
        return connection

    def _prepare(self, connection: Connection, sqlite3: Any) -> None:
        """Journal and schema. Many processes may do this at once; SQLite does not wait for a lock here."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
                version: int = connection.execute("PRAGMA user_version").fetchone()[0]
                if version in _UPGRADES:
                    connection.execute("BEGIN IMMEDIATE")
                    version = connection.execute("PRAGMA user_version").fetchone()[0]
                    for statement in _UPGRADES.get(version, ()):
                        connection.execute(statement, self._clocks() if ":now" in statement else {})
                    version = SCHEMA if version in _UPGRADES else version
                    connection.execute(f"PRAGMA user_version = {version}")
                    connection.execute("COMMIT")
                break
            except sqlite3.Error as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if version != SCHEMA:
            raise LedgerError(
                f"the ledger {self.path} has schema {version}; this version of Preheat knows {SCHEMA}: "
                "name another file in PREHEAT_LEDGER, or run the Preheat that made it",
                code="ledger_schema",
            )

    def _clocks(self) -> dict[str, float | str]:
        """One clock for all processes, whatever becomes of the wall clock; and that one, for later boots."""
        return {
            "now": time.clock_gettime(time.CLOCK_BOOTTIME),
            "wall": time.time(),
            "boot": self._boot,
        }

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _before_fork(self) -> None:
        """SQLite's locks belong to the process: a connection that lived on in a child, even unused, would let
        the child believe that it holds its parent's, and the file be cleared away under it."""
        self._disconnect()


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino
