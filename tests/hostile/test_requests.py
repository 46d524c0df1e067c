"""The whole corpus, and a share of what is made by chance, through every door: never a 5xx, always alive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .corpus import cases, parsed
from .doors import DOORS, Door
from .generated import requests

CLASSES = sorted({case.kind for case in cases()})
SHARE = 300
"""Requests by chance for each door; `make hostile` sends thousands."""


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    with DOORS[request.param]() as opened:
        opened.name = request.param
        yield opened


def test_there_are_as_many_as_are_told() -> None:
    assert len(cases()) >= 200
    assert len({case.raw for case in cases()}) == len(cases()), "a case stands twice"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_answered_and_a_good_request_after_it(door: Door, kind: str) -> None:
    wrong = []
    for case in (case for case in cases() if case.kind == kind):
        found = door.send(case.raw)
        sockets = door.name in ("server", "up")
        told = case.status and sockets and found[:1] != [case.status]
        if door.name == "up" and not found and parsed(case.raw) is None:
            told = False  # the gateway answers nobody who has hung up
        if (
            any(status >= 500 for status in found)
            or told
            or (not found and (not sockets and parsed(case.raw) is not None))
        ):
            wrong.append((case.name, case.status, found))
    assert not wrong
    assert door.answers()


def test_what_is_made_by_chance(door: Door) -> None:
    for number, (kind, raw) in enumerate(requests(7, SHARE)):
        found = door.send(raw)
        assert all(status < 500 for status in found), (number, kind, raw[:2000], found)
    assert door.answers()
