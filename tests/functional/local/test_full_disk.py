"""A disk that is full: a small tmpfs in a mount namespace of the gateway's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .conftest import KIND, Up, up

FILLER = "filler"


def small(place: Path, mib: int, *more: str, fill: bool = False) -> tuple[str, ...]:
    """What runs a command with a small file system at ``place``, filled where that is asked for; ``more``:
    options of unshare(1)."""
    place.mkdir(exist_ok=True)
    filler = f'{{ cat /dev/zero > "$0/{FILLER}" 2>/dev/null || true; }} &&' if fill else ""
    mount = f'mount -t tmpfs -o size={mib}m tmpfs "$0" && {filler} exec "$@"'
    return ("unshare", "--mount", *more, "sh", "-c", mount, str(place))


@pytest.fixture
def by_user(tmp_path: Path) -> tuple[str, ...]:
    """Options of unshare(1) that let a user mount a file system, or the reason why nobody may."""
    options = ("--user", "--map-root-user")
    command = [*small(tmp_path / "tried", 1, *options), "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    return options


def within(gateway: Up, path: Path) -> Path:
    """A path as the gateway has it."""
    return Path(f"/proc/{gateway.process.pid}/root{path}")


@pytest.mark.parametrize("kind", ["fresh", "fork"])
def test_the_cache_has_no_room_for_the_artifact(
    by_user: tuple[str, ...], store: str, tmp_path: Path, kind: str
) -> None:
    cache = tmp_path / "cache"
    before = small(cache, 24, *by_user, fill=True)
    with up(tmp_path, f"{store}@prod", "--start", kind, before=before) as gateway:
        answer = gateway.request("POST", "/predict", b"x" * 64, KIND)
        assert (answer.status, answer.json()["code"]) == (503, "disk_full"), answer.json()
        assert "no space left in" in answer.json()["error"]
        assert "disk_full" in gateway.page()
        (within(gateway, cache) / FILLER).unlink()
        gateway.wait(lambda found: found["retry_in_s"] == 0, name="filetype")
        assert gateway.request("POST", "/predict", b"x" * 64, KIND).status == 200


@pytest.mark.parametrize("kind", ["fresh", "fork"])
def test_instances_cannot_be_noted(by_user: tuple[str, ...], told: Path, tmp_path: Path, kind: str) -> None:
    state = tmp_path / "state"
    with up(tmp_path, str(told), "--start", kind, before=small(state, 1, *by_user)) as gateway:
        assert gateway.predict().status == 200
        assert gateway.scale(0).status == 200
        filler = within(gateway, state) / FILLER
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            file.write(bytes(2 << 20))
        answer = gateway.predict()
        assert (answer.status, answer.json()["code"]) == (503, "disk_full"), answer.json()
        assert "was not started" in answer.json()["error"]
        assert "disk_full" in gateway.page()
        assert gateway.function()["instances"] == []
        filler.unlink()
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200


@pytest.mark.usefixtures("criu_program")
def test_a_dump_has_no_room(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--start", "criu", before=small(tmp_path / "state", 8)) as gateway:
        answer = gateway.predict()
        assert (answer.status, answer.headers["x-preheat-start"]) == (200, "cold")
        found = gateway.wait(lambda found: found["instances"][0]["start"])
        assert found["start"] == "fresh"
        assert found["not_restored"].startswith("criu dump: ")
        state = within(gateway, tmp_path / "state")
        gateway.wait(lambda _: not list(state.glob("up-*/*/images")))  # its part gives way
