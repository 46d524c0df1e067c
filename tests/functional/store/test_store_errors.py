"""What a user can get wrong about a store or a cache: one line that says what to do, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ...conftest import Server
from . import fault_proxy
from .conftest import Place
from .fault_proxy import Fault
from .samples import content, environ, fails, make_artifact, succeeds, version_of

SIZE = 6_000_000


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))


def without_keys(place: Place) -> dict[str, str]:
    return {k: v for k, v in place.environ.items() if "KEY" not in k} | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }


def everything(place: Place, artifact: Path, tmp_path: Path) -> list[list[str]]:
    """Each command that talks to a store."""
    return [
        ["publish", str(artifact), f"{place.root}/m", "--alias", "prod"],
        ["pull", f"{place.root}/m@prod", str(tmp_path / "out")],
        ["promote", f"{place.root}/m@prod", "--alias", "live"],
        ["rollback", f"{place.root}/m", "--alias", "prod"],
        ["ls", place.root],
        ["gc", place.root],
    ]


def test_no_credentials(moto: Place, artifact: Path, tmp_path: Path) -> None:
    for words in everything(moto, artifact, tmp_path):
        assert "no credentials: set AWS_ACCESS_KEY_ID" in fails(without_keys(moto), *words)
    assert not (tmp_path / "out").exists()


def test_a_wrong_bucket(moto: Place, rclone: Place, artifact: Path, tmp_path: Path) -> None:
    for place in (moto, rclone):
        wrong = place._replace(root="s3://nobody/prefix")
        for words in everything(wrong, artifact, tmp_path)[:4]:
            assert "s3://nobody/prefix: the bucket does not exist" in fails(place.environ, *words)


@pytest.mark.parametrize(
    ("fault", "said"),
    [(Fault.DENIED, "permission denied"), (Fault.ELSEWHERE, "in another region; set AWS_REGION")],
)
def test_a_refusal(moto: Place, artifact: Path, tmp_path: Path, fault: Fault, said: str) -> None:
    with fault_proxy.before(moto.environ["AWS_ENDPOINT_URL"]) as proxy:
        proxy.plan = lambda _asked: fault
        for words in everything(moto, artifact, tmp_path):
            assert said in fails({**moto.environ, "AWS_ENDPOINT_URL": proxy.url}, *words)
        assert len(proxy.asked) == 6  # nothing is tried again that another try cannot change


def test_a_signature_for_another_region(moto: Place, artifact: Path, tmp_path: Path) -> None:
    with fault_proxy.before(moto.environ["AWS_ENDPOINT_URL"]) as proxy:
        proxy.plan = lambda _asked: Fault.MALFORMED
        for words in everything(moto, artifact, tmp_path):
            said = fails({**moto.environ, "AWS_ENDPOINT_URL": proxy.url}, *words)
            assert "in another region; set AWS_REGION" in said


class Profiles:
    """A home with AWS's shared files, and an environment that names nothing else of AWS."""

    def __init__(self, place: Place, home: Path) -> None:
        self.folder = home / ".aws"
        self.folder.mkdir(parents=True)
        self.environ = {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
        self.url = place.environ["AWS_ENDPOINT_URL"]

    def write(self, credentials: str, config: str) -> None:
        (self.folder / "credentials").write_text(credentials)
        (self.folder / "config").write_text(config.replace("URL", self.url))


@pytest.mark.parametrize("name", ["default", "work"])
def test_a_profile_of_aws_shared_files(moto: Place, artifact: Path, tmp_path: Path, name: str) -> None:
    home = Profiles(moto, tmp_path / "home")
    section = name if name == "default" else f"profile {name}"
    with fault_proxy.before(home.url) as proxy:
        home.url = proxy.url
        home.write(
            f"[other]\naws_access_key_id = x\n[{name}]\naws_access_key_id = {name}-key\n"
            "aws_secret_access_key = a%s\n",
            f"[{section}]\nregion = eu-north-1\nendpoint_url = URL\n",
        )
        environ = home.environ | ({} if name == "default" else {"AWS_PROFILE": name})
        succeeds(environ, "publish", artifact, f"{moto.root}/m", "--alias", "prod")
        signed = f"Credential={name}-key/"
        assert all(signed in asked.authorization for asked in proxy.asked)
        assert all("/eu-north-1/s3/" in asked.authorization for asked in proxy.asked)
    assert succeeds(home.environ | moto.environ, "ls", moto.root)["artifacts"]  # the environment's keys win


def test_a_profile_that_cannot_be_used(moto: Place, tmp_path: Path) -> None:
    home = Profiles(moto, tmp_path / "home")
    named = home.environ | {"AWS_PROFILE": "work"}
    assert "AWS_PROFILE names 'work', which is in none of" in fails(named, "ls", moto.root)
    home.write("[default]\naws_access_key_id = x\n", "[profile work]\nsso_session = s\nregion = eu-north-1\n")
    line = fails(named, "ls", moto.root)
    assert "has its keys from sso_session" in line
    assert "aws configure export-credentials --profile work" in line
    home.write("[work\n", "")
    assert "/.aws/credentials cannot be read" in fails(named, "ls", moto.root)
    home.write("", "[profile work]\nendpoint_url = URL\n")
    assert "no credentials: set AWS_ACCESS_KEY_ID" in fails(named, "ls", moto.root)


def test_a_server_that_is_not_there(moto: Place, artifact: Path, tmp_path: Path) -> None:
    dead = {**moto.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "PREHEAT_FETCH_TIMEOUT": "1"}
    for words in everything(moto, artifact, tmp_path):
        assert "no answer from http://127.0.0.1:9; is AWS_ENDPOINT_URL right?" in fails(dead, *words)


def test_what_does_not_exist(place: Place, artifact: Path, tmp_path: Path) -> None:
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    out = tmp_path / "out"
    for which, said in (
        ("m@live", "there is no alias 'live'; there are prod"),
        ("other@prod", "there is no artifact 'other'; there are m"),
        ("m@0123456789", "no version begins so"),
        (f"m@sha256:{'0' * 64}", "does not exist"),
    ):
        assert said in fails(place.environ, "pull", f"{place.root}/{which}", out)
    assert "named nothing before" in fails(place.environ, "rollback", f"{place.root}/m", "--alias", "prod")
    assert "there is no alias 'live'" in fails(
        place.environ, "rollback", f"{place.root}/m", "--alias", "live"
    )
    assert not out.exists()


@pytest.mark.attack
def test_a_store_that_lies_about_a_version(folder: Place, artifact: Path, tmp_path: Path) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m", "--alias", "prod")
    other = make_artifact(tmp_path / "other", weights=b"other")
    versions = Path(folder.root.removeprefix("file://")) / "artifacts" / "m" / "versions"
    there = versions / f"{version_of(artifact)}.json"
    honest = there.read_text()
    for text, said in (
        ((other / "manifest.json").read_text(), "is another version than asked for"),
        (honest.replace('"warmup_runs": 1', '"warmup_runs": 2'), "was changed after the build"),
        (honest.replace("k/weights", "../weights"), "is not a plain path inside the artifact"),
        ("{", "is not JSON"),
    ):
        there.write_text(text)
        assert said in fails({}, "pull", f"{folder.root}/m@prod", tmp_path / "out")
    there.write_text(honest)
    alias = versions.parent / "aliases" / "prod.json"
    for text in ("{", "[]", "null", alias.read_text().replace('"m"', '"n"'), '{"schema": 1}'):
        alias.write_text(text)
        assert "is not the alias 'prod' of 'm'" in fails({}, "pull", f"{folder.root}/m@prod", tmp_path / "o")


def refused(place: Place, cache: str) -> str:
    """What a server says that cannot start."""
    server = Server(f"{place.root}/m@prod", **place.environ, PREHEAT_CACHE=cache)
    status, _, err = server.finish()
    assert status == 1, err
    (line,) = err.splitlines()
    return line


def test_a_cache_that_cannot_be_used(folder: Place, artifact: Path, cache: Path) -> None:
    succeeds({}, "publish", artifact, f"{folder.root}/m", "--alias", "prod")
    assert "the cache /proc/nothing/store cannot be made" in refused(folder, "/proc/nothing")
    (cache / "store").mkdir(parents=True)
    (cache / "store").chmod(0o777)
    assert "or others may write there; set PREHEAT_CACHE" in refused(folder, str(cache))


def test_no_space(folder: Place, artifact: Path, tmp_path: Path) -> None:
    """On a file system of 4 MB, which takes the right to mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs")
    try:
        succeeds({}, "publish", artifact, f"{folder.root}/m", "--alias", "prod")
        succeeds({}, "publish", make_artifact(tmp_path / "fits"), f"{folder.root}/m", "--alias", "fits")
        line = fails({}, "pull", f"{folder.root}/m@prod", small / "out")
        assert "no space left in" in line
        assert "bytes are free" in line
        assert not list(small.iterdir())
        succeeds({}, "pull", f"{folder.root}/m@fits", small / "out")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_obstore_is_asked_for(tmp_path: Path, artifact: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from preheat.cli import run\n"
        f"sys.exit(run(['pull', 's3://bucket/m@prod', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ({}), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "error: object storage needs obstore: pip install 'preheat[store]'",
    )
