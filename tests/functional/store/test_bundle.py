"""Export and import: what a bundle carries, and every way in which one can be bad."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Place
from .samples import content, fails, make_artifact, succeeds, version_of
from .test_signatures import Key

SIZE = 300_000


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return Key(tmp_path, "key")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "one", weights=content(1, SIZE))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "two", weights=content(2, SIZE))


@pytest.fixture
def inside(tmp_path: Path) -> Place:
    """The store where there is no network."""
    return Place(f"file://{tmp_path}/inside", {"PREHEAT_CACHE": str(tmp_path / "cache")})


def test_a_bundle_carries_a_version(
    place: Place, inside: Place, key: Key, one: Path, two: Path, tmp_path: Path
) -> None:
    trusting = {**inside.environ, "PREHEAT_TRUST": str(key.public)}
    for epoch, artifact in enumerate((one, two), 1):
        sign = ("--alias", "prod", "--sign", key.private)
        succeeds(place.environ, "publish", artifact, f"{place.root}/m", *sign)
        bundle = tmp_path / "bundle.tar"
        out = succeeds(place.environ, "export", f"{place.root}/m@prod", bundle)
        assert (out["version"], out["signed"]) == (version_of(artifact), True)
        done = succeeds(trusting, "import", bundle, f"{inside.root}/m", "--alias", "prod")
        assert (done["version"], done["alias"]["epoch"]) == (version_of(artifact), epoch)
        assert succeeds(trusting, "import", bundle, f"{inside.root}/m", "--alias", "prod")["new"] is False
        pulled = succeeds(trusting, "pull", f"{inside.root}/m@prod", tmp_path / "pulled")
        assert pulled["version"] == version_of(artifact)
        assert (tmp_path / "pulled/k/weights").read_bytes() == (artifact / "k/weights").read_bytes()
    assert done["uploaded"] == 1
    # The version before is there still, by its digits with its signature, and for a rollback.
    assert succeeds(trusting, "pull", f"{inside.root}/m@{version_of(one)}", tmp_path / "before")
    back = succeeds(inside.environ, "rollback", f"{inside.root}/m", "--alias", "prod")
    assert (back["version"], back["epoch"]) == (version_of(one), 3)


def test_a_bundle_is_the_same_bytes_again(folder: Place, one: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m")
    for name in ("a", "b"):
        succeeds({}, "export", f"{folder.root}/m@{version_of(one)}", tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.attack
def test_an_older_bundle_does_not_take_an_alias_back(
    folder: Place, inside: Place, key: Key, one: Path, two: Path, tmp_path: Path
) -> None:
    for name, artifact in (("one", one), ("two", two)):
        sign = ("--alias", "prod", "--sign", key.private)
        succeeds({}, "publish", artifact, f"{folder.root}/m", *sign)
        succeeds({}, "export", f"{folder.root}/m@prod", tmp_path / f"{name}.tar")
    place = f"{inside.root}/m"
    succeeds(inside.environ, "import", tmp_path / "two.tar", place, "--alias", "prod")
    line = fails(inside.environ, "import", tmp_path / "one.tar", place, "--alias", "prod")
    assert "is of epoch 2 here, the bundle's of 1: it is older" in line
    trusting = {**inside.environ, "PREHEAT_TRUST": str(key.public)}
    succeeds(trusting, "import", tmp_path / "two.tar", place, "--alias", "prod")
    line = fails(trusting, "import", tmp_path / "one.tar", f"{inside.root}-2/m", "--alias", "prod")
    assert "of epoch 1, and 2 was seen before" in line
    # Without the alias it is one more version, which a person may promote.
    succeeds(inside.environ, "import", tmp_path / "one.tar", place)
    succeeds(inside.environ, "promote", f"{place}@{version_of(one)}", "--alias", "prod")


Member = tuple[tarfile.TarInfo, bytes]


def _members(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def _written(path: Path, members: list[Member]) -> None:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _change(path: Path, change: Callable[[list[Member]], Any]) -> None:
    members = _members(path)
    change(members)
    _written(path, members)


def _weights(members: list[Member]) -> int:
    return max(range(len(members)), key=lambda i: len(members[i][1]))


def _flip(members: list[Member]) -> None:
    i = _weights(members)
    member, data = members[i]
    members[i] = member, data[:9] + bytes([data[9] ^ 1]) + data[10:]


def _shorter(members: list[Member]) -> None:
    i = _weights(members)
    members[i] = members[i][0], members[i][1][:-1]


def _head(members: list[Member], **changes: Any) -> None:
    members[0] = members[0][0], json.dumps(json.loads(members[0][1]) | changes).encode()


def _special(name: str, kind: bytes, target: str = "") -> Callable[[list[Member]], None]:
    def add(members: list[Member]) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        members.insert(2, (member, b""))

    return add


@pytest.mark.attack
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_flip, "the sha256 of k/weights is another"),
        (_shorter, "the manifest says 300000"),
        (lambda m: m.pop(), "was cut"),
        (lambda m: m.append((tarfile.TarInfo("blobs/" + "0" * 64), b"x")), "does not list"),
        (lambda m: m.append((tarfile.TarInfo("../../etc/passwd"), b"x")), "does not list"),
        (lambda m: m.append((tarfile.TarInfo("/etc/passwd"), b"x")), "does not list"),
        (lambda m: m.append(m[2]), "does not list"),
        (_special("blobs/link", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a special file"),
        (_special("blobs/link", tarfile.LNKTYPE, "manifest.json"), "is a link or a special file"),
        (_special("blobs/dev", tarfile.CHRTYPE), "is a link or a special file"),
        (_special("blobs/fifo", tarfile.FIFOTYPE), "is a link or a special file"),
        (_special("blobs/dir", tarfile.DIRTYPE), "is a link or a special file"),
        (lambda m: m.pop(0), "bundle.json is not where it belongs"),
        (lambda m: m.pop(1), "manifest.json is not where it belongs"),
        (lambda m: _head(m, schema=2), "is not a bundle of this version"),
        (lambda m: _head(m, version="0" * 64), "is another version than asked for"),
        (lambda m: _head(m, name=".."), "is not a bundle of this version"),
        (lambda m: _head(m, more=1), "is not a bundle of this version"),
        (lambda m: _head(m, epoch="1"), "is not a bundle of this version"),
        (lambda m: m.__setitem__(0, (m[0][0], b"[]")), "is not a bundle of this version"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(
    folder: Place, inside: Place, one: Path, tmp_path: Path, harm: Callable[[list[Member]], Any], said: str
) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")
    bundle = tmp_path / "bundle.tar"
    succeeds({}, "export", f"{folder.root}/m@prod", bundle)
    _change(bundle, harm)
    line = fails(inside.environ, "import", bundle, f"{inside.root}/m", "--alias", "prod")
    assert said in line
    assert not Path(inside.root.removeprefix("file://")).exists()


@pytest.mark.attack
def test_a_bundle_that_was_cut_is_refused_anywhere(
    folder: Place, inside: Place, one: Path, tmp_path: Path
) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m")
    bundle = tmp_path / "bundle.tar"
    succeeds({}, "export", f"{folder.root}/m@{version_of(one)}", bundle)
    whole = bundle.read_bytes()
    for length in (0, 100, 512, 700, 3000, len(whole) // 2, len(whole) - 10240):
        bundle.write_bytes(whole[:length])
        line = fails(inside.environ, "import", bundle, f"{inside.root}/m")
        assert str(bundle) in line
        assert not Path(inside.root.removeprefix("file://")).exists()


@pytest.mark.attack
def test_a_bundle_is_trusted_or_refused(
    folder: Place, inside: Place, key: Key, one: Path, tmp_path: Path
) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")
    bundle, place = tmp_path / "bundle.tar", f"{inside.root}/m"
    succeeds({}, "export", f"{folder.root}/m@prod", bundle)
    trusting = {**inside.environ, "PREHEAT_TRUST": str(key.public)}
    assert "is not signed" in fails(trusting, "import", bundle, place)
    succeeds({}, "export", f"{folder.root}/m@prod", bundle, "--sign", Key(tmp_path, "other").private)
    assert "is signed by" in fails(trusting, "import", bundle, place)
    assert not Path(inside.root.removeprefix("file://")).exists()
    succeeds({}, "export", f"{folder.root}/m@prod", bundle, "--sign", key.private)
    succeeds(trusting, "import", bundle, place)
    assert "is not signed" in fails(trusting, "export", f"{folder.root}/m@prod", tmp_path / "more.tar")
    assert not (tmp_path / "more.tar").exists()


def test_names_that_do_not_fit(folder: Place, inside: Place, one: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")
    line = fails({}, "export", f"{folder.root}/m@prod", one / "manifest.json" / "bundle.tar", status=2)
    assert "cannot be written" in line
    bundle = tmp_path / "new" / "bundle.tar"
    succeeds({}, "export", f"{folder.root}/m@prod", bundle)
    line = fails(inside.environ, "import", bundle, f"{inside.root}/other", status=2)
    assert "import it to …/m" in line
    assert "does not exist" in fails({}, "import", tmp_path / "none.tar", f"{inside.root}/m", status=2)
    assert "is not a bundle" in fails({}, "import", one / "manifest.json", f"{inside.root}/m")
    assert "Is a directory" in fails({}, "import", one, f"{inside.root}/m")
