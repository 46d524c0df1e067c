"""A ledger in Redis or Valkey: one script for each operation, leases by the server's clock.

All keys carry one hash tag, so they lie in one slot: a cluster's proxy may stand before it, but the cluster's
own redirections are not followed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ..errors import LedgerError, SettingsError
from . import Claim, Claimed, InProgress, Mismatch, Pending, Record, Replay
from . import redis_scripts as scripts
from .remote import CALL_S, Remote, first_line

if TYPE_CHECKING:
    from redis import Redis

_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}


class RedisLedger(Remote["Redis"]):
    """``redis://[user:password@]host[:port]/[database]``, ``rediss://`` over TLS, ``valkey://`` and
    ``valkeys://`` alike. ``?prefix=``: what begins every key (``preheat``); other options are redis-py's."""

    package = "redis"
    extra = "redis"
    limit = 4 * 1024**2
    durability = (
        "what the server's persistence keeps: every acknowledged outcome with appendonly yes and appendfsync "
        "always, all but the last second's with everysec; a failover may lose what was not replicated yet"
    )

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 6379
            options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            host, port, parts, options = None, 0, urlsplit(""), {}
        database = parts.path.strip("/")
        prefix = options.pop("prefix", ["preheat"])[-1]
        options.pop("decode_responses", None)  # outcomes are bytes
        if not host or (database and not database.isdecimal()) or not prefix or set("{}") & set(prefix):
            raise SettingsError(
                "PREHEAT_LEDGER names no Redis ledger: redis://[user:password@]host[:port]/[database], "
                "with ?prefix= for what begins every key"
            )
        super().__init__(f"{parts.scheme}://{host}:{port}/{database}")
        query = urlencode(options, doseq=True)
        self._url = parts._replace(scheme=_SCHEMES[parts.scheme], query=query).geturl()
        self._tag = f"{{{prefix}}}"

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        kind, *rest = self._run(scripts.CLAIM, key, fingerprint, fence, _ms(lease), _ms(keep), request)
        if kind == b"claimed":
            return Claimed(fence, rest[0], rest[1])
        if kind == b"replay":
            return Replay(rest[0])
        return InProgress(rest[0] / 1e3) if kind == b"running" else Mismatch()

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        return bool(self._run(scripts.HEARTBEAT, key, fence, _ms(lease)))

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._stands(outcome, self._run(scripts.COMMIT, key, fence, outcome, _ms(keep)))

    def release(self, key: str, fence: str) -> bool:
        return bool(self._run(scripts.RELEASE, key, fence))

    def read(self, key: str) -> Record | None:
        found = self._run(scripts.READ, key)
        if found is None:
            return None
        fingerprint, attempt, left, outcome, request = found
        return Record(fingerprint.decode(), attempt, left / 1e3, outcome, request or b"")

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._stands(outcome, self._run(scripts.CANCEL, key, fence, outcome, _ms(keep)))

    def remove(self, key: str) -> bool:
        return bool(self._run(scripts.REMOVE, key))

    def pending(self, limit: int) -> list[Pending]:
        found = self._eval(scripts.PENDING, [f"{self._tag}:pending"], [f"{self._tag}:record:", limit])
        texts = [text.decode() for text in found]
        return [Pending(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]

    def init(self) -> None:
        """Redis needs no schema; the same as ``check``."""
        self.check()

    def check(self) -> None:
        info = self._call(lambda client: client.info())
        version = str(info.get("redis_version", "0"))
        if int(version.partition(".")[0]) < 5:
            raise LedgerError(f"the ledger {self.name} runs Redis {version}: it must be 5 or newer")
        if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
            raise LedgerError(
                f"the ledger {self.name} evicts records when its memory is full: set maxmemory-policy to "
                f"noeviction (it is {info.get('maxmemory_policy')})"
            )
        self._run(scripts.READ, "")

    def _stands(self, outcome: bytes, answer: list[Any]) -> bytes | None:
        found: bytes | None = outcome if answer[0] else answer[1]
        return found

    def _run(self, script: str, key: str, *arguments: str | int | bytes) -> Any:
        names = [f"{self._tag}:record:{key}", f"{self._tag}:pending"]
        return self._eval(script, names, [key, *arguments])

    def _eval(self, script: str, keys: list[str], arguments: list[str | int | bytes]) -> Any:
        def call(client: Redis) -> Any:
            from redis.exceptions import NoScriptError

            try:
                return client.evalsha(_digest(script), len(keys), *keys, *arguments)
            except NoScriptError:  # a server that was started anew, or never saw it
                return client.eval(script, len(keys), *keys, *arguments)

        return self._call(call)

    def _make(self) -> Redis:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            client = Redis.from_url(
                self._url,
                socket_timeout=CALL_S,
                socket_connect_timeout=CALL_S,
                retry=Retry(NoBackoff(), 0),  # ours know the deadline
            )
            client.connection_pool.make_connection()  # it connects to nothing yet
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"the ledger {self.name} has an option that redis-py refuses: {error}"
            ) from None
        return client

    def _shut(self, client: Redis) -> None:
        client.close()

    def _said(self, error: Exception) -> tuple[str, bool] | None:
        from redis import exceptions

        if isinstance(error, exceptions.AuthenticationError):
            return f"refuses the password or the user: {first_line(error)}", False
        if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
            return f"cannot be reached: {first_line(error)}", True
        if isinstance(error, exceptions.ReadOnlyError | exceptions.TryAgainError):
            return f"refuses: {first_line(error)}", True  # until a failover has ended
        if isinstance(error, exceptions.MovedError | exceptions.ClusterDownError):
            return "is a node of a Redis Cluster: name a server without cluster mode, or a proxy", False
        return (f"refuses: {first_line(error)}", False) if isinstance(error, exceptions.RedisError) else None


def _ms(seconds: float) -> int:
    return max(round(seconds * 1e3), 1)


_digests: dict[str, str] = {}


def _digest(script: str) -> str:
    found = _digests.get(script)
    if found is None:
        found = _digests[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    return found
