"""The download phase from a store: what is fetched, once, resumed, shared, bounded."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat.errors import StoreError
from preheat.phases import PhaseClock
from preheat.remote import RemoteArtifact, open_remote
from preheat.settings import Settings
from preheat.stores import Reference, open_store
from preheat.stores.layout import alias_key
from preheat.stores.object import Bucket, Deadline

from ...conftest import serving
from . import fault_proxy
from .conftest import Place
from .fault_proxy import Fault, FaultProxy
from .samples import content, environ, fails, make_artifact, succeeds, version_of

BIG = 20_000_000
"""Three parts."""
PACKED = ["k/model.onnx", "k/weights", "t.json", "g/in", "g/out"]


@pytest.fixture
def proxied(moto: Place) -> Iterator[tuple[Place, FaultProxy]]:
    """A store behind a proxy, and the proxy."""
    with fault_proxy.before(moto.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield Place(moto.root, {**moto.environ, "AWS_ENDPOINT_URL": proxy.url}), proxy


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact", weights=content("weights", BIG))


def opened(place: Place, which: str, cache: Path, **settings: Any) -> tuple[RemoteArtifact, PhaseClock]:
    """What the download phase makes of a reference; the environment must be the place's."""
    reference = open_store(f"{place.root}/m@{which}")
    assert isinstance(reference, Reference)
    clock = PhaseClock()
    return open_remote(reference, Settings(**settings), cache_dir=str(cache), clock=clock), clock


def told(clock: PhaseClock) -> dict[str, Any]:
    """The attributes of a start's download spans."""
    found: dict[str, Any] = {}
    for span in clock.spans:
        found |= span.attributes
    return found


@pytest.fixture
def using(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives this process a place's environment."""

    def use(place: Place) -> None:
        for name, value in place.environ.items():
            monkeypatch.setenv(name, value)

    return use


def test_only_the_chosen_variant_is_fetched(place: Place, artifact: Path, cache: Path, using: Any) -> None:
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    using(place)
    remote, clock = opened(place, "prod", cache)
    remote.verify_ahead(PACKED)
    remote.require(PACKED)
    for path in PACKED:
        assert Path(remote.path(path)).read_bytes() == (artifact / path).read_bytes()
    assert not Path(remote.path("p/model.onnx")).exists()
    found = told(clock)
    assert (found["cache"], remote.cached, found["blobs"]) == ("miss", "miss", 5)
    assert found["fetched_bytes"] == sum((artifact / path).stat().st_size for path in PACKED)
    assert {"fetch_ms", "verify_ms", "wait_ms", "resolve_ms"} <= found.keys()
    remote.close()
    again, clock = opened(place, "prod", cache)
    again.require(PACKED)
    assert again.cached == "hit"
    assert "fetched_bytes" not in told(clock)
    again.require(["p/model.onnx"])  # another variant, when the first cannot be opened
    assert Path(again.path("p/model.onnx")).read_bytes() == b"p/model.onnx"
    again.close()


def test_a_hit_asks_the_store_nothing_where_the_version_is_named(
    moto: Place, artifact: Path, cache: Path, using: Any
) -> None:
    succeeds(moto.environ, "publish", artifact, f"{moto.root}/m")
    using(moto)
    remote, _ = opened(moto, f"sha256:{version_of(artifact)}", cache)
    remote.require(PACKED)
    remote.close()
    using(Place(moto.root, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}))
    took = []
    for _ in range(5):
        began = time.perf_counter()
        remote, clock = opened(moto, version_of(artifact), cache)
        remote.verify_ahead(PACKED)
        remote.require(PACKED)
        took.append(time.perf_counter() - began)
        remote.close()
        assert "fetched_bytes" not in told(clock)
    assert min(took) < 0.005


def test_a_blob_is_shared_by_versions(folder: Place, artifact: Path, tmp_path: Path, cache: Path) -> None:
    other = make_artifact(tmp_path / "other", weights=content("weights", BIG), **{"t.json": b"other"})
    for which in (artifact, other):
        succeeds({}, "publish", which, f"{folder.root}/m")
    for which, blobs in ((artifact, 5), (other, 1), (artifact, None), (other, None)):
        remote, clock = opened(folder, version_of(which), cache)
        remote.require(PACKED)
        assert told(clock).get("blobs") == blobs
        assert "verified_bytes" not in told(clock)
        remote.close()


START = """
import json, sys
from preheat.phases import PhaseClock
from preheat.remote import open_remote
from preheat.settings import Settings
from preheat.stores import open_store
clock = PhaseClock()
artifact = open_remote(open_store(sys.argv[1]), Settings(), cache_dir=sys.argv[2], clock=clock)
files = json.loads(sys.argv[3])
artifact.verify_ahead(files)
artifact.require(files)
print(json.dumps([dict(span.attributes) for span in clock.spans]))
"""


def start(place: Place, cache: Path, which: str = "prod") -> subprocess.Popen[str]:
    arguments = [f"{place.root}/m@{which}", str(cache), json.dumps(PACKED)]
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        env=environ(place.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found: dict[str, Any] = {}
    for attributes in json.loads(out):
        found |= attributes
    return found


def test_ten_processes_fetch_each_blob_once(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path
) -> None:
    place, proxy = proxied
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    proxy.asked.clear()
    found = [ended(process) for process in [start(place, cache) for _ in range(10)]]
    asked = [(a.path, a.range) for a in proxy.fetched()]
    assert len(asked) == len(set(asked)) == 7  # three parts of the weights, four small files
    assert sum(f.get("fetched_bytes", 0) for f in found) == sum(
        (artifact / path).stat().st_size for path in PACKED
    )
    assert sum(f.get("cache") == "miss" for f in found) == 1


def test_a_process_that_was_killed_leaves_the_rest_to_the_next(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path
) -> None:
    place, proxy = proxied
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    proxy.delay_s = 0.01
    first = start(place, cache)
    deadline = time.monotonic() + 30
    digest = hashlib.sha256(content("weights", BIG)).hexdigest()
    notes = cache / "store" / "blobs" / f"{digest}.parts"
    while not (notes.exists() and notes.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    proxy.delay_s = 0.0
    found = ended(start(place, cache))
    assert 0 < found["fetched_bytes"] < BIG - 2 * 2**20
    assert not list((cache / "store" / "blobs").glob("*.part*"))


def test_a_cut_connection_goes_on_where_it_was_cut(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path, using: Any
) -> None:
    place, proxy = proxied
    succeeds(place.environ, "publish", artifact, f"{place.root}/m")
    using(place)
    cuts = iter([Fault.CUT] * 3)
    proxy.plan = lambda asked: (
        next(cuts, None) if "bytes=0-" in asked.range and "/blobs/" in asked.path else None
    )
    remote, clock = opened(place, version_of(artifact), cache)
    remote.require(PACKED)
    assert told(clock)["fetched_bytes"] == sum((artifact / path).stat().st_size for path in PACKED)
    assert len(proxy.harmed) == 1
    tails = [asked.range for asked in proxy.fetched() if asked.range.endswith(f"-{8 * 2**20 - 1}")]
    assert len(tails) == 2
    assert 0 < int(tails[1].removeprefix("bytes=").split("-")[0]) < 8 * 2**20
    remote.close()


@pytest.mark.attack
@pytest.mark.parametrize("verify", ["fetch", "always"])
def test_a_damaged_cache_is_fetched_anew(folder: Place, artifact: Path, cache: Path, verify: str) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m")
    remote, _ = opened(folder, version_of(artifact), cache)
    remote.require(PACKED)
    path = Path(remote.path("k/weights"))
    remote.close()
    times = path.stat()
    path.chmod(0o644)
    path.write_bytes(content("other", BIG))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    remote, clock = opened(folder, version_of(artifact), cache, verify=verify)
    remote.require(PACKED)
    assert told(clock)["fetched_bytes"] == BIG
    assert path.read_bytes() == content("weights", BIG)
    remote.close()


@pytest.mark.attack
def test_what_is_foreign_in_the_cache_is_refused(folder: Place, artifact: Path, cache: Path) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m")
    remote, _ = opened(folder, version_of(artifact), cache)
    root = Path(remote.path(""))
    remote.close()
    (root / "k").mkdir()
    (root / "k" / "more").write_bytes(b"")
    with pytest.raises(Exception, match="is not in the manifest"):
        opened(folder, version_of(artifact), cache)
    (root / "k" / "more").rename(root / "p")
    (root / "k" / "weights").symlink_to("/etc/passwd")
    (root / "p").unlink()
    with pytest.raises(Exception, match="is a link or a special file"):
        opened(folder, version_of(artifact), cache)


def test_the_least_recently_used_goes_and_what_is_in_use_stays(
    folder: Place, tmp_path: Path, cache: Path
) -> None:
    size = 2_000_000
    made = [make_artifact(tmp_path / str(i), weights=content(i, size)) for i in range(4)]
    for which in made:
        succeeds({}, "publish", which, f"{folder.root}/m")
    limit = int(2.5 * size)

    def fetch(which: Path) -> tuple[RemoteArtifact, bool]:
        remote, clock = opened(folder, version_of(which), cache, cache_bytes=limit)
        remote.require(PACKED)
        return remote, "fetched_bytes" in told(clock)

    held, _ = fetch(made[0])
    fetch(made[1])[0].close()
    fetch(made[2])[0].close()  # makes room: the first is in use, so the second goes
    assert Path(held.path("k/weights")).exists()
    assert fetch(made[2])[1] is False
    again, fetched = fetch(made[0])
    assert not fetched
    assert not (cache / "store" / "artifacts" / version_of(made[1])).exists()
    used = sum(p.stat().st_size for p in (cache / "store" / "blobs").iterdir())
    assert used <= limit
    held.close()
    again.close()


@pytest.mark.attack
def test_a_file_that_the_cache_may_not_hold(folder: Place, artifact: Path, cache: Path) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m")
    remote, _ = opened(folder, version_of(artifact), cache, cache_bytes=BIG // 2)
    with pytest.raises(StoreError, match="PREHEAT_CACHE_BYTES allows 10000000"):
        remote.require(PACKED)
    remote.close()


def test_the_wait_for_another_process_ends(folder: Place, artifact: Path, cache: Path) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m")
    remote, _ = opened(folder, version_of(artifact), cache, fetch_timeout=0.3)
    file = remote.manifest.file("k/weights")
    assert file is not None
    with (cache / "store" / "blobs" / f"{file.sha256}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process has been fetching"):
            remote.require(PACKED)
    remote.close()


def test_a_function_is_served_from_a_store(place: Place, filetype_artifact: Path, cache: Path) -> None:
    succeeds(place.environ, "publish", filetype_artifact, f"{place.root}/filetype", "--alias", "prod")
    reports = []
    for _ in range(2):
        with serving(f"{place.root}/filetype@prod", PREHEAT_CACHE=str(cache), **place.environ) as server:
            answer = server.request("POST", "/predict", {"content": "aW1wb3J0IG9zCg=="})
            assert answer.status == 200
            reports.append(server.request("GET", "/coldstart").json())
    assert [report["cache"] for report in reports] == ["miss", "hit"]
    assert reports[0]["fallback"] is None
    fetched = next(p for p in reports[0]["phases"] if "fetch_ms" in p["attributes"])
    imports = [p for p in reports[0]["phases"] if p["phase"] == "import"][-1]
    assert fetched["start_ms"] < imports["start_ms"] + imports["duration_ms"]


def test_what_lies_in_a_store_is_tried_and_measured(
    place: Place, filetype_artifact: Path, cache: Path
) -> None:
    succeeds(place.environ, "publish", filetype_artifact, f"{place.root}/filetype", "--alias", "prod")
    environ = {**place.environ, "PREHEAT_CACHE": str(cache)}
    for which in ("prod", version_of(filetype_artifact)[:12]):
        target = f"{place.root}/filetype@{which}"
        tried = succeeds(environ, "try", target)
        assert [answer["status"] for answer in tried["answers"]] == [200]
        assert tried["coldstart"]["cache"] == ("miss" if which == "prod" else "hit")
    measured = succeeds(environ, "measure", target, "--rounds", "2", "--floor")
    (row,) = measured["rows"]
    assert (measured["target"], row["correct"], row["samples"]) == (target, True, 2)
    assert row["floor_wrong"] == []
    assert 0 < row["floor_ms"]["min"] < row["total_ms"]["max"]
    forced = succeeds(environ, "measure", target, "--rounds", "1", "--variant", "portable")
    assert forced["rows"][0]["variant"] == "portable"


def test_what_does_not_lie_in_a_store_is_not_measured(place: Place, tmp_path: Path, cache: Path) -> None:
    succeeds(place.environ, "publish", make_artifact(tmp_path / "one"), f"{place.root}/m", "--alias", "prod")
    environ = {**place.environ, "PREHEAT_CACHE": str(cache)}
    for command in ("try", "measure"):
        assert "there is no alias 'live'; there are prod" in fails(environ, command, f"{place.root}/m@live")
        assert "say which version after '@'" in fails(environ, command, "s3://bucket/m", status=2)


def unreachable(place: Place) -> Place:
    return Place(place.root, {**place.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})


def test_a_store_that_is_down(moto: Place, artifact: Path, tmp_path: Path, cache: Path, using: Any) -> None:
    """It is an error, unless PREHEAT_STALE lets a start go on with what this host read last."""
    succeeds(moto.environ, "publish", artifact, f"{moto.root}/m", "--alias", "prod")
    using(moto)
    first, _ = opened(moto, "prod", cache)
    first.require(PACKED)
    first.close()
    quick: dict[str, Any] = {"fetch_timeout": 2.0}
    using(unreachable(moto))
    for stale in (0.0, 60.0):  # it was not noted then
        with pytest.raises(StoreError, match=r"aliases/prod\.json: .*no answer from http"):
            opened(moto, "prod", cache, stale=stale, **quick)
    using(moto)
    opened(moto, "prod", cache, stale=60.0)[0].close()
    using(unreachable(moto))
    again, clock = opened(moto, "prod", cache, stale=60.0, **quick)
    again.require(PACKED)
    assert again.version == version_of(artifact)
    assert 0 < told(clock)["stale_s"] < 60
    again.close()
    with pytest.raises(StoreError, match="no answer from http"):
        opened(moto, "next", cache, stale=60.0, **quick)
    time.sleep(0.2)
    with pytest.raises(StoreError, match="no answer from http"):
        opened(moto, "prod", cache, stale=0.1, **quick)
    using(moto)
    other = make_artifact(tmp_path / "other", weights=b"other")
    succeeds(moto.environ, "publish", other, f"{moto.root}/m", "--alias", "prod")
    now, clock = opened(moto, "prod", cache, stale=60.0)  # a store that answers is believed
    assert now.version == version_of(other)
    assert "stale_s" not in told(clock)
    now.close()


def test_a_refusal_is_not_a_store_that_is_down(
    proxied: tuple[Place, FaultProxy], artifact: Path, cache: Path, using: Any
) -> None:
    place, proxy = proxied
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    using(place)
    opened(place, "prod", cache, stale=60.0)[0].close()
    proxy.plan = lambda _asked: Fault.DENIED
    with pytest.raises(StoreError, match="permission denied"):
        opened(place, "prod", cache, stale=60.0)
    proxy.plan = lambda _asked: None
    Bucket(place.root, Deadline(5)).delete(alias_key("m", "prod"))
    with pytest.raises(StoreError, match="there is no alias 'prod'"):
        opened(place, "prod", cache, stale=60.0)
