"""Instances restored by CRIU from a dump of the gateway's own; and what happens where that cannot be."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import stat
from collections import Counter
from pathlib import Path

import pytest

from preheat.measure.start import children

from ...conftest import gone, revise
from .conftest import Up, asking, own_artifact, template, up, version_of

CRIU = ("--start", "criu")
restores = pytest.mark.usefixtures("criu_program")


def fake_criu(folder: Path, script: str) -> str:
    """PATH with a CRIU of the test's own in front."""
    path = folder / "bin" / "criu"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"


@restores
def test_several_are_restored_from_one_dump_at_once(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *CRIU) as gateway:
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            answers = list(pool.map(lambda n: gateway.predict(f"ask {n:08}"), range(30)))
        assert Counter(one.status for one in answers) == {200: 30}
        assert Counter((told / "seen").read_text().split()) == Counter(f"{n:08}" for n in range(30))
        assert gateway.scale(4).status == 200
        found = gateway.wait(lambda found: all(one["start"] for one in found["instances"]))
        assert found["start"] == "criu"
        instances = found["instances"]
        assert [(one["kind"], one["start"]["restore"], one["not_restored"]) for one in instances] == [
            ("criu", "criu", "")
        ] * len(instances)
        assert len(instances) >= 4
        for distinct in ("pid", "port"):
            assert len({one[distinct] for one in instances}) == len(instances)
        assert len({one["start"]["instance"] for one in instances}) == len(instances)
        assert len((told / "starts").read_text().split()) == 1, "the dumped one alone was started"
        assert gateway.scale(0).status == 200
        assert gone([one["pid"] for one in instances])
        assert gateway.predict().headers["x-preheat-start"] == "restored"


@restores
def test_nobody_else_reads_the_dump_and_nothing_of_it_stays(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *CRIU) as gateway:
        assert gateway.predict().status == 200
        (folder,) = gateway.state.glob("up-*")
        (images,) = folder.glob("*/images")
        for place in (folder, images.parent, images):
            assert stat.S_IMODE(place.stat().st_mode) == 0o700
        first = Up(tmp_path, str(told), *CRIU)  # one that is killed leaves its dump to the next
        assert first.predict().status == 200
        first.process.kill()
        first.process.wait(30)
        assert len(list(gateway.state.glob("up-*/*/images"))) == 2
        second = Up(tmp_path, str(told), *CRIU)
        assert len(list(gateway.state.glob("up-*"))) == 2
        assert second.end() == 0
        assert images.exists()
    assert not list(gateway.state.glob("up-*"))


@restores
def test_a_restored_instance_is_killed(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *CRIU, PREHEAT_LEASE="0.5") as gateway:
        first = gateway.predict()
        answer = gateway.predict("crash 1")
        assert (answer.status, answer.json()["code"]) == (502, "crashed")
        assert "SIGKILL" in answer.json()["error"], "its end is told through the process that stays beside it"
        again = gateway.predict()
        assert again.status == 200
        assert again.headers["x-preheat-instance"] != first.headers["x-preheat-instance"]
        (pid,) = [one["pid"] for one in gateway.function()["instances"]]
        os.kill(pid, signal.SIGKILL)
        assert gone([pid])
        assert gateway.predict().headers["x-preheat-start"] == "restored"
        keyed = gateway.predict("crash-once 7", idempotency_key="k7")
        assert keyed.status == 200, "a signal ended it, so what has a key is tried again"


@restores
def test_the_restore_server_is_killed_and_instances_go_on(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *CRIU, "--max", "1") as gateway:
        first = gateway.predict()
        old = template(gateway)
        os.kill(old, signal.SIGKILL)
        assert gone([old])
        again = gateway.predict()
        assert again.headers["x-preheat-instance"] == first.headers["x-preheat-instance"]
        assert gateway.predict("crash 1").status == 502
        assert gateway.predict().headers["x-preheat-start"] == "restored"
        assert template(gateway) != old


@restores
def test_the_gateway_is_killed_and_what_was_restored_is_ended(told: Path, tmp_path: Path) -> None:
    first = Up(tmp_path, str(told), *CRIU)
    assert first.scale(2).status == 200
    pids = [one["pid"] for one in first.function()["instances"]]
    pids += [child for pid in pids for child in children(pid)]
    made = template(first)
    assert len(pids) == 4
    first.process.kill()
    first.process.wait(30)
    assert gone([*pids, made])


@restores
def test_another_artifact_makes_another_dump_and_no_request_fails(told: Path, tmp_path: Path) -> None:
    own_artifact(told)
    with up(tmp_path, str(told), *CRIU) as gateway:
        assert gateway.predict().status == 200
        (old,) = gateway.state.glob("up-*/*/images")
        with asking(gateway) as answers:
            version = revise(told / "artifact", "second")
            gateway.wait(lambda found: any(version == version_of(one) for one in found["instances"]))
            gateway.wait(lambda found: all(version == version_of(one) for one in found["instances"]))
            assert {one["kind"] for one in gateway.function()["instances"]} == {"criu"}
            gateway.wait(lambda _: not old.exists())
        assert set(answers) == {200}
        assert len(answers) > 10


@restores
def test_one_that_cannot_be_restored_starts_fresh_and_says_why(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *CRIU) as gateway:
        gateway.wait(lambda _: any(gateway.state.glob("up-*/*/snapshot.json")))
        (images,) = gateway.state.glob("up-*/*/images")
        for image in images.glob("pages-*.img"):
            image.unlink()
        answer = gateway.predict()
        assert (answer.status, answer.headers["x-preheat-start"]) == (200, "cold")
        found = gateway.wait(lambda found: found["instances"][0]["start"])["instances"][0]
        assert (found["kind"], found["not_restored"][:13]) == ("fresh", "criu restore:")
        assert "fresh (criu restore:" in gateway.page()
        assert "the server starts fresh: criu restore:" in gateway.log.read_text()
        answer = gateway.predict("crash 1")
        assert (answer.status, "SIGKILL" in answer.json()["error"]) == (502, True)


@restores
def test_without_the_right_to_namespaces_one_is_restored_and_the_others_start_fresh(
    told: Path, tmp_path: Path
) -> None:
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("only root can give up CAP_SYS_ADMIN alone, by util-linux's setpriv")
    fewer = ("setpriv", "--bounding-set", "-sys_admin")
    with up(tmp_path, str(told), *CRIU, before=fewer) as gateway:
        assert gateway.predict().headers["x-preheat-start"] == "restored"
        assert gateway.scale(2).status == 200
        found = gateway.wait(lambda found: all(one["start"] for one in found["instances"]))["instances"]
        assert [one["kind"] for one in found] == ["criu", "fresh"]
        assert "criu restore:" in found[1]["not_restored"]
        assert gateway.scale(0).status == 200
        assert gateway.predict().headers["x-preheat-start"] == "restored", "the process id is free again"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Error (criu/x.c:1): no rights' >&2; exit 1", "criu check: Error (criu/x.c:1): no rights"),
        ('test "$1" = check', "criu dump: it said nothing"),
    ],
    ids=["check", "dump"],
)
def test_without_criu_instances_start_fresh_and_say_so(
    told: Path, tmp_path: Path, script: str, reason: str
) -> None:
    with up(tmp_path, str(told), *CRIU, PATH=fake_criu(tmp_path, script)) as gateway:
        answer = gateway.predict()
        assert (answer.status, answer.headers["x-preheat-start"]) == (200, "cold")
        found = gateway.wait(lambda found: found["instances"][0]["start"])
        assert (found["start"], found["not_restored"]) == ("fresh", reason)
        assert [(one["kind"], one["not_restored"]) for one in found["instances"]] == [("fresh", reason)]
        assert f"instances start fresh: {reason}" in gateway.page()
        assert f"warning: instances start fresh, not by criu: {reason}" in gateway.log.read_text()
        gateway.wait(lambda _: not list(gateway.state.glob("up-*/*/images")))  # nothing of a dump is left


def test_a_function_that_does_not_start_is_told_and_tried_again(told: Path, tmp_path: Path) -> None:
    artifact = (told / "artifact").resolve()
    (told / "artifact").unlink()
    good = fake_criu(tmp_path, 'test "$1" = check')
    with up(tmp_path, str(told), *CRIU, PATH=good) as gateway:
        answer = gateway.predict()
        assert (answer.status, answer.json()["code"]) == (503, "failed_start")
        assert "the target does not start" in answer.json()["error"]
        assert gateway.function()["not_restored"] == "", "that is no fault of CRIU's"
        (told / "artifact").symlink_to(artifact)
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200
