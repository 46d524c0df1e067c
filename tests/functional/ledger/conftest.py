"""The four stores, each over a real server that is started once, and in it a place for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat.ledger import Ledger, open_ledger

from ... import servers

STORES = ("sqlite", "redis", "postgres", "dynamodb")
_number = itertools.count()


class Store:
    """A ledger's place for one test; every ``open`` is another client of it, as another worker has it."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self.opened: list[Ledger] = []

    def open(self, blobs: str = "") -> Ledger:
        self.opened.append(open_ledger(self.url, blobs=blobs))
        return self.opened[-1]


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RedisServer]:
    server = servers.RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.PostgresServer]:
    server = servers.PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def dynamo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.DynamoServer]:
    server = servers.DynamoServer(tmp_path_factory.mktemp("dynamodb"))
    server.start()
    yield server
    server.stop()


def place(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty place; nothing is made in it yet."""
    number = next(_number)
    if kind == "sqlite":
        return f"sqlite:///{folder}/ledger{number}.db"
    if kind == "redis":
        return f"{request.getfixturevalue('redis_server').url}?prefix=test{number}"
    if kind == "dynamodb":
        found: str = request.getfixturevalue("dynamo_server").url
        return found.replace("//preheat", f"//test{number}")
    import psycopg

    server = request.getfixturevalue("postgres_server").url
    with psycopg.connect(server) as connection:
        connection.execute(f"CREATE SCHEMA test{number}".encode())
    return f"{server}?options=-csearch_path%3Dtest{number}"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.DynamoServer.environ.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=STORES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each kind of store, with nothing made in it."""
    made = Store(request.param, place(request.param, request, tmp_path))
    yield made
    for ledger in made.opened:
        ledger.close()


@pytest.fixture
def store(empty: Store) -> Store:
    """Each kind of store, ready."""
    empty.open().init()
    return empty


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return store.open()
