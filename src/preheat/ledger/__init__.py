"""Durable request records: who runs a key, and what came out of it.

A record is claimed, renewed by heartbeat, and committed or released. Every write after the claim is
conditional on the claim's fence, so an owner whose lease lapsed and was taken over can change nothing any
more. A store knows neither HTTP nor models: keys and fingerprints are text, outcomes are bytes.

===========  ==========================================================================================
state        meaning
===========  ==========================================================================================
(none)       nobody claimed the key, or what was known of it has expired
claimed      its owner runs, or ran: until the lease lapses nobody else may claim it
done         an outcome was committed: every later claim replays its bytes until it expires
===========  ==========================================================================================

Leases are measured by the store's clock, or by one that all its users share; never by a worker's own wall
clock. Both leases and expiry are checked by the reader: a store's own expiry (TTL) only frees space.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..errors import SettingsError


class Claimed(NamedTuple):
    """The caller owns the key until its lease lapses."""

    fence: str
    attempt: int
    """1 for the first execution of the key; one more with every claim that took over a lapsed one."""
    request: bytes
    """What the first claim stored with the record; empty for none."""


class InProgress(NamedTuple):
    """Somebody else owns the key."""

    retry_after: float
    """Seconds until that lease lapses if nobody renews it."""


class Replay(NamedTuple):
    """The key is done."""

    outcome: bytes


class Mismatch(NamedTuple):
    """The key was claimed with another fingerprint."""


Claim = Claimed | InProgress | Replay | Mismatch


class Record(NamedTuple):
    """What is known of a key."""

    fingerprint: str
    attempt: int
    lease_left: float
    """Seconds; 0 for a lapsed lease and for a record that is done."""
    outcome: bytes | None
    """None until it is done."""
    request: bytes


class Pending(NamedTuple):
    """A claimed record with a stored request whose lease lapsed: anybody may claim and run it."""

    key: str
    fingerprint: str


class Ledger(Protocol):
    """One store of records. Safe to call from several threads and processes at once.

    The client is made by the first call. Every method raises LedgerError where the store cannot be reached
    or refuses; a call whose fate is unknown (the connection broke) may be repeated with the same fence, and
    gives what the first one gave or would have given.
    """

    name: str
    """The store as messages name it, without its password."""
    durability: str
    """What an acknowledged commit survives, in one sentence."""
    limit: int
    """Largest outcome or request that one record takes, in bytes."""

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        """Claim a key for ``lease`` seconds.

        ``fence``: a token that no other claim has; the caller makes it (``new_fence``), so that a claim may
        be repeated. ``keep``: seconds after which the record is forgotten. ``request``: stored where this
        claim makes the record; a takeover leaves what is stored. A lapsed claim with another fingerprint is
        a Mismatch too.
        """
        ...

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        """Renew the lease, from now on; False where the fence no longer holds the key."""
        ...

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        """Make the record done.

        Gives the outcome that stands: the caller's own where its fence held (a lapsed lease that nobody took
        over is no obstacle), the winner's where another committed, and None where the key belongs to another
        who has not committed yet, or is no longer known.
        """
        ...

    def release(self, key: str, fence: str) -> bool:
        """Give the key up: the next claim runs it anew. A record with a stored request stays, its lease
        lapsed; any other is removed. False where the fence no longer holds the key."""
        ...

    def read(self, key: str) -> Record | None:
        """What is known of a key; None for nothing, or for what has expired."""
        ...

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        """End a claim, whoever owns it: the record is done with ``outcome``, under the caller's fence. Gives
        the outcome that stands, another's where the record was done before; None where there is no record."""
        ...

    def remove(self, key: str) -> bool:
        """Forget a record that is done; False where there is none."""
        ...

    def pending(self, limit: int) -> list[Pending]:
        """Up to ``limit`` records whose stored request waits for somebody to run it."""
        ...

    def init(self) -> None:
        """Make the table or schema, or bring it up to date. Harmless where it is there."""
        ...

    def check(self) -> None:
        """Raise LedgerError that says what is missing or old, and what to do."""
        ...

    def close(self) -> None:
        """Close the client; the next call makes another."""
        ...


def new_fence() -> str:
    """A token that no other claim has, in clones of one process too."""
    import os

    return os.urandom(16).hex()


def open_ledger(url: str, *, blobs: str = "") -> Ledger:
    """The ledger that a URL names; nothing is imported for it or connected yet.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``redis://``, ``rediss://``, ``valkey://``,
    ``postgresql://``, ``dynamodb://table``. ``blobs``: a folder, ``file://``, ``s3://``, ``gs://`` or ``az://``
    for what is too large for a record. Raises SettingsError for anything else, and where the client's package
    is not installed.
    """
    from .blobs import WithBlobs, open_place

    return WithBlobs(_store(url), open_place(blobs))


def _store(url: str) -> Ledger:
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "sqlite":
        from .sqlite import SqliteLedger

        return SqliteLedger(url)
    if separator and scheme in ("redis", "rediss", "valkey", "valkeys"):
        from .redis import RedisLedger

        return RedisLedger(url)
    if separator and scheme in ("postgresql", "postgres"):
        from .postgres import PostgresLedger

        return PostgresLedger(url)
    if separator and scheme == "dynamodb":
        from .dynamodb import DynamoLedger

        return DynamoLedger(url)
    raise SettingsError(
        "a ledger (PREHEAT_LEDGER) is sqlite:///file, redis://, rediss:// or valkey://host, "
        "postgresql://host/database or dynamodb://table" + (f", not {scheme}://" if separator else "")
    )
