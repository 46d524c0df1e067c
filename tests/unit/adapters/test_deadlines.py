"""Of several times the shortest, on one clock."""

import pytest

from preheat.adapters.deadlines import shortest
from preheat.adapters.messages import HttpRequest
from preheat.errors import InvalidRequestError

ARRIVED = 1_000_000_000


def at(platform: int = 0, **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return shortest(HttpRequest("POST", "/predict", named, b"", ARRIVED, deadline_ns=platform))


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1H", 3600 * 10**9),
        ("2M", 120 * 10**9),
        ("3S", 3 * 10**9),
        ("4m", 4 * 10**6),
        ("5u", 5000),
        ("6n", 6),
    ],
)
def test_grpcs_units(text: str, ns: int) -> None:
    assert at(grpc_timeout=text) == ARRIVED + ns


def test_the_shortest_of_headers_and_platform() -> None:
    assert at() == 0
    assert at(platform=5) == 5
    assert at(x_preheat_timeout="1.5") == ARRIVED + 1_500_000_000
    assert at(x_preheat_timeout="2", grpc_timeout="1500m") == ARRIVED + 1_500_000_000
    assert at(x_preheat_timeout="1", grpc_timeout="1500m") == ARRIVED + 1_000_000_000
    assert at(platform=ARRIVED + 7, x_preheat_timeout="1") == ARRIVED + 7
    assert at(platform=ARRIVED + 2 * 10**9, x_preheat_timeout="1") == ARRIVED + 10**9


def test_a_malformed_one_is_refused_beside_a_shorter_one() -> None:
    with pytest.raises(InvalidRequestError, match="eight digits"):
        at(platform=ARRIVED, grpc_timeout="1")
