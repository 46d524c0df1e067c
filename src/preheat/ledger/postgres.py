"""A ledger in PostgreSQL: one function of the server for each operation, leases by the server's clock."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ..errors import LedgerError, SettingsError
from . import Claim, Claimed, InProgress, Mismatch, Pending, Record, Replay
from . import postgres_schema as schema
from .remote import Remote, first_line

if TYPE_CHECKING:
    from .postgres_connections import Connections

_PURGE_EVERY = 256


class PostgresLedger(Remote["Connections"]):
    """``postgresql://[user:password@]host[:port]/database``, with libpq's options and environment."""

    package = "psycopg"
    extra = "postgres"
    limit = 16 * 1024**2
    durability = (
        "every acknowledged outcome survives a crash of the server, with its defaults (fsync and "
        "synchronous_commit on); a failover may lose what was not replicated yet, unless replicas are "
        "synchronous"
    )

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            parse_qs(parts.query, strict_parsing=bool(parts.query))
            # Several hosts with commas between them are libpq's to read.
            port = "" if "," in parts.netloc or not parts.port else f":{parts.port}"
        except ValueError as error:
            raise SettingsError(
                f"PREHEAT_LEDGER names no PostgreSQL ledger ({error}): postgresql://user@host:port/database"
            ) from None
        hosts = parts.netloc.rpartition("@")[2] if "," in parts.netloc else f"{parts.hostname or ''}{port}"
        super().__init__(f"postgresql://{hosts}{parts.path}")
        self._url = url
        self._claims = 0

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        row = self._run("claim", key, fingerprint, fence, float(lease), float(keep), request)[0]
        kind, attempt, left, body = row
        if kind == "claimed":
            self._purge()
            return Claimed(fence, attempt, body)
        if kind == "replay":
            return Replay(body)
        return InProgress(left) if kind == "running" else Mismatch()

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        return bool(self._run("heartbeat", key, fence, float(lease))[0][0])

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        ours, stands = self._run("commit", key, fence, outcome, float(keep))[0]
        return outcome if ours else stands

    def release(self, key: str, fence: str) -> bool:
        return bool(self._run("release", key, fence)[0][0])

    def read(self, key: str) -> Record | None:
        rows = self._run("read", key)
        return Record(*rows[0]) if rows else None

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        ours, stands = self._run("cancel", key, fence, outcome, float(keep))[0]
        return outcome if ours else stands

    def remove(self, key: str) -> bool:
        return bool(self._run("remove", key)[0][0])

    def pending(self, limit: int) -> list[Pending]:
        return [Pending(*row) for row in self._run("pending", limit)]

    def init(self) -> None:
        def create(connections: Connections) -> None:
            with connections.one() as connection, connection.transaction():
                # IF NOT EXISTS alone fails where two do it at once.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext('preheat ledger'))")
                connection.execute(schema.TABLE)
                connection.execute(schema.BODIES)

        self._call(create)

    def check(self) -> None:
        rows = self._query("SELECT n FROM unnest(%s::text[]) n WHERE to_regproc(n) IS NULL", schema.FUNCTIONS)
        if rows:
            raise self._old(f"{rows[0][0]}()")
        if self._query("SELECT to_regclass('preheat_records') IS NULL")[0][0]:
            raise self._old("preheat_records")
        rights = self._query(
            "SELECT n FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) n"
            " WHERE NOT has_table_privilege('preheat_records', n)"
        )
        if rights:
            lacks = ", ".join(row[0] for row in rights)
            raise LedgerError(f"the ledger {self.name}: its user lacks {lacks} on preheat_records")

    def _old(self, what: str) -> LedgerError:
        return LedgerError(
            f"the ledger {self.name} has no {what}: run preheat ledger init, as a user that may create it",
            code="ledger_schema",
        )

    def _purge(self) -> None:
        """Now and then remove what has expired, a little at a time."""
        self._claims += 1
        if self._claims % _PURGE_EVERY == 0:
            with suppress(LedgerError):  # the claim stands
                self._run("purge", 1024)

    def _run(self, name: str, *arguments: Any) -> list[tuple[Any, ...]]:
        places = ", ".join(_PLACES[type(a)] for a in arguments)
        return self._query(
            f"SELECT * FROM preheat_{name}_{schema.SCHEMA}({places})",
            *arguments,
        )

    def _query(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        arguments = tuple(list(a) if isinstance(a, tuple) else a for a in arguments)

        def query(connections: Connections) -> list[tuple[Any, ...]]:
            with connections.one() as connection:
                return connection.execute(statement, arguments, binary=True).fetchall()

        return self._call(query)

    def _make(self) -> Connections:
        import psycopg

        from .postgres_connections import Connections

        try:
            given = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.ProgrammingError as error:
            raise SettingsError(
                f"libpq cannot read the ledger's URL {self.name}: {first_line(error)}"
            ) from None
        # psycopg's least; and a server that is up but a standby is no use.
        defaults = {"connect_timeout": 2, "target_session_attrs": "read-write", "application_name": "preheat"}
        return Connections({**defaults, **given})

    def _shut(self, client: Connections) -> None:
        client.close()

    def _said(self, error: Exception) -> tuple[str, bool] | None:
        import psycopg
        from psycopg import errors

        if isinstance(error, errors.UndefinedFunction | errors.UndefinedTable):
            raise self._old("schema of this version of Preheat") from error
        if isinstance(error, errors.InsufficientPrivilege | errors.DiskFull | errors.InvalidPassword):
            return f"refuses: {first_line(error)}", False
        if isinstance(error, errors.ReadOnlySqlTransaction):
            return f"refuses: {first_line(error)}", True  # until a failover has ended
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return f"cannot be used: {first_line(error)}", True
        return (f"refuses: {first_line(error)}", False) if isinstance(error, psycopg.Error) else None


_PLACES = {str: "%s::text", float: "%s::float8", int: "%s::int", bytes: "%s::bytea"}
