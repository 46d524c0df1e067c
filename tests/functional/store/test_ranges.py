"""Ranges from a server that answers them with 200: several at once, and one stream where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat import incoming
from preheat.errors import StoreError
from preheat.stores.ranges import ranged
from preheat.stores.wording import NotPartialError

from . import fault_proxy
from .conftest import Place
from .fault_proxy import Fault, FaultProxy
from .samples import content, make_artifact, succeeds, version_of
from .servers import Endpoint
from .test_fetch import opened, told

SIZE = 2 * incoming.PART + 1_000_000
"""Three parts."""
FIRST, MIDDLE, LAST = (
    f"bytes=0-{incoming.PART - 1}",
    f"bytes={incoming.PART}-{2 * incoming.PART - 1}",
    f"bytes={2 * incoming.PART}-{SIZE - 1}",
)


@pytest.fixture
def proxied(
    rclone_server: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Place, FaultProxy]]:
    with fault_proxy.before(rclone_server.url) as proxy:
        environ = {**rclone_server.environ, "AWS_ENDPOINT_URL": proxy.url}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield Place(rclone_server.at(tmp_path.name), environ), proxy


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))


def fetched(place: Place, proxy: FaultProxy, artifact: Path, cache: Path) -> tuple[list[str], dict[str, Any]]:
    """The ranges that were asked for to fetch the weights, and what the start tells of it."""
    succeeds(place.environ, "publish", artifact, f"{place.root}/m")
    proxy.asked.clear()
    remote, clock = opened(place, version_of(artifact), cache)
    remote.require(["k/weights"])
    assert Path(remote.path("k/weights")).read_bytes() == content("weights", SIZE)
    remote.close()
    return [asked.range for asked in proxy.fetched()], told(clock)


def test_several_ranges_at_once(proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path) -> None:
    asked, found = fetched(*proxied, artifact, cache)
    assert sorted(asked) == sorted([FIRST, MIDDLE, LAST])
    assert found["fetched_bytes"] == SIZE


def test_a_range_that_was_cut_goes_on(proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path) -> None:
    cuts = iter([Fault.CUT, Fault.CUT])
    proxied[1].plan = lambda asked: next(cuts, None) if asked.range == MIDDLE else None
    asked, found = fetched(*proxied, artifact, cache)
    again = [int(text.split("=")[1].split("-")[0]) for text in asked if text not in (FIRST, MIDDLE, LAST)]
    assert len(again) == 1
    assert incoming.PART < again[0] < 2 * incoming.PART
    assert found["fetched_bytes"] == SIZE


@pytest.mark.parametrize("fault", [Fault.WHOLE, Fault.TRUNCATE])
def test_a_server_that_ignores_ranges_is_read_in_one_stream(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path, fault: Fault
) -> None:
    proxied[1].plan = lambda asked: fault if asked.range and "/blobs/" in asked.path else None
    asked, _ = fetched(*proxied, artifact, cache)
    assert asked.count("") == 1


def test_a_proxy_is_not_passed_by(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetched(*proxied, artifact, cache)[0] == [""]


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Fault.UNAVAILABLE, "SlowDown by the proxy"), (Fault.REFUSED, "ended before an answer")],
)
def test_what_another_try_may_help(
    proxied: tuple[Place, FaultProxy], artifact: Path, fault: Fault, said: str
) -> None:
    place, proxy = proxied
    proxy.plan = lambda _asked: fault
    url = f"{proxy.url}/bucket/{place.root.rpartition('/')[2]}/any"
    with pytest.raises(StoreError, match=said) as caught:
        list(ranged(url, 0, 10, 5.0, "s3://bucket/any"))
    assert not isinstance(caught.value, NotPartialError)
    assert "s3://bucket/any: " in str(caught.value)
