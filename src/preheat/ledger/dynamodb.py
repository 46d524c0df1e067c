"""A ledger in DynamoDB: conditional writes, and leases by the service's clock.

DynamoDB offers no clock to a condition, only the ``Date`` of its responses: a lease is written by the latest
that its now can be and read by the earliest, so no live lease is taken over whatever the workers' clocks say.
That may be a second or two late; who has watched a lease all along takes it over when it lapses (``Watch``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ..errors import LedgerError, SettingsError
from . import Claim, Claimed, InProgress, Mismatch, Pending, Record, Replay
from . import dynamodb_table as table
from .dynamodb_items import KNOWN, kept, number, read_item
from .remote import Remote, T
from .server_clock import Bounds, ServerClock
from .watch import Watch

if TYPE_CHECKING:
    from botocore.client import BaseClient

_PRECISE_S = 0.1


class DynamoLedger(Remote["BaseClient"]):
    """``dynamodb://table``, with ``?region=`` and ``?endpoint=`` where AWS_REGION and AWS_ENDPOINT_URL do not
    say them; credentials by boto3's chain."""

    package = "boto3"
    extra = "dynamodb"
    limit = 192 * 1024
    """An item takes 400 KB: a request and an outcome."""
    durability = "every acknowledged outcome survives the loss of an availability zone"

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            parts, options = urlsplit(""), {"?": [""]}
        self.table = parts.netloc
        self._region = options.pop("region", [""])[-1]
        self._endpoint = options.pop("endpoint", [""])[-1]
        if (
            options
            or parts.path.strip("/")
            or not re.fullmatch(r"[a-zA-Z0-9_.-]{3,255}", self.table)
            or (self._endpoint and not self._endpoint.startswith(("http://", "https://")))
        ):
            raise SettingsError(
                f"PREHEAT_LEDGER={url} names no DynamoDB ledger: dynamodb://table, a name of 3 to 255 "
                "letters, digits, '.', '_' and '-', with ?region= and ?endpoint=http(s)://…"
            )
        super().__init__(f"dynamodb://{self.table}")
        self._clock = ServerClock()
        self._watch = Watch()

    def claim(
        self, key: str, fingerprint: str, fence: str, *, lease: float, keep: float, request: bytes = b""
    ) -> Claim:
        def once(client: BaseClient) -> Claim | None:
            asked = time.monotonic()
            now = self._now(client)
            item: dict[str, Any] = {
                "key": {"S": key},
                "fingerprint": {"S": fingerprint},
                "fence": {"S": fence},
                "attempt": number(1),
                "lease": number(now.high + lease),
                "held": number(lease),
                **kept(now, keep),
                **({"request": {"B": request}, "waiting": {"S": "1"}} if request else {}),
            }
            had = self._write(
                client.put_item,
                Item=item,
                ConditionExpression="attribute_not_exists(#key) OR (expires <= :now AND lease <= :now)",
                ExpressionAttributeNames={"#key": "key"},
                ExpressionAttributeValues={":now": number(now.low)},
            )
            if had is None:
                return Claimed(fence, 1, request)
            return self._found(client, key, fingerprint, fence, lease, keep, had, now, asked)

        while True:
            claim: Claim | None = self._leased(once)
            if claim is not None:
                return claim

    def _found(
        self,
        client: BaseClient,
        key: str,
        fingerprint: str,
        fence: str,
        lease: float,
        keep: float,
        had: dict[str, Any],
        now: Bounds,
        asked: float,
    ) -> Claim | None:
        """What a claim comes to where the key has a record; None where the record has gone meanwhile."""
        if not had:
            return None
        item = read_item(had)
        if item.fingerprint != fingerprint:
            return Mismatch()
        if item.outcome is not None:
            return Replay(item.outcome)
        if item.fence != fence and now.low < item.lease <= now.high:
            now = self._precise(client, item.lease)
        if item.fence != fence and item.lease > now.low:
            left = item.lease - now.low
            if item.held:
                left = min(left, self._watch.left(key, item.fence, item.lease, item.held, asked))
            if left > 0:
                return InProgress(left)
        self._watch.forget(key)
        attempt = item.attempt + (item.fence != fence)
        stands = self._update(
            client,
            key,
            "SET fence = :fence, attempt = :attempt, lease = :lease, held = :held, expires = :expires,"
            " #ttl = :ttl",
            # The lease as it was seen: its owner may have renewed it since.
            "fence = :had AND lease = :seen AND attribute_not_exists(outcome)",
            {
                ":fence": {"S": fence},
                ":attempt": number(attempt),
                ":lease": number(now.high + lease),
                ":held": number(lease),
                **{f":{name}": value for name, value in kept(now, keep).items()},
                ":had": {"S": item.fence},
                ":seen": number(item.lease),
            },
            {"#ttl": table.TTL},
        )
        if stands is None:
            return Claimed(fence, attempt, item.request)
        return self._found(client, key, fingerprint, fence, lease, keep, stands, now, asked)

    def heartbeat(self, key: str, fence: str, *, lease: float) -> bool:
        def once(client: BaseClient) -> bool:
            end = self._now(client).high + lease
            values = {":fence": {"S": fence}, ":lease": number(end), ":zero": number(0)}
            values[":held"] = number(lease)
            held = "fence = :fence AND attribute_not_exists(outcome) AND lease > :zero"
            return self._update(client, key, "SET lease = :lease, held = :held", held, values) is None

        return self._leased(once)

    def commit(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._finish(key, fence, outcome, keep, "fence = :fence")

    def cancel(self, key: str, fence: str, outcome: bytes, *, keep: float) -> bytes | None:
        return self._finish(key, fence, outcome, keep, KNOWN)

    def release(self, key: str, fence: str) -> bool:
        held = "fence = :fence AND attribute_not_exists(outcome)"
        values = {":fence": {"S": fence}}

        def once(client: BaseClient) -> bool:
            had = self._write(
                client.delete_item,
                Key={"key": {"S": key}},
                ConditionExpression=f"{held} AND attribute_not_exists(waiting)",
                ExpressionAttributeValues=values,
            )
            if had is None:
                return True
            if "waiting" not in had:
                return False
            return (
                self._update(client, key, "SET lease = :zero", held, {**values, ":zero": number(0)}) is None
            )

        return self._call(once)

    def read(self, key: str) -> Record | None:
        def once(client: BaseClient) -> Record | None:
            answer = self._ask(client.get_item, Key={"key": {"S": key}}, ConsistentRead=True)
            now = self._now(client)
            item = read_item(answer["Item"]) if "Item" in answer else None
            if item is None or not item.known(now):
                return None
            left = max(item.lease - now.low, 0.0)
            return Record(item.fingerprint, item.attempt, left, item.outcome, item.request)

        return self._call(once)

    def remove(self, key: str) -> bool:
        def once(client: BaseClient) -> bool:
            return (
                self._write(
                    client.delete_item,
                    Key={"key": {"S": key}},
                    ConditionExpression=f"attribute_exists(outcome) AND {KNOWN}",
                    ExpressionAttributeValues={":now": number(self._now(client).low)},
                )
                is None
            )

        return self._call(once)

    def pending(self, limit: int) -> list[Pending]:
        def once(client: BaseClient) -> list[Pending]:
            now, found = number(self._now(client).low), list[Pending]()
            start: dict[str, Any] = {}
            while len(found) < limit:
                answer = self._ask(
                    client.query,
                    IndexName=table.INDEX,
                    KeyConditionExpression="waiting = :one AND lease <= :now",
                    FilterExpression="expires > :now",
                    ExpressionAttributeValues={":one": {"S": "1"}, ":now": now},
                    **start,
                )
                found += [Pending(i["key"]["S"], i["fingerprint"]["S"]) for i in answer["Items"]]
                if "LastEvaluatedKey" not in answer:
                    break
                start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
            return found[:limit]

        return self._call(once)

    def init(self) -> None:
        self._call(lambda client: table.create(client, self.table, time.sleep))
        self.check()

    def check(self) -> None:
        def once(client: BaseClient) -> list[str]:
            described = table.describe(client, self.table)
            return table.lacks(described, table.ttl(client, self.table) if described else {})

        lacks = self._call(once)
        if lacks:
            raise self._old(" and ".join(lacks))

    def _finish(self, key: str, fence: str, outcome: bytes, keep: float, condition: str) -> bytes | None:
        def once(client: BaseClient) -> bytes | None:
            now = self._now(client)
            values: dict[str, Any] = {
                ":outcome": {"B": outcome},
                ":fence": {"S": fence},
                ":zero": number(0),
                **{f":{name}": value for name, value in kept(now, keep).items()},
            }
            if ":now" in condition:
                values[":now"] = number(now.low)
            had = self._update(
                client,
                key,
                "SET outcome = :outcome, fence = :fence, lease = :zero, expires = :expires, #ttl = :ttl"
                " REMOVE waiting",
                f"{condition} AND attribute_not_exists(outcome)",
                values,
                {"#ttl": table.TTL},
            )
            if had is None:
                return outcome
            item = read_item(had) if had else None
            return item.outcome if item is not None and item.known(now) else None

        return self._call(once)

    def _leased(self, once: Callable[[BaseClient], T]) -> T:
        """An operation that writes a lease; again where its own response says that the clock was wrong, as
        after a freeze: the lease would end too early. Once is enough, the clock then is a moment old."""
        started = self._clock.contradictions
        found = self._call(once)
        return found if self._clock.contradictions == started else self._call(once)

    def _now(self, client: BaseClient) -> Bounds:
        now = self._clock.now()
        if now is None:
            self._ask(client.get_item, Key={"key": {"S": " "}}, ConsistentRead=True)
            now = self._clock.now()
        if now is None:
            raise LedgerError(f"the ledger {self.name} answers without a Date: leases cannot be counted")
        return now

    def _precise(self, client: BaseClient, moment: float) -> Bounds:
        """The service's now, asked for until it is clear whether ``moment`` has come: a second at most."""
        for _ in range(40):
            now = self._now(client)
            if not now.low < moment <= now.high or now.width < _PRECISE_S:
                return now
            time.sleep(0.03)
            self._ask(client.get_item, Key={"key": {"S": " "}}, ConsistentRead=True)
        return self._now(client)

    def _update(
        self,
        client: BaseClient,
        key: str,
        update: str,
        condition: str,
        values: dict[str, Any],
        names: dict[str, str] | None = None,
    ) -> dict[str, Any] | None:
        return self._write(
            client.update_item,
            Key={"key": {"S": key}},
            UpdateExpression=update,
            ConditionExpression=condition,
            ExpressionAttributeValues=values,
            **({"ExpressionAttributeNames": names} if names else {}),
        )

    def _write(self, call: Callable[..., Any], **arguments: Any) -> dict[str, Any] | None:
        """A conditional write: None where it was done, else the item that stands, empty for none."""
        from botocore.exceptions import ClientError

        try:
            self._ask(call, ReturnValuesOnConditionCheckFailure="ALL_OLD", **arguments)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            found: dict[str, Any] = error.response.get("Item", {})
            return found
        return None

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """One request; its response's Date goes to the clock."""
        from botocore.exceptions import ClientError

        asked = time.monotonic()
        try:
            answer = call(TableName=self.table, **arguments)
        except ClientError as error:
            self._learn(error.response, asked)
            raise
        self._learn(answer, asked)
        return answer

    def _learn(self, response: Any, asked: float) -> None:
        date = response["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
        if date:
            self._clock.learn(date, asked)

    def _old(self, what: str) -> LedgerError:
        return LedgerError(
            f"the ledger's table {self.table} {what}: run preheat ledger init, or deploy it",
            code="ledger_schema",
        )

    def _make(self) -> BaseClient:
        from .dynamodb_client import make_client

        return make_client(self.name, self._region, self._endpoint)

    def _shut(self, client: BaseClient) -> None:
        client.close()

    def _forked(self) -> None:
        super()._forked()
        self._clock = ServerClock()
        self._watch = Watch()

    def _said(self, error: Exception) -> tuple[str, bool] | None:
        from .dynamodb_client import said, schema_fault

        fault = schema_fault(error)
        if fault:
            raise self._old(fault) from error
        return said(error)
