"""The ledger's table in DynamoDB. The SAM template repeats it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX = "waiting"
TTL = "ttl"
TABLE: dict[str, Any] = {
    "AttributeDefinitions": [
        {"AttributeName": "key", "AttributeType": "S"},
        {"AttributeName": "waiting", "AttributeType": "S"},
        {"AttributeName": "lease", "AttributeType": "N"},
    ],
    "KeySchema": [{"AttributeName": "key", "KeyType": "HASH"}],
    "BillingMode": "PAY_PER_REQUEST",
    "GlobalSecondaryIndexes": [
        {
            # Sparse: only records with a stored request that are not done have the attribute.
            "IndexName": INDEX,
            "KeySchema": [
                {"AttributeName": "waiting", "KeyType": "HASH"},
                {"AttributeName": "lease", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["fingerprint", "expires"]},
        }
    ],
}
"""What CreateTable takes, without the table's name."""

READY_TRIES, READY_PAUSE_S = 120, 1.0


def lacks(table: dict[str, Any] | None, ttl: dict[str, Any]) -> list[str]:
    """What a table lacks, in words, by its description and its TTL's; nothing for a table that serves."""
    if table is None:
        return ["does not exist"]
    if table["KeySchema"] != TABLE["KeySchema"]:
        return ["has another key: name another table"]
    found = []
    indexes = {index["IndexName"]: index for index in table.get("GlobalSecondaryIndexes", ())}
    wanted = TABLE["GlobalSecondaryIndexes"][0]
    if INDEX not in indexes:
        found.append(f"has no index {INDEX!r}")
    elif indexes[INDEX]["KeySchema"] != wanted["KeySchema"]:
        found.append(f"has another index {INDEX!r}: delete that index")
    if ttl.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING") or ttl.get("AttributeName") != TTL:
        found.append(f"does not free what has expired by the attribute {TTL!r}")
    return found


def create(client: Any, name: str, wait: Callable[[float], None]) -> None:
    """Make the table, or add what it lacks. Raises LedgerError where it never becomes ready."""
    table = describe(client, name)
    if table is None:
        client.create_table(TableName=name, **TABLE)
        table = _ready(client, name, wait)
    elif table["KeySchema"] == TABLE["KeySchema"] and INDEX not in {
        index["IndexName"] for index in table.get("GlobalSecondaryIndexes", ())
    }:
        index = dict(TABLE["GlobalSecondaryIndexes"][0])
        if "ProvisionedThroughput" in table and table["ProvisionedThroughput"].get("ReadCapacityUnits"):
            index["ProvisionedThroughput"] = {"ReadCapacityUnits": 5, "WriteCapacityUnits": 5}
        client.update_table(
            TableName=name,
            AttributeDefinitions=TABLE["AttributeDefinitions"],
            GlobalSecondaryIndexUpdates=[{"Create": index}],
        )
        table = _ready(client, name, wait)
    if any("free" in lack for lack in lacks(table, ttl(client, name))):
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": TTL}
        )


def describe(client: Any, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.describe_table(TableName=name)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None
    return found


def ttl(client: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    return found


def _ready(client: Any, name: str, wait: Callable[[float], None]) -> dict[str, Any]:
    for _ in range(READY_TRIES):
        table = describe(client, name)
        if table is not None and table["TableStatus"] == "ACTIVE":
            indexes = table.get("GlobalSecondaryIndexes", ())
            if all(index.get("IndexStatus", "ACTIVE") == "ACTIVE" for index in indexes):
                return table
        wait(READY_PAUSE_S)
    raise LedgerError(f"the ledger's table {name} is still being made: run preheat ledger check later")
