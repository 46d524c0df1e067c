"""What goes wrong ends in a clear state on the status page and an outcome of its own; the next is served."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...conftest import gone, running
from .conftest import Up, up


def told_on_the_page(gateway: Up, *words: str) -> bool:
    page = gateway.page()
    return all(word in page for word in words)


def test_killed_while_it_answers(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told)) as gateway:
        gateway.predict()
        answer = gateway.predict("crash 1")
        assert (answer.status, answer.json()["code"]) == (502, "crashed")
        assert answer.headers["x-preheat-outcome"] == "crashed"
        assert "SIGKILL" in answer.json()["error"]
        assert (told / "seen").read_text().split() == ["1", "1"], "it was sent again"
        assert told_on_the_page(gateway, "crashed", "SIGKILL", "the request may have run")
        assert gateway.predict().status == 200
        assert gateway.function()["outcomes"] == {"crashed": 1, "ok": 2}
        assert gateway.function()["error"] is None


def test_the_first_request_kills_its_instance(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told)) as gateway:
        answer = gateway.predict("crash-late 1")
        assert (answer.status, answer.json()["code"]) == (502, "crashed"), "it had started"


def test_a_keyed_request_is_tried_again_and_runs_once_more_only(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), PREHEAT_LEASE="0.5") as gateway:
        answer = gateway.predict("crash-once 7", idempotency_key="k7")
        assert answer.status == 200
        assert (told / "seen").read_text().split() == ["7", "7"]
        again = gateway.predict("crash-once 7", idempotency_key="k7")
        assert again.headers["x-preheat-replayed"] == "true"
        assert again.body == answer.body
        answer = gateway.predict("crash 8", idempotency_key="k8")
        # The last instance may die of it in the moment in which it becomes ready, before it can say so.
        told_as = {"crashed": 502, "failed_start": 503}
        assert answer.status == told_as[answer.json()["code"]], answer.json()
        assert "may have run" in answer.json()["error"]
        assert (told / "seen").read_text().split().count("8") == 3, "within limits"
        assert gateway.function()["failures"] == 3
    with up(tmp_path, str(told), PREHEAT_IDEMPOTENCY="off") as gateway:
        assert gateway.predict("crash-late 9", idempotency_key="k9").status == 502
        assert (told / "seen").read_text().split().count("9") == 1, "no key is taken there"


def test_killed_while_it_starts(told: Path, tmp_path: Path) -> None:
    (told / "start").write_text("slow")
    with up(tmp_path, str(told)) as gateway, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.predict)
        pid = gateway.wait(lambda found: found["state"] == "starting")["instances"][0]["pid"]
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        answer = asked.result()
        assert (answer.status, answer.json()["code"]) == (503, "failed_start")
        assert answer.headers["x-preheat-outcome"] == "failed_start"
        assert answer.headers["retry-after"] == "1"
        assert "did not start: it was ended by SIGKILL" in answer.json()["error"]
        assert told_on_the_page(gateway, "failed_start", "SIGKILL")
        assert gateway.predict().status == 200


def test_the_artifact_is_deleted(told: Path, tmp_path: Path) -> None:
    artifact = (told / "artifact").resolve()
    (told / "artifact").unlink()
    shutil.copytree(artifact, told / "artifact")
    with up(tmp_path, str(told)) as gateway:
        assert gateway.predict().status == 200
        shutil.rmtree(told / "artifact")
        assert gateway.predict().status == 200, "what runs has it open"
        gateway.scale(0)
        for _ in range(8):  # each failure makes the next wait longer
            starts = (told / "starts").read_text()
            answer = gateway.predict()
            assert (answer.status, answer.json()["code"]) == (503, "failed_start"), answer.json()
            assert "artifact" in answer.json()["error"]
            if "is not started again before" in answer.json()["error"]:
                break
        assert "is not started again before" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1
        assert (told / "starts").read_text() == starts, "it backs off"
        assert gateway.function()["state"] == "failing"
        assert told_on_the_page(gateway, "failing", "failed_start")
        (told / "artifact").symlink_to(artifact)
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200
        assert gateway.function()["state"] == "ready"


def test_never_ready(told: Path, tmp_path: Path) -> None:
    (told / "start").write_text("never")
    with up(tmp_path, str(told), "--start-timeout", "3") as gateway:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: gateway.predict(), range(2)))
        codes = sorted((one.status, one.headers["x-preheat-outcome"], one.json()["code"]) for one in answers)
        assert codes[-1] == (504, "timed_out", "never_ready")
        assert codes[0] in (codes[-1], (503, "failed_start", "never_ready"))
        assert told_on_the_page(gateway, "never_ready", "it was not ready within 3 s")
        assert gone([one["pid"] for one in gateway.function()["ended"]])
        (told / "start").write_text("well")
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200


def test_the_disk_is_full_for_an_instance(told: Path, tmp_path: Path) -> None:
    (told / "start").write_text("full")
    with up(tmp_path, str(told)) as gateway:
        answer = gateway.predict()
        assert (answer.status, answer.json()["code"]) == (503, "disk_full")
        assert "No space left on device" in answer.json()["error"]
        assert told_on_the_page(gateway, "disk_full")
        (told / "start").write_text("well")
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200


def test_the_disk_is_full_for_the_gateway(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told)) as gateway:
        (folder,) = gateway.state.glob("up-*")
        aside = folder.rename(tmp_path / "aside")
        folder.symlink_to("/dev/full")  # nothing can be noted any more
        answer = gateway.predict()
        assert (answer.status, answer.json()["code"]) == (503, "failed_start")
        assert "was not started" in answer.json()["error"]
        folder.unlink()
        aside.rename(folder)
        gateway.wait(lambda found: found["retry_in_s"] == 0)
        assert gateway.predict().status == 200
        assert gone([int(pid) for pid in (told / "starts").read_text().split()][:-1])


def test_memory_past_the_limit(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--memory", "300") as gateway:
        assert gateway.predict().status == 200
        how = gateway.status()["gateway"]["limits"]["memory"]
        assert how == "300 MiB, by control group" or how.startswith("300 MiB, watched by the gateway: ")
        assert told_on_the_page(gateway, how)
        answer = gateway.predict("leak 1")
        assert (answer.status, answer.json()["code"]) == (502, "memory_limit")
        assert told_on_the_page(gateway, "memory_limit")
        assert gateway.predict().status == 200


@pytest.fixture
def leftovers(told: Path) -> Iterator[None]:
    """Instances that ignore SIGTERM end with the test, even where the gateway under test leaves them."""
    yield
    for text in (told / "starts").read_text().split():
        with contextlib.suppress(OSError):
            if str(told) in Path(f"/proc/{text}/environ").read_text():
                os.kill(int(text), signal.SIGKILL)


@pytest.mark.usefixtures("leftovers")
def test_the_gateway_is_killed_and_the_next_one_ends_what_it_left(told: Path, tmp_path: Path) -> None:
    (told / "app.py").write_text(
        (told / "app.py").read_text() + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    )
    stubborn, first = (told / "app.py").read_text(), Up(tmp_path, str(told))
    assert first.predict().status == 200
    pids = [one["pid"] for one in first.function()["instances"]]
    first.process.kill()
    first.process.wait(30)
    (told / "app.py").write_text(stubborn.rpartition("signal.signal")[0])
    assert all(map(running, pids)), "or there is nothing to be found"
    with up(tmp_path, str(told)) as gateway:
        assert gateway.status()["gateway"]["ended_of_an_earlier_gateway"] == len(pids)
        assert gone(pids)
        assert "ended 1 instance" in gateway.log.read_text()
        assert gateway.predict().status == 200
        (gateway.state / "up-other").mkdir()
        (gateway.state / "up-other" / str(os.getpid())).write_text("12345")  # a number that is another's now
        second = Up(tmp_path, str(told))
        assert second.status()["gateway"]["ended_of_an_earlier_gateway"] == 0
        assert second.predict().status == 200
        assert gateway.predict().status == 200, "the first one's own is left alone"
        assert second.end() == 0


def test_instances_end_when_their_gateway_is_killed(told: Path, tmp_path: Path) -> None:
    gateway = Up(tmp_path, str(told))
    assert gateway.predict().status == 200
    pids = [one["pid"] for one in gateway.function()["instances"]]
    gateway.process.kill()
    gateway.process.wait(30)
    assert gone(pids)


def test_an_instance_that_hangs_costs_its_requests_their_time_only(told: Path, tmp_path: Path) -> None:
    with up(tmp_path, str(told), "--max", "2", "--concurrency", "1", "--target", "1") as gateway:
        gateway.predict()
        (pid,) = [one["pid"] for one in gateway.function()["instances"]]
        os.kill(pid, signal.SIGSTOP)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            hangs = pool.submit(gateway.predict, x_preheat_timeout="0.5")
            gateway.wait(lambda found: any(one["in_flight"] for one in found["instances"]))
            assert gateway.predict().status == 200
            assert (hangs.result().status, hangs.result().json()["code"]) == (504, "timed_out")
        os.kill(pid, signal.SIGCONT)
