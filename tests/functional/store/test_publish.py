"""Publish, pull, promote, roll back, list, collect: the commands, against real servers."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat import manifest as manifests
from preheat.build import manifest_text

from . import fault_proxy
from .conftest import Place
from .fault_proxy import Fault, FaultProxy
from .samples import command, content, environ, fails, make_artifact, succeeds, version_of


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "one", weights=content(1, 9_000_000))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "two", weights=content(2, 100_000))


def files(folder: Path) -> list[Path]:
    """The plain files under a folder, an artifact's manifest left out."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]


def same(one: Path, other: Path) -> bool:
    names = [
        sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (one, other)
    ]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0]
    )


def test_what_is_published_is_what_is_pulled(place: Place, one: Path, tmp_path: Path) -> None:
    done = succeeds(place.environ, "publish", one, f"{place.root}/m", "--alias", "prod")
    assert done["version"] == version_of(one)
    assert done["new"]
    assert done["uploaded"] == 6
    for which in ("prod", version_of(one)[:8], f"sha256:{version_of(one)}"):
        out = tmp_path / f"pulled-{which[:8]}"
        assert succeeds(place.environ, "pull", f"{place.root}/m@{which}", out)["files"] == 6
        assert same(one, out)


def test_publishing_again_sends_nothing(place: Place, one: Path) -> None:
    succeeds(place.environ, "publish", one, f"{place.root}/m", "--alias", "prod")
    done = succeeds(place.environ, "publish", one, f"{place.root}/m", "--alias", "prod")
    assert (done["new"], done["uploaded"], done["uploaded_bytes"]) == (False, 0, 0)
    assert (done["alias"]["epoch"], done["alias"]["changed"]) == (1, False)


def test_a_new_version_sends_only_what_changed(place: Place, one: Path, two: Path) -> None:
    succeeds(place.environ, "publish", one, f"{place.root}/m")
    done = succeeds(place.environ, "publish", two, f"{place.root}/m")
    assert (done["uploaded"], done["uploaded_bytes"]) == (1, 100_000)


def test_artifacts_share_files(place: Place, one: Path, tmp_path: Path) -> None:
    succeeds(place.environ, "publish", one, f"{place.root}/m")
    other = make_artifact(tmp_path / "other", name="other", weights=content(1, 9_000_000))
    assert succeeds(place.environ, "publish", other, f"{place.root}/other")["uploaded"] == 0


def test_an_alias_is_promoted_and_rolled_back(place: Place, one: Path, two: Path, tmp_path: Path) -> None:
    third = make_artifact(tmp_path / "three", weights=b"three")
    for artifact in (one, two, third):
        succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "next")
        succeeds(place.environ, "promote", f"{place.root}/m@next", "--alias", "prod")
    for epoch, artifact in ((4, two), (5, one)):
        done = succeeds(place.environ, "rollback", f"{place.root}/m", "--alias", "prod")
        assert (done["version"], done["epoch"]) == (version_of(artifact), epoch)
    line = fails(place.environ, "rollback", f"{place.root}/m", "--alias", "prod")
    assert "named nothing before" in line
    found = succeeds(place.environ, "ls", place.root)
    (artifact,) = found["artifacts"]
    assert {row["version"] for row in artifact["versions"]} == {version_of(a) for a in (one, two, third)}
    named = {alias["alias"]: (alias["version"], alias["epoch"]) for alias in artifact["aliases"]}
    assert named == {"prod": (version_of(one), 5), "next": (version_of(third), 3)}
    assert succeeds(place.environ, "ls", f"{place.root}/m") == found
    shown = command({**place.environ, "COLUMNS": "80"}, "ls", place.root).out
    for row in artifact["versions"]:
        assert row["version"][:12] in shown
        assert row["published"][:16].replace("T", " ") in shown, "whole, however narrow the table is"
    above = place.root.rpartition("/")[0]
    assert f"look into {above}/" in fails(place.environ, "ls", above)


@pytest.mark.attack
def test_a_version_that_lost_a_file_is_not_promoted(folder: Place, one: Path) -> None:
    succeeds(folder.environ, "publish", one, f"{folder.root}/m", "--alias", "prod")
    blobs = Path(folder.root.removeprefix("file://")) / "blobs"
    max((p for p in blobs.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size).unlink()
    line = fails(folder.environ, "promote", f"{folder.root}/m@prod", "--alias", "live")
    assert "is not whole: k/weights is not in the store" in line
    assert "there is no alias 'live'" in fails(folder.environ, "pull", f"{folder.root}/m@live", "/nowhere")


def test_garbage_goes_and_what_is_named_stays(place: Place, one: Path, two: Path, tmp_path: Path) -> None:
    for artifact in (one, two):
        succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    third = make_artifact(tmp_path / "three", weights=b"three")
    fourth = make_artifact(tmp_path / "four", weights=b"four")
    for artifact in (third, fourth):
        succeeds(place.environ, "publish", artifact, f"{place.root}/m")
    assert succeeds(place.environ, "gc", place.root, "--grace-hours", "0")["blobs"] == []
    assert succeeds(place.environ, "gc", place.root, "--keep", "1")["versions"] == []  # all are young
    clean = ("gc", place.root, "--grace-hours", "0", "--keep", "1")
    before = succeeds(place.environ, "ls", place.root)
    planned = succeeds(place.environ, *clean, "--dry-run")
    assert succeeds(place.environ, "ls", place.root) == before
    done = succeeds(place.environ, *clean)
    assert (done["versions"], done["blobs"]) == (planned["versions"], planned["blobs"])
    # The newest, what prod names and what prod would roll back to are left; at most one version is spare.
    left = {row["version"] for row in succeeds(place.environ, "ls", place.root)["artifacts"][0]["versions"]}
    assert {version_of(one), version_of(two)} <= left
    assert len(left) == 4 - len(done["versions"])
    assert len(done["blobs"]) == len(done["versions"])
    for version in left:
        succeeds(place.environ, "pull", f"{place.root}/m@{version}", tmp_path / "pulled")


def test_a_rollback_to_what_was_removed_says_so(folder: Place, one: Path, two: Path, tmp_path: Path) -> None:
    third = make_artifact(tmp_path / "three", weights=b"three")
    for artifact in (one, two, third):
        succeeds(folder.environ, "publish", artifact, f"{folder.root}/m", "--alias", "prod")
    gone = succeeds(folder.environ, "gc", folder.root, "--grace-hours", "0", "--keep", "1")["versions"]
    assert gone == [f"m@{version_of(one)[:12]}"]
    back = ("rollback", f"{folder.root}/m", "--alias", "prod")
    assert succeeds(folder.environ, *back)["version"] == version_of(two)
    assert f"{gone[0]} was removed: `preheat promote` names another version" in fails(folder.environ, *back)
    assert succeeds(folder.environ, "ls", folder.root)["artifacts"][0]["aliases"][0]["version"] == version_of(
        two
    )


def test_garbage_stays_while_a_version_cannot_be_read(folder: Place, one: Path, two: Path) -> None:
    for artifact in (one, two):
        succeeds(folder.environ, "publish", artifact, f"{folder.root}/m")
    root = Path(folder.root.removeprefix("file://"))
    (root / "artifacts" / "m" / "versions" / f"{version_of(one)}.json").write_text("{")
    assert "nothing was removed" in fails(folder.environ, "gc", folder.root, "--grace-hours", "0")
    assert len([p for p in (root / "blobs").rglob("*") if p.is_file()]) == 7


def together(more: dict[str, str], *commands: list[str]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-m", "preheat", *arguments],
            env=environ(more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in commands
    ]


def test_two_publishers_at_once(moto: Place, tmp_path: Path) -> None:
    """Of one version both succeed; of two, each succeeds or says that the other was first."""
    artifacts = [make_artifact(tmp_path / str(i), weights=content(i, 2_000_000)) for i in range(4)]
    artifacts += artifacts[:1]
    running = together(
        moto.environ, *(["publish", str(a), f"{moto.root}/m", "--alias", "prod"] for a in artifacts)
    )
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert all(
        status == 0 or (status == 1 and "was changed by another publisher" in err) for err, status in ended
    ), ended
    assert any(status == 0 for _, status in ended)
    (artifact,) = succeeds(moto.environ, "ls", moto.root)["artifacts"]
    assert len(artifact["versions"]) == 4
    (alias,) = artifact["aliases"]
    succeeded = sum(status == 0 for _, status in ended)
    assert alias["epoch"] <= succeeded
    assert len(alias["history"]) == alias["epoch"] - 1
    succeeds(moto.environ, "pull", f"{moto.root}/m@prod", tmp_path / "pulled")


def test_a_store_without_conditional_writes_is_told_of(rclone: Place, moto: Place, two: Path) -> None:
    done = command(rclone.environ, "publish", two, f"{rclone.root}/m", "--alias", "prod")
    assert "warning: this store ignores conditions on writes" in done.err
    done = command(moto.environ, "publish", two, f"{moto.root}/m", "--alias", "prod")
    assert "warning" not in done.err


@pytest.mark.attack
def test_an_artifact_that_was_changed_is_not_published(folder: Place, two: Path) -> None:
    (two / "k" / "weights").write_bytes(content(3, 100_000))
    assert "was changed after the build" in fails(folder.environ, "publish", two, f"{folder.root}/m")
    (two / "more").write_bytes(b"")
    assert "is not in the manifest" in fails(folder.environ, "publish", two, f"{folder.root}/m")


def _linked(folder: Path) -> None:
    (folder / "k" / "weights").rename(folder.parent / "weights")
    (folder / "k" / "weights").symlink_to(folder.parent / "weights")


def _folder_linked(folder: Path) -> None:
    (folder / "k").rename(folder.parent / "k")
    (folder / "k").symlink_to(folder.parent / "k")


def _manifest_linked(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "manifest.json")
    (folder / "manifest.json").symlink_to(folder.parent / "manifest.json")


def _piped(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _huge(folder: Path) -> None:
    """A file of 64 GiB and a byte that takes no room, listed."""
    size = manifests.MAX_FILE_BYTES + 1
    os.truncate(folder / "k" / "weights", size)
    manifest = manifests.load((folder / "manifest.json").read_bytes())
    files = tuple(f._replace(size=size) if f.path == "k/weights" else f for f in manifest.files)
    (folder / "manifest.json").write_text(manifest_text.dump(manifest._replace(files=files)))


@pytest.mark.attack
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_linked, "k/weights is a link or a special file"),
        (_folder_linked, "/k is a link or a special file"),
        (_manifest_linked, "manifest.json is a link or a special file"),
        (lambda f: (f / "more").symlink_to("/etc/passwd"), "/more is a link or a special file"),
        (lambda f: os.link(f / "k" / "weights", f.parent / "second"), "k/weights has 2 names (hard links)"),
        (lambda f: os.link(f / "manifest.json", f.parent / "second"), "manifest.json has 2 names"),
        (lambda f: _piped(f / "k" / "weights"), "k/weights is a link or a special file"),
        (lambda f: _piped(f / "manifest.json"), "manifest.json is not a plain file"),
        (lambda f: _bound(f / "s"), "/s is a link or a special file"),
        (_huge, "k/weights has 68719476737 bytes; the most that a deployment takes is 68719476736"),
    ],
)
def test_what_is_no_plain_file_is_not_published(
    folder: Place, two: Path, harm: Callable[[Path], Any], said: str
) -> None:
    harm(two)
    assert said in fails(folder.environ, "publish", two, f"{folder.root}/m")
    assert not Path(folder.root.removeprefix("file://")).exists()


@pytest.fixture(params=["moto", "rclone"])
def proxied(request: pytest.FixtureRequest) -> Iterator[tuple[Place, FaultProxy]]:
    place: Place = request.getfixturevalue(request.param)
    with fault_proxy.before(place.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield Place(place.root, {**place.environ, "AWS_ENDPOINT_URL": proxy.url}), proxy


def test_what_is_harmed_on_the_way_up_is_sent_again(
    proxied: tuple[Place, FaultProxy], one: Path, tmp_path: Path
) -> None:
    """These servers do not hold a body against its signature, as S3 does."""
    place, proxy = proxied
    once = iter([Fault.HARMED, Fault.HARMED])
    proxy.plan = lambda asked: next(once, None) if asked.method == "PUT" and "/blobs/" in asked.path else None
    done = succeeds(place.environ, "publish", one, f"{place.root}/m", "--alias", "prod")
    assert len(proxy.harmed) == 2
    assert (done["uploaded"], done["uploaded_bytes"]) == (6, sum(p.stat().st_size for p in files(one)))
    succeeds(place.environ, "pull", f"{place.root}/m@prod", tmp_path / "out")
    assert same(one, tmp_path / "out")


def test_what_always_arrives_harmed_is_not_left_there(proxied: tuple[Place, FaultProxy], two: Path) -> None:
    place, proxy = proxied
    digest = hashlib.sha256((two / "k" / "weights").read_bytes()).hexdigest()
    proxy.plan = lambda asked: Fault.HARMED if asked.method == "PUT" and digest in asked.path else None
    line = fails(place.environ, "publish", two, f"{place.root}/m", "--alias", "prod")
    assert "k/weights arrived changed or cut, twice" in line
    proxy.plan = lambda _asked: None
    assert "no artifact was published here" in fails(place.environ, "ls", place.root)
    done = succeeds(place.environ, "publish", two, f"{place.root}/m", "--alias", "prod")
    assert done["uploaded_bytes"] >= 100_000


def test_a_file_that_went_bad_in_the_store_is_mended(folder: Place, two: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", two, f"{folder.root}/m", "--alias", "prod")
    blobs = Path(folder.root.removeprefix("file://")) / "blobs"
    weights = max(files(blobs), key=lambda p: p.stat().st_size)
    weights.write_bytes(content(3, weights.stat().st_size))
    assert succeeds({}, "publish", two, f"{folder.root}/m")["uploaded"] == 0
    line = fails({}, "pull", f"{folder.root}/m@prod", tmp_path / "out")
    assert "`preheat publish --verify` mends the store" in line
    done = succeeds({}, "publish", two, f"{folder.root}/m", "--verify")
    assert (done["uploaded"], done["uploaded_bytes"]) == (1, 100_000)
    succeeds({}, "pull", f"{folder.root}/m@prod", tmp_path / "out")
    assert same(two, tmp_path / "out")


def test_a_pull_never_leaves_half(folder: Place, one: Path, two: Path, tmp_path: Path) -> None:
    for artifact, alias in ((one, "one"), (two, "two")):
        succeeds(folder.environ, "publish", artifact, f"{folder.root}/m", "--alias", alias)
    out = tmp_path / "out"
    succeeds(folder.environ, "pull", f"{folder.root}/m@two", out)
    blobs = Path(folder.root.removeprefix("file://")) / "blobs"
    weights = max((p for p in blobs.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    weights.write_bytes(content(3, weights.stat().st_size))
    line = fails(folder.environ, "pull", f"{folder.root}/m@one", out)
    assert "is not k/weights: its sha256 is" in line
    assert same(out, two)
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two", "store", "out"}


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://bucket/../m@prod", "may not hold '..'"),
        ("s3://bucket/a/%2e%2e/m@prod", "may not hold"),
        ("s3:///m@prod", "a bucket must follow s3://"),
        ("ftp://host/m@prod", "a store is one of s3://, gs://, az://, file://"),
        ("s3://bucket/m", "say which version after '@'"),
        ("s3://bucket/m@", "say which version after '@'"),
        ("s3://bucket/m@sha256:12", "must be followed by 64"),
        ("s3://bucket/..@prod", "is not an artifact's name"),
        ("s3://bucket/m@../x", "say which version after '@'"),
    ],
)
def test_a_malformed_reference_is_wrong_use(tmp_path: Path, location: str, said: str) -> None:
    assert said in fails({}, "pull", location, tmp_path / "out", status=2)
    assert not list(tmp_path.iterdir())


def test_names_that_do_not_fit(folder: Place, two: Path) -> None:
    line = fails(folder.environ, "publish", two, f"{folder.root}/other", status=2)
    assert "the artifact is named 'm': publish it to" in line
    line = fails(folder.environ, "publish", two, f"{folder.root}/m@prod", status=2)
    assert "--alias prod names it" in line
    for alias in ("0123abcd", "a/b", ".."):
        line = fails(folder.environ, "publish", two, f"{folder.root}/m", "--alias", alias, status=2)
        assert "cannot be an alias" in line
