"""A store that is down, silent or cut off: a clear error within a deadline, nothing lost or done twice."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat.errors import LedgerError
from preheat.ledger import Claimed, Ledger, Replay, open_ledger

from ... import servers
from .cut_proxy import cutting

LONG = {"lease": 30.0, "keep": 60.0}
KINDS = [servers.RedisServer, servers.PostgresServer, servers.DynamoServer]
PERSISTENT = [kind for kind in KINDS if kind.persistent]


@contextlib.contextmanager
def opened(url: str) -> Iterator[Ledger]:
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()


@contextlib.contextmanager
def running(kind: type[servers._Process], folder: Path) -> Iterator[servers._Process]:
    server = kind(folder / "server")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_down_is_an_error_that_names_it(
    kind: type[servers._Process], tmp_path: Path
) -> None:
    server = kind(tmp_path / "server")
    with opened(server.url.replace("preheat@", "preheat:secret@")) as ledger:
        begun = time.monotonic()
        with pytest.raises(LedgerError) as told:
            ledger.claim("k", "print", "one", **LONG)
        assert time.monotonic() - begun < 8
        assert ledger.name in str(told.value)
        assert "secret" not in str(told.value)
        assert told.value.retry_after >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_silent_is_given_up(kind: type[servers._Process], tmp_path: Path) -> None:
    server = kind(tmp_path / "server")
    with (
        socket.create_server(("127.0.0.1", server.port), backlog=64),  # takes connections, and says nothing
        opened(server.url) as ledger,
    ):
        begun = time.monotonic()
        with pytest.raises(LedgerError):
            ledger.claim("k", "print", "one", **LONG)
        assert time.monotonic() - begun < 10


def test_a_postgres_that_falls_silent_in_the_middle_is_given_up(tmp_path: Path) -> None:
    import psycopg

    with running(servers.PostgresServer, tmp_path) as server, opened(server.url) as ledger:
        ledger.init()
        ledger.claim("k", "print", "one", **LONG)
        with psycopg.connect(server.url) as other:  # holds the row's lock
            other.execute("SELECT FROM preheat_records FOR UPDATE")
            begun = time.monotonic()
            with pytest.raises(LedgerError, match="no answer within"):
                ledger.heartbeat("k", "one", lease=30)
            assert time.monotonic() - begun < 10
        assert ledger.heartbeat("k", "one", lease=30)


def until_down(ledger: Ledger) -> None:
    """Call until a call fails: a backend of PostgreSQL's may outlive its postmaster by a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ledger.heartbeat("held", "one", lease=30)


@pytest.mark.parametrize("kind", PERSISTENT)
def test_what_was_acknowledged_outlives_kill_and_restart(
    kind: type[servers._Process], tmp_path: Path
) -> None:
    with running(kind, tmp_path) as server, opened(server.url) as ledger:
        ledger.init()
        for number in range(100):
            ledger.claim(f"k{number}", "print", "one", **LONG)
            assert ledger.commit(f"k{number}", "one", b"%d" % number, keep=60)
        ledger.claim("held", "print", "one", **LONG)
        server.kill()
        with pytest.raises(LedgerError):
            until_down(ledger)
        server.start()
        assert ledger.heartbeat("held", "one", lease=30)
        for number in range(100):
            assert ledger.claim(f"k{number}", "print", "two", **LONG) == Replay(b"%d" % number)


@pytest.mark.parametrize("kind", PERSISTENT)
def test_a_restart_is_bridged(kind: type[servers._Process], tmp_path: Path) -> None:
    from threading import Timer

    with running(kind, tmp_path) as server, opened(server.url) as ledger:
        ledger.init()
        ledger.claim("k", "print", "one", **LONG)
        server.kill()
        later = Timer(0.5, server.start)
        later.start()
        assert ledger.commit("k", "one", b"done", keep=60) == b"done"
        later.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_lost_answer_changes_nothing(
    kind: type[servers._Process], cuts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(kind, tmp_path) as server, cutting(server.port) as proxy:
        through = server.url.replace(f":{server.port}", f":{proxy.port}")
        with opened(through) as ledger, opened(server.url) as other:
            ledger.init()
            for number in range(3):
                key = f"k{number}"
                proxy.cut = cuts
                assert ledger.claim(key, "print", "one", request=b"body", **LONG) == Claimed(
                    "one", 1, b"body"
                )
                proxy.cut = cuts
                assert ledger.heartbeat(key, "one", lease=30)
                proxy.cut = cuts
                assert ledger.commit(key, "one", b"done", keep=60) == b"done"
                assert other.claim(key, "print", "two", **LONG) == Replay(b"done")
                assert other.read(key).attempt == 1  # type: ignore[union-attr]
            assert proxy.lost == 9 * cuts


def test_redis_is_asked_for_a_script_that_it_forgot(tmp_path: Path) -> None:
    import redis

    with running(servers.RedisServer, tmp_path) as server, opened(server.url) as ledger:
        ledger.claim("k", "print", "one", **LONG)
        client = redis.Redis.from_url(server.url)
        client.script_flush()
        assert ledger.claim("k", "print", "one", **LONG) == Claimed("one", 1, b"")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.close()
        with pytest.raises(LedgerError, match="noeviction"):
            ledger.check()


def test_wrong_passwords_are_told_at_once(tmp_path: Path) -> None:
    import redis

    with running(servers.RedisServer, tmp_path) as server:
        client = redis.Redis.from_url(server.url)
        client.config_set("requirepass", "right")
        client.close()
        with opened(server.url.replace("//", "//:wrong@")) as ledger:
            begun = time.monotonic()
            with pytest.raises(LedgerError, match="password") as told:
                ledger.read("k")
            assert time.monotonic() - begun < 2
            assert "wrong" not in str(told.value).replace("WRONGPASS", "")
        with opened(server.url.replace("//", "//:right@")) as ledger:
            assert ledger.read("k") is None


def test_dynamodb_without_credentials_or_region_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for url, words in (
        ("dynamodb://table", "AWS_REGION"),
        ("dynamodb://table?region=eu-west-1", "credentials"),
    ):
        with opened(url) as ledger, pytest.raises(LedgerError, match=words):
            ledger.read("k")
