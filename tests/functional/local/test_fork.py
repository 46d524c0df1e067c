"""Instances forked from a template: what becomes of both, whichever ends first."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

from ...conftest import gone, revise, running
from .conftest import KIND, Up, asking, own_artifact, template, up, version_of

FORK = ("--start", "fork")


def test_a_burst_on_an_idle_function_is_answered_whole_and_once(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *FORK, "--max", "8") as gateway:
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda n: gateway.predict(f"ask {n:08}"), range(50)))
        assert Counter(one.status for one in answers) == {200: 50}
        assert Counter((told / "seen").read_text().split()) == Counter(f"{n:08}" for n in range(50))
        assert len((told / "starts").read_text().split()) == 1, "the template alone was started"
        assert gateway.scale(8).status == 200
        found = gateway.function()["instances"]
        assert len({one["pid"] for one in found}) == 8
        for one in found:
            assert one["kind"] == "fork"
            # Asking the template and its fork take time, and the clone's own restore goes on after it.
            assert 0 < one["ready_ms"] < 5000
        told_of = re.findall(
            r"^told-\d+  ready after (\S+) ms, forked from its template$", gateway.log.read_text(), re.M
        )
        assert len(told_of) >= 8
        assert all(float(figure) > 0 for figure in told_of)
        assert gateway.scale(0).status == 200
        assert gone([one["pid"] for one in found])
        assert gateway.predict().headers["x-preheat-start"] == "restored"


def test_a_clone_is_killed_while_it_answers(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *FORK) as gateway:
        first = gateway.predict()
        answer = gateway.predict("crash 1")
        assert (answer.status, answer.json()["code"]) == (502, "crashed")
        assert "SIGKILL" in answer.json()["error"]
        again = gateway.predict()
        assert again.status == 200
        assert again.headers["x-preheat-instance"] != first.headers["x-preheat-instance"]


def test_the_template_is_killed_and_its_clones_go_on(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *FORK, "--max", "1") as gateway:
        first = gateway.predict()
        (clone,) = [one["pid"] for one in gateway.function()["instances"]]
        old = template(gateway)
        os.kill(old, signal.SIGKILL)
        assert gone([old])
        again = gateway.predict()
        assert again.headers["x-preheat-instance"] == first.headers["x-preheat-instance"]
        assert running(clone)
        answer = gateway.predict("crash 1")
        assert (answer.status, answer.json()["code"]) == (502, "crashed")
        assert "SIGKILL" in answer.json()["error"], "its end is told although its parent is gone"
        served = gateway.predict()
        assert served.status == 200
        assert template(gateway) != old


def test_another_artifact_makes_another_template_and_no_request_fails(told: Path, tmp_path: Path) -> None:
    own_artifact(told)
    with up(tmp_path, str(told), *FORK) as gateway:
        assert gateway.predict().status == 200
        old = template(gateway)
        with asking(gateway) as answers:
            version = revise(told / "artifact", "second")
            gateway.wait(lambda found: any(version == version_of(one) for one in found["instances"]))
            gateway.wait(lambda found: all(version == version_of(one) for one in found["instances"]))
            assert gone([old])
            new = template(gateway)
            # Where no template comes of the next one, the one that is there goes on.
            (told / "start").write_text("full")
            revise(told / "artifact", "third")
            starts = (told / "starts").read_text()
            deadline = time.monotonic() + 30
            while (told / "starts").read_text() == starts:
                assert time.monotonic() < deadline, "it was not tried"
                time.sleep(0.05)
            time.sleep(0.5)
            assert running(new)
            assert {version_of(one) for one in gateway.function()["instances"]} == {version}
        assert set(answers) == {200}
        assert len(answers) > 10


def test_the_gateway_is_killed_and_clones_are_ended(told: Path, tmp_path: Path) -> None:
    first = Up(tmp_path, str(told), *FORK)
    assert first.predict().status == 200
    pids = [one["pid"] for one in first.function()["instances"]]
    made = template(first)
    first.process.kill()
    first.process.wait(30)
    assert gone([*pids, made]), "whoever forks them tells them"
    with up(tmp_path, str(told), *FORK) as gateway:
        assert gateway.predict().status == 200


def test_an_edited_app_makes_another_template(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), *FORK) as gateway:
        assert gateway.predict().status == 200
        old = template(gateway)
        with (told / "app.py").open("a") as app:
            app.write("\n# edited\n")
        assert gone([old], 30)
        assert gateway.predict().status == 200


def test_a_template_that_cannot_start_is_told_and_tried_again(told: Path, tmp_path: Path) -> None:
    artifact = (told / "artifact").resolve()
    (told / "artifact").unlink()
    with up(tmp_path, str(told), *FORK) as gateway:
        answer = gateway.predict()
        assert (answer.status, answer.json()["code"]) == (503, "failed_start")
        assert "artifact" in answer.json()["error"]
        (told / "artifact").symlink_to(artifact)
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.request("POST", "/predict", b"x" * 64, KIND).status == 200
