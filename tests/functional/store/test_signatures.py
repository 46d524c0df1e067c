"""What a deployment with PREHEAT_TRUST runs, and what it refuses before any session is made."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preheat.errors import TrustError
from preheat.phases import PhaseClock
from preheat.remote import open_remote
from preheat.settings import Settings
from preheat.stores.reference import parse

from ...conftest import Server, serving
from .conftest import Place
from .samples import Done, command, fails, make_artifact, succeeds, version_of


class Key:
    """A key pair as openssl makes one."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        self._openssl("genpkey", "-algorithm", "ed25519", "-out", str(self.private))
        self._openssl("pkey", "-in", str(self.private), "-pubout", "-out", str(self.public))

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return Key(tmp_path, "key")


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "one", weights=b"one")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "two", weights=b"two")


class Deployment:
    """Pulls with a trust of its own, as a server opens: the same check, without a model."""

    def __init__(self, place: Place, folder: Path, trust: Path | str, **settings: str) -> None:
        self.place, self.out = place, folder / "pulled"
        self.environ = {
            **place.environ,
            "PREHEAT_TRUST": str(trust),
            "PREHEAT_HIGH_WATER": str(folder / "high-water"),
            **settings,
        }

    def runs(self, which: str) -> str:
        version: str = succeeds(self.environ, "pull", f"{self.place.root}/m@{which}", self.out)["version"]
        return version

    def refuses(self, which: str) -> str:
        line = fails(self.environ, "pull", f"{self.place.root}/m@{which}", self.out)
        assert not self.out.exists()
        return line


def stored(place: Place, path: str) -> Path:
    return Path(place.root.removeprefix("file://")) / "artifacts" / "m" / path


def test_what_is_signed_runs(place: Place, key: Key, one: Path, tmp_path: Path) -> None:
    done = command(place.environ, "publish", one, f"{place.root}/m", "--alias", "prod", "--sign", key.private)
    assert done.status == 0
    told = done.err.partition("PREHEAT_TRUST=")[2].split()[0]
    for trust in (key.public, told, f"{Key(tmp_path, 'other').public}, {key.public}"):
        deployment = Deployment(place, tmp_path, trust)
        for which in ("prod", version_of(one)[:10], f"sha256:{version_of(one)}"):
            assert deployment.runs(which) == version_of(one)


@pytest.mark.attack
def test_what_is_not_signed_is_refused(folder: Place, key: Key, one: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")
    deployment = Deployment(folder, tmp_path, key.public)
    for which in ("prod", version_of(one)):
        assert "is not signed, and PREHEAT_TRUST asks for it" in deployment.refuses(which)
    succeeds({}, "promote", f"{folder.root}/m@prod", "--alias", "prod", "--sign", key.private)
    for which in ("prod", version_of(one)):
        deployment.runs(which)
    done = command({}, "promote", f"{folder.root}/m@{version_of(one)}", "--alias", "prod")
    assert "already names" in done.out


@pytest.mark.attack
def test_another_key_is_refused(folder: Place, key: Key, one: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod", "--sign", key.private)
    deployment = Deployment(folder, tmp_path, Key(tmp_path, "other").public)
    for which in ("prod", version_of(one)):
        assert "is signed by" in deployment.refuses(which)


def _payload(envelope: dict[str, Any], **changes: Any) -> None:
    said = json.loads(base64.b64decode(envelope["payload"])) | changes
    envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()


def _signature(envelope: dict[str, Any]) -> None:
    raw = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    raw[5] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(raw).decode()


@pytest.mark.attack
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_signature, "does not match what key"),
        (lambda e: _payload(e, epoch=9), "does not match what key"),
        (lambda e: e.update(payloadType="text/plain"), "over another thing"),
        (lambda e: e.pop("payload"), "is not a DSSE envelope"),
        (lambda e: e.update(signatures=[]), "is signed by nobody"),
        (lambda e: e.update(signatures=[{}]), "is not a DSSE envelope"),
        (lambda e: e.update(payload="%"), "is not a DSSE envelope"),
    ],
)
def test_a_harmed_signature_is_refused(
    folder: Place, key: Key, one: Path, tmp_path: Path, harm: Callable[[dict[str, Any]], Any], said: str
) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod", "--sign", key.private)
    alias, version = stored(folder, "aliases/prod.json"), stored(folder, f"signed/{version_of(one)}.json")
    document = json.loads(alias.read_text())
    harm(document["envelope"])
    alias.write_text(json.dumps(document))
    envelope = json.loads(version.read_text())
    harm(envelope)
    version.write_text(json.dumps(envelope))
    deployment = Deployment(folder, tmp_path, key.public)
    for which in ("prod", version_of(one)):
        assert said in deployment.refuses(which)


@pytest.mark.attack
def test_a_signature_for_another_thing_is_refused(
    folder: Place, key: Key, one: Path, two: Path, tmp_path: Path
) -> None:
    """Renamed: a signed document put where another is asked for."""
    for artifact, alias in ((one, "old"), (two, "prod")):
        succeeds({}, "publish", artifact, f"{folder.root}/m", "--alias", alias, "--sign", key.private)
    deployment = Deployment(folder, tmp_path, key.public)
    old = json.loads(stored(folder, "aliases/old.json").read_text())
    stored(folder, "aliases/prod.json").write_text(json.dumps(old | {"alias": "prod"}))
    assert "is valid, and over m@" in deployment.refuses("prod")
    signed = stored(folder, f"signed/{version_of(one)}.json").read_text()
    stored(folder, f"signed/{version_of(two)}.json").write_text(signed)
    assert "is valid, and over m@" in deployment.refuses(version_of(two))


@pytest.mark.attack
def test_an_old_state_is_refused(place: Place, key: Key, one: Path, two: Path, tmp_path: Path) -> None:
    sign = ("--alias", "prod", "--sign", key.private)
    succeeds(place.environ, "publish", one, f"{place.root}/m", *sign)
    store = Deployment(place, tmp_path, key.public, PREHEAT_HIGH_WATER=f"{place.root}/marks")
    here = Deployment(place, tmp_path, key.public)
    assert here.runs("prod") == store.runs("prod") == version_of(one)
    succeeds(place.environ, "publish", two, f"{place.root}/m", *sign)
    assert here.runs("prod") == store.runs("prod") == version_of(two)
    back = succeeds(place.environ, "rollback", f"{place.root}/m", *sign)
    assert (back["epoch"], back["signed"]) == (3, True)
    assert here.runs("prod") == store.runs("prod") == version_of(one)
    floor = Deployment(place, tmp_path / "new", key.public, PREHEAT_EPOCH="4")
    assert "is of epoch 3; PREHEAT_EPOCH asks for 4 at least" in floor.refuses("prod")
    succeeds(place.environ, "promote", f"{place.root}/m@{version_of(two)}", *sign)
    assert floor.runs("prod") == version_of(two)


@pytest.mark.attack
def test_a_store_that_shows_yesterday_is_refused(
    folder: Place, key: Key, one: Path, two: Path, tmp_path: Path
) -> None:
    sign = ("--alias", "prod", "--sign", key.private)
    alias = stored(folder, "aliases/prod.json")
    succeeds({}, "publish", one, f"{folder.root}/m", *sign)
    yesterday = alias.read_text()
    succeeds({}, "publish", two, f"{folder.root}/m", *sign)
    deployments = [
        Deployment(folder, tmp_path, key.public, PREHEAT_HIGH_WATER=place)
        for place in (str(tmp_path / "marks"), f"{folder.root}-marks")
    ]
    for deployment in deployments:
        deployment.runs("prod")
        deployment.out.rename(tmp_path / f"was-{deployments.index(deployment)}")
    alias.write_text(yesterday)
    for deployment in deployments:
        assert "of epoch 1, and 2 was seen before" in deployment.refuses("prod")


@pytest.mark.attack
def test_what_was_read_last_is_held_against_the_signature_too(
    moto: Place, key: Key, one: Path, two: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is down does not let an old state pass."""
    sign = ("--alias", "prod", "--sign", key.private)
    for name, value in moto.environ.items():
        monkeypatch.setenv(name, value)
    succeeds(moto.environ, "publish", one, f"{moto.root}/m", *sign)
    marks = str(tmp_path / "marks")
    settings = Settings(
        trust=str(key.public), stale=60.0, high_water=marks, fetch_timeout=2.0, cache=str(cache)
    )

    def starts() -> str:
        reference = parse(f"{moto.root}/m@prod")
        remote = open_remote(reference, settings, cache_dir=str(cache), clock=PhaseClock())
        remote.require(["t.json"])
        remote.close()
        return remote.version

    assert starts() == version_of(one)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert starts() == version_of(one)
    (note,) = (cache / "store").glob("*.alias")
    honest = note.read_text()
    note.write_text(honest.replace(version_of(one), version_of(two)))
    with pytest.raises(TrustError, match="is valid, and over"):
        starts()
    note.write_text(honest)
    Path(marks, "m@prod").write_text("2\n")  # another host, which shares the marks, has seen the next epoch
    with pytest.raises(TrustError, match="of epoch 1, and 2 was seen before"):
        starts()


def measured_anew(path: Path) -> None:
    """Change what no version covers, and what decides which variant runs."""
    document = json.loads(path.read_text())
    document["measurements"] = {"variants": {"portable": {"steady_ms": {"median": 0.001}}}}
    path.write_text(json.dumps(document))


@pytest.mark.attack
def test_measurements_are_signed_too(folder: Place, key: Key, one: Path, tmp_path: Path) -> None:
    """A store cannot steer which variant runs."""
    sign = ("--alias", "prod", "--sign", key.private)
    succeeds({}, "publish", one, f"{folder.root}/m", *sign)
    measured_anew(stored(folder, f"versions/{version_of(one)}.json"))
    deployment = Deployment(folder, tmp_path, key.public)
    for which in ("prod", version_of(one)):
        assert "measurements were changed after it was signed" in deployment.refuses(which)
    for words in (
        ("promote", f"{folder.root}/m@prod", "--alias", "live"),
        ("export", f"{folder.root}/m@prod", tmp_path / "bundle.tar"),
    ):
        if words[0] == "promote":
            line = fails({}, *words, "--sign", key.private)
            assert "is valid, and over" in line
        else:
            assert "measurements were changed" in fails(deployment.environ, *words)
    assert "there is no alias 'live'" in fails({}, "pull", f"{folder.root}/m@live", tmp_path / "out")


def test_another_build_of_a_version_is_signed_as_it_lies_there(
    folder: Place, key: Key, one: Path, tmp_path: Path
) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")
    measured_anew(one / "manifest.json")
    assert not succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod")["new"]
    sign = ("--alias", "prod", "--sign", key.private)
    line = fails({}, "publish", one, f"{folder.root}/m", *sign)
    assert "is this version with other measurements" in line
    assert f"`preheat promote {folder.root}/m@{version_of(one)[:12]} --sign` signs those" in line
    succeeds({}, "promote", f"{folder.root}/m@{version_of(one)[:12]}", *sign)
    deployment = Deployment(folder, tmp_path, key.public)
    for which in ("prod", version_of(one)):
        deployment.runs(which)


@pytest.mark.attack
def test_a_cached_manifest_is_held_against_the_signature(
    folder: Place, key: Key, filetype_artifact: Path, cache: Path
) -> None:
    """A cache that was filled before signatures were asked for."""
    where = f"{folder.root}/filetype"
    succeeds({}, "publish", filetype_artifact, where, "--alias", "prod", "--sign", key.private)
    there = Path(folder.root.removeprefix("file://")) / "artifacts" / "filetype" / "versions"
    honest = (there / f"{version_of(filetype_artifact)}.json").read_text()
    measured_anew(there / f"{version_of(filetype_artifact)}.json")
    environ = {"PREHEAT_CACHE": str(cache), "PREHEAT_OBJECTIVE": "warm"}
    succeeds(environ, "try", f"{where}@prod")
    trusting = {**environ, "PREHEAT_TRUST": str(key.public)}
    assert "measurements were changed" in fails(trusting, "try", f"{where}@prod")
    (there / f"{version_of(filetype_artifact)}.json").write_text(honest)
    for _ in range(2):  # fetched anew, then from the cache
        assert succeeds(trusting, "try", f"{where}@prod")["answers"][0]["status"] == 200


def test_an_alias_that_lost_its_signature_is_told_of(folder: Place, key: Key, one: Path, two: Path) -> None:
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod", "--sign", key.private)
    done = command({}, "publish", two, f"{folder.root}/m", "--alias", "prod")
    assert "prod was signed and no longer is" in done.err


@pytest.mark.attack
def test_a_server_makes_no_session_of_what_it_does_not_trust(
    folder: Place, key: Key, filetype_artifact: Path, cache: Path
) -> None:
    where = f"{folder.root}/filetype"
    succeeds({}, "publish", filetype_artifact, where, "--alias", "prod")
    environ = {"PREHEAT_TRUST": str(key.public), "PREHEAT_CACHE": str(cache)}

    def refused(artifact: str | Path) -> str:
        status, _, err = Server(artifact, **environ).finish()
        assert status == 1
        return err

    assert "is not signed" in refused(f"{where}@prod")
    assert not any((cache / "store" / "blobs").iterdir())
    assert "a folder carries no signature" in refused(filetype_artifact)
    succeeds({}, "promote", f"{where}@prod", "--alias", "prod", "--sign", key.private)
    for which in ("prod", version_of(filetype_artifact)):
        with serving(f"{where}@{which}", **environ) as server:
            server.wait_ready()


@pytest.mark.attack
@pytest.mark.parametrize(
    ("trust", "said"),
    [
        ("/nowhere.pem", "/nowhere.pem cannot be read"),
        ("ed25519:AAAA", "is not an ed25519 public key"),
        ("ed25519:%", "is not an ed25519 public key"),
        (" , ", "PREHEAT_TRUST names no key"),
        ("{rsa}", "is another kind of key"),
        ("{private}", "is not an ed25519 public key"),
    ],
)
def test_a_trust_that_is_none(
    folder: Place, key: Key, one: Path, tmp_path: Path, trust: str, said: str
) -> None:
    rsa = tmp_path / "rsa.pem"
    Key._openssl("genpkey", "-algorithm", "rsa", "-out", str(tmp_path / "rsa.key"))
    Key._openssl("pkey", "-in", str(tmp_path / "rsa.key"), "-pubout", "-out", str(rsa))
    succeeds({}, "publish", one, f"{folder.root}/m", "--alias", "prod", "--sign", key.private)
    environ = {"PREHEAT_TRUST": trust.format(rsa=rsa, private=key.private)}
    line = fails(environ, "pull", f"{folder.root}/m@prod", tmp_path / "out", status=2)
    assert said in line


def test_a_key_that_cannot_sign(folder: Place, key: Key, one: Path, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no")
    for path, said in (
        ("/nowhere.pem", "cannot be read"),
        (tmp_path / "no.pem", "is not a private key in PEM"),
        (key.public, "is not a private key in PEM"),
    ):
        done: Done = command({}, "publish", one, f"{folder.root}/m", "--sign", path)
        assert done.status == 2
        assert said in done.err
    assert not Path(folder.root.removeprefix("file://")).exists()
