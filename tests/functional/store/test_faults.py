"""Random faults over download and publish, through a proxy before real servers.

The variable ``FAULTS`` says how many; the seed is printed with each failure. Nothing that is opened may be
corrupt, no alias may name half a version, and every failure is one clear error.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from preheat import incoming
from preheat.errors import ArtifactError, StoreError
from preheat.phases import PhaseClock
from preheat.publish.upload import publish
from preheat.remote import open_remote
from preheat.settings import Settings
from preheat.stores import Reference, open_store
from preheat.stores.layout import aliases, read_alias, read_version
from preheat.stores.object import Bucket, Deadline

from . import fault_proxy
from .conftest import Place
from .fault_proxy import HARMS_ANSWERS, Asked, Fault, FaultProxy
from .samples import content, make_artifact, version_of
from .servers import Endpoint

FAULTS = int(os.environ.get("FAULTS", "500"))
SIZE = incoming.PART + 1_000_000
"""Two parts."""
FILES = ["k/model.onnx", "k/weights", "t.json", "g/in", "g/out"]
HARMS_REQUESTS = [Fault.LOST, Fault.REFUSED, Fault.UNAVAILABLE, Fault.CUT, Fault.DENIED, Fault.SLOW]


class Proxied(NamedTuple):
    place: Place
    proxy: FaultProxy
    straight: Place
    """The same store without the proxy."""


@pytest.fixture(params=["moto", "rclone"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxied]:
    endpoint: Endpoint = request.getfixturevalue(f"{request.param}_server")
    with fault_proxy.before(endpoint.url) as proxy:
        environ = {**endpoint.environ, "AWS_ENDPOINT_URL": proxy.url}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        root = endpoint.at(tmp_path.name)
        yield Proxied(Place(root, environ), proxy, Place(root, endpoint.environ))


class Faults:
    """A plan that harms some requests of a run, the first of them surely."""

    def __init__(self, chance: random.Random, kinds: list[Fault], only: Callable[[Asked], bool]) -> None:
        self.left = chance.choice([1, 1, 1, 2, 2, 3, 5, 8, 100])
        """100: whatever is tried fails."""
        self._chance = chance
        self._kinds = kinds
        self._only = only

    def __call__(self, asked: Asked) -> Fault | None:
        if not self.left or not self._only(asked) or self._chance.random() < 0.3:
            return None
        self.left -= 1
        return self._chance.choice(self._kinds)


def test_downloads(proxied: Proxied, tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))
    publish(str(artifact), f"{proxied.place.root}/m", alias="prod", timeout_s=30)
    reference = open_store(f"{proxied.place.root}/m@prod")
    assert isinstance(reference, Reference)
    proxied.proxy.harmed.clear()
    whole = failed = run = 0
    while len(proxied.proxy.harmed) < FAULTS // 4:
        run += 1
        chance = random.Random(run)
        proxied.proxy.plan = Faults(chance, [*HARMS_ANSWERS, Fault.DENIED], lambda _asked: True)
        cache = tmp_path / "cache"
        settings = Settings(fetch_timeout=2.0)
        try:
            remote = open_remote(reference, settings, cache_dir=str(cache), clock=PhaseClock())
            try:
                remote.verify_ahead(FILES)
                remote.require(FILES)
                for path in FILES:
                    assert Path(remote.path(path)).read_bytes() == (artifact / path).read_bytes(), (run, path)
                whole += 1
            finally:
                remote.close()
            said = ""
        except ArtifactError as error:  # anything else is a defect
            failed += 1
            said = str(error)
        assert not said or any(word in said for word in (*FILES, "prod", "versions/")), (run, said)
        blobs = list((cache / "store" / "blobs").glob("*")) if cache.exists() else []
        for blob in blobs:
            if "." not in blob.name:
                from preheat.download import sha256_of

                assert sha256_of(str(blob)) == blob.name, run
        if chance.random() < 0.7:  # else the next run goes on with what this one left
            shutil.rmtree(cache, ignore_errors=True)
    print(f"{len(proxied.proxy.harmed)} faults in {run} downloads: {whole} whole, {failed} refused")
    assert whole > run // 3


def test_publishes(proxied: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, harmed = proxied.place.root, proxied.proxy.harmed
    done = failed = run = 0
    while len(harmed) < FAULTS // 4:
        run += 1
        chance = random.Random(run)
        artifact = make_artifact(tmp_path / "artifact", weights=content(run, 300_000))
        proxied.proxy.plan = Faults(chance, HARMS_REQUESTS, lambda _asked: True)
        try:
            publish(str(artifact), f"{root}/m", alias="prod", timeout_s=2.0)
            done += 1
            said = ""
        except ArtifactError as error:
            failed += 1
            said = str(error)
        proxied.proxy.plan = lambda _asked: None
        bucket = Bucket(root, Deadline(30), make=True)
        if "prod" in aliases(bucket, "m"):
            alias, _ = read_alias(bucket, "m", "prod")
            manifest, _ = read_version(bucket, "m", alias.version)
            for file in manifest.files:
                data = b"".join(bucket.stream(f"blobs/{file.sha256[:2]}/{file.sha256}", 0, 0, whole=True))
                assert len(data) == file.size, (run, file.path)
            assert alias.version == version_of(artifact) or said, run
            assert alias.epoch == len(alias.history) + 1 or len(alias.history) == 50, run
        shutil.rmtree(artifact)
    print(f"{len(harmed)} faults in {run} publishes: {done} done, {failed} refused")
    assert done > run // 3


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.UNAVAILABLE, "SlowDown by the proxy"),
        (Fault.UNSATISFIABLE, "InvalidRange by the proxy"),
        (Fault.DENIED, "permission denied: AccessDenied by the proxy"),
        (Fault.CORRUPT, "its sha256 is"),
        (Fault.TRUNCATE, "k/weights could not be fetched"),
        (Fault.CUT, "k/weights could not be fetched"),
        (Fault.REFUSED, "k/weights could not be fetched"),
    ],
)
def test_a_fault_that_stays_is_said(proxied: Proxied, tmp_path: Path, fault: Fault, said: str) -> None:
    artifact = make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))
    publish(str(artifact), f"{proxied.place.root}/m", alias="prod", timeout_s=30)
    reference = open_store(f"{proxied.place.root}/m@prod")
    assert isinstance(reference, Reference)
    settings = Settings(fetch_timeout=1.0)
    remote = open_remote(reference, settings, cache_dir=str(tmp_path / "cache"), clock=PhaseClock())
    proxied.proxy.plan = lambda asked: fault if "/blobs/" in asked.path else None
    with pytest.raises(ArtifactError, match="k/weights") as caught:
        remote.require(["k/weights"])
    assert said in str(caught.value)
    assert not [p for p in (tmp_path / "cache/store/blobs").iterdir() if "." not in p.name]
    proxied.proxy.plan = lambda _asked: None
    again = open_remote(reference, Settings(), cache_dir=str(tmp_path / "cache"), clock=PhaseClock())
    again.require(["k/weights"])
    assert Path(again.path("k/weights")).read_bytes() == content("weights", SIZE)
    remote.close()
    again.close()


def test_what_was_hashed_is_what_lies_there(proxied: Proxied, tmp_path: Path) -> None:
    """A stream that begins anew writes over bytes that were hashed already: they are hashed again."""
    artifact = make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))
    publish(str(artifact), f"{proxied.place.root}/m", alias="prod", timeout_s=30)
    reference = open_store(f"{proxied.place.root}/m@prod")
    assert isinstance(reference, Reference)
    remote = open_remote(reference, Settings(), cache_dir=str(tmp_path / "cache"), clock=PhaseClock())
    faults = iter([Fault.CUT, Fault.CORRUPT])
    proxied.proxy.plan = lambda asked: (
        next(faults, None) if "/blobs/" in asked.path and asked.range in ("", "bytes=0-8388607") else None
    )
    remote.require(["k/weights"])
    assert Path(remote.path("k/weights")).read_bytes() == content("weights", SIZE)
    remote.close()


def test_a_slow_store_meets_the_deadline(proxied: Proxied, tmp_path: Path) -> None:
    import time

    artifact = make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))
    publish(str(artifact), f"{proxied.place.root}/m", alias="prod", timeout_s=30)
    reference = open_store(f"{proxied.place.root}/m@prod")
    assert isinstance(reference, Reference)
    settings = Settings(fetch_timeout=2.0)
    remote = open_remote(reference, settings, cache_dir=str(tmp_path / "cache"), clock=PhaseClock())
    proxied.proxy.delay_s = 0.2
    began = time.monotonic()
    with pytest.raises(StoreError, match="k/weights could not be fetched"):
        remote.require(["k/weights"])
    assert time.monotonic() - began < 6
    proxied.proxy.delay_s = 0.0
    remote.close()
