"""The servers, started once for all of these tests, and a place of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from . import servers
from .servers import Endpoint


class Place(NamedTuple):
    """A store for one test."""

    root: str
    environ: dict[str, str]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Endpoint]:
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with servers.rclone(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture
def moto(moto_server: Endpoint, tmp_path: Path) -> Place:
    return Place(moto_server.at(tmp_path.name), moto_server.environ)


@pytest.fixture
def rclone(rclone_server: Endpoint, tmp_path: Path) -> Place:
    return Place(rclone_server.at(tmp_path.name), rclone_server.environ)


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(f"file://{tmp_path}/store", {})


@pytest.fixture(params=["moto", "rclone", "folder"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of store."""
    found: Place = request.getfixturevalue(request.param)
    return found
