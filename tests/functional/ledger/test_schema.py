"""`preheat ledger init` and `check`, and what a request is told where the schema is missing or old."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from preheat.errors import LedgerError
from preheat.ledger import Ledger

from ... import servers
from .conftest import Store, place

LONG = {"lease": 30.0, "keep": 60.0}


def preheat(*arguments: str, **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "preheat", "ledger", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def refused(ledger: Ledger) -> str:
    with pytest.raises(LedgerError) as told:
        ledger.claim("k", "print", "one", **LONG)
    with pytest.raises(LedgerError):
        ledger.check()
    return str(told.value)


def test_check_then_init_then_check(empty: Store) -> None:
    status, out, err = preheat("check", empty.url, "--json")
    assert status == (0 if empty.kind == "redis" else 1), err
    if status:
        assert "preheat ledger init" in json.loads(out)["error"]
    if empty.kind in ("postgres", "dynamodb"):
        assert "run preheat ledger init" in refused(empty.open())
    if empty.kind == "sqlite":
        assert preheat("check", empty.url)[0] == 1, "the look at it did not make it"
    status, out, err = preheat("init", PREHEAT_LEDGER=empty.url)
    assert (status, err) == (0, "")
    assert "durability" in out
    status, out, _ = preheat("check", empty.url, "--json")
    assert status == 0
    assert json.loads(out)["status"] == "in order"
    assert empty.open().claim("k", "print", "one", **LONG)


@pytest.mark.parametrize(
    "url", ["", "mysql://x", "sqlite://x", "redis://", "dynamodb://a b", "postgresql://h:x/"]
)
def test_a_url_that_names_no_ledger_is_wrong_use(url: str) -> None:
    status, out, err = preheat("check", "--json", PREHEAT_LEDGER=url)
    assert status == 2
    assert "PREHEAT_LEDGER" in json.loads(out)["error"]
    assert err.startswith("error: ")


def test_check_tries_the_place_for_blobs_out(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "file"
    assert preheat("init", url)[0] == 0
    assert preheat("check", url, PREHEAT_LEDGER_BLOBS=str(tmp_path / "blobs"))[0] == 0
    file.write_text("in the way")
    status, _, err = preheat("check", url, PREHEAT_LEDGER_BLOBS=str(file))
    assert status == 1
    assert "cannot be kept" in err


def test_a_postgres_schema_of_another_version_is_old(
    postgres_server: servers.PostgresServer, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import psycopg

    store = Store("postgres", place("postgres", request, tmp_path))
    ledger = store.open()
    ledger.init()
    with psycopg.connect(store.url) as connection:
        connection.execute("ALTER FUNCTION preheat_claim_1 RENAME TO preheat_claim_0")
    assert "run preheat ledger init" in refused(ledger)
    ledger.init()
    ledger.check()
    with psycopg.connect(store.url) as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        schema = connection.execute("SHOW search_path").fetchone()
        assert schema is not None
        connection.execute(f"GRANT USAGE ON SCHEMA {schema[0]} TO reader".encode())
        connection.execute("GRANT SELECT ON preheat_records TO reader")
    reader = Store("postgres", store.url.replace("preheat@", "reader@")).open()
    with pytest.raises(LedgerError, match="lacks INSERT, UPDATE, DELETE"):
        reader.check()
    with pytest.raises(LedgerError, match="permission denied"):
        reader.claim("k", "print", "one", **LONG)
    reader.close()
    ledger.close()


def test_a_dynamodb_table_of_another_shape_is_told(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import boto3

    store = Store("dynamodb", place("dynamodb", request, tmp_path))
    ledger = store.open()
    endpoint = store.url.rpartition("endpoint=")[2]
    client = boto3.client("dynamodb", endpoint_url=endpoint, region_name="us-east-1")
    table = {"TableName": store.url.partition("//")[2].partition("?")[0], "BillingMode": "PAY_PER_REQUEST"}
    client.create_table(
        **table,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    assert "preheat ledger init" in refused(ledger)
    with pytest.raises(LedgerError, match="another table"):
        ledger.init()
    client.delete_table(TableName=table["TableName"])
    client.create_table(
        **table,
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
    )
    with pytest.raises(LedgerError, match="no index 'waiting'"):
        ledger.check()
    with pytest.raises(LedgerError, match="preheat ledger init"):
        ledger.pending(1)
    ledger.init()
    ledger.check()
    assert ledger.pending(1) == []
    described = client.describe_time_to_live(TableName=table["TableName"])["TimeToLiveDescription"]
    assert described == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
    ledger.close()
    client.close()
