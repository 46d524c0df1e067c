"""Which ledger a URL names, and what opening one costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from preheat.errors import SettingsError
from preheat.ledger import open_ledger

GOOD = {
    "sqlite:///ledger.db": "SqliteLedger",
    "sqlite:////var/lib/ledger.db?synchronous=full": "SqliteLedger",
    "redis://host": "RedisLedger",
    "rediss://user:secret@host:6380/3?prefix=mine": "RedisLedger",
    "valkey://host": "RedisLedger",
    "postgresql://user:secret@host:5432/database?sslmode=require": "PostgresLedger",
    "postgres://host/database": "PostgresLedger",
    "postgresql:///database": "PostgresLedger",
    "postgresql://one:1,two:2/database": "PostgresLedger",
    "dynamodb://table": "DynamoLedger",
    "dynamodb://table?region=eu-west-1&endpoint=http://127.0.0.1:8000": "DynamoLedger",
}
BAD = [
    *("", "ledger.db", "mysql://host", "sqlite://file", "sqlite:///", "sqlite:///folder/"),
    *("sqlite:///x?synchronous=off", "sqlite:///x?mode=ro"),
    *("redis://", "redis://host:port", "redis://host/name", "redis://host?prefix={a}", "redis://h:99999"),
    *("postgresql://host:port/database", "postgresql://[host/database"),
    *("dynamodb://", "dynamodb://a b", "dynamodb://table/x", "dynamodb://table?zone=x", "dynamodb://t"),
    *("dynamodb://table?endpoint=localhost", "dynamodb://table?region"),
]


@pytest.mark.parametrize("url", GOOD)
def test_a_url_names_its_store_and_hides_its_password(url: str) -> None:
    ledger = open_ledger(url)
    assert type(ledger.ledger).__name__ == GOOD[url]  # type: ignore[attr-defined]
    assert "secret" not in ledger.name
    assert ledger.durability
    ledger.close()


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_names_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="PREHEAT_LEDGER"):
        open_ledger(url)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("redis://127.0.0.1:1", "redis", "redis"),
        ("postgresql://127.0.0.1:1/x", "psycopg", "postgres"),
        ("dynamodb://table", "boto3", "dynamodb"),
    ],
)
def test_a_missing_package_says_what_to_install(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=rf"needs {package}: pip install 'preheat\[{extra}\]'"):
        open_ledger(url)


def test_options_that_the_client_refuses_are_told() -> None:
    for url in ("postgresql://127.0.0.1:1/x?colour=red", "redis://127.0.0.1:1/?colour=red"):
        with pytest.raises(SettingsError, match="colour"):
            open_ledger(url).read("k")


def test_opening_imports_no_client() -> None:
    code = (
        "import json, sys; from preheat.ledger import open_ledger\n"
        f"for url in {list(GOOD)!r}: open_ledger(url, blobs='s3://bucket/x')\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"redis", "psycopg", "boto3", "botocore", "sqlite3", "obstore", "ssl", "asyncio"}
