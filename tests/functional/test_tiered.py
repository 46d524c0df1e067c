"""The variant that opens soonest answers first, and the one that runs fastest takes over under load."""

from __future__ import annotations

import json
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import manifest as manifests
from preheat import warmup
from preheat.adapters.messages import HttpRequest, HttpResponse
from preheat.adapters.routes import respond
from preheat.engine import Engine
from preheat.errors import GoldenError
from preheat.function import Function

from ..conftest import Answer, Server, serving
from .store.samples import publish

TEXTS = [["a short one"], ["a second text, somewhat longer than the first", "and a third"], ["Grüße, 世界"]]
CLIENTS = 4
WITHIN_S = 30.0


@pytest.fixture(scope="module")
def artifact(embed_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose measurements say that ``unpacked`` opens soonest and ``packed`` runs fastest."""
    folder = tmp_path_factory.mktemp("tiered") / "artifact"
    shutil.copytree(embed_artifact, folder)
    path = folder / manifests.FILENAME
    document = json.loads(path.read_text())
    for name, figures in document["measurements"]["variants"].items():
        session, steady = {"unpacked": (10.0, 9.0), "packed": (90.0, 4.0)}.get(name, (100.0, 8.0))
        for figure, value in (("session_ms", session), ("first_ms", steady), ("steady_ms", steady)):
            figures[figure] = {"median": value, "min": value, "max": value}
    path.write_text(json.dumps(document))
    return folder


def takeover(server: Server) -> dict[str, object]:
    report = server.request("GET", "/coldstart", headers={"accept": "application/json"}).json()
    found = report.get("takeover", {})
    assert isinstance(found, dict)
    return found


def settled(server: Server) -> dict[str, object]:
    until = time.monotonic() + WITHIN_S
    while (found := takeover(server))["state"] in ("waiting", "opening"):
        assert time.monotonic() < until, found
        time.sleep(0.02)
    return found


@pytest.fixture(params=["folder", "store"])
def location(request: pytest.FixtureRequest, artifact: Path, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(artifact)
        return
    store = f"file://{tmp_path}/store/embed"
    publish(artifact, store, "live")
    yield f"{store}@live"


def test_answers_are_right_and_none_fails_while_another_session_takes_over(
    location: str, artifact: Path, cache: Path
) -> None:
    tolerance = manifests.load((artifact / manifests.FILENAME).read_bytes()).tolerance
    answers: list[tuple[int, Answer]] = []
    done = threading.Event()
    with serving(location, PREHEAT_CACHE=str(cache), PREHEAT_THREADS="1") as server:

        def ask(which: int) -> None:
            until = time.monotonic() + WITHIN_S
            while not done.is_set() and time.monotonic() < until:
                answers.append((which, server.request("POST", "/predict", {"input": TEXTS[which]})))

        clients = [threading.Thread(target=ask, args=(index % len(TEXTS),)) for index in range(CLIENTS)]
        for client in clients:
            client.start()
        state = settled(server)
        enough = len(answers) + 20
        until = time.monotonic() + WITHIN_S
        while len(answers) < enough and time.monotonic() < until:
            time.sleep(0.01)
        done.set()
        for client in clients:
            client.join(WITHIN_S)
        metrics = server.request("GET", "/metrics").body.decode()
        report = server.request("GET", "/coldstart", headers={"accept": "application/json"}).json()
        status, out, err = server.stop()
    assert (state["state"], state["variant"]) == ("done", "packed")
    assert [answer.status for _, answer in answers] == [200] * len(answers)
    by_variant = {answer.headers["x-preheat-variant"] for _, answer in answers}
    assert by_variant == {"unpacked", "packed"}
    assert answers[0][1].headers["x-preheat-variant"] == "unpacked"
    for which in range(len(TEXTS)):
        own = [np.array(answer.json()["embeddings"]) for index, answer in answers if index == which]
        assert max(float(np.abs(each - own[0]).max()) for each in own) <= tolerance
    assert 'variant="packed"' in metrics
    assert report["variant"] == "unpacked"
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["state"] for line in lines if line["message"] == "takeover"] == ["done"]


def test_weights_that_were_changed_never_answer(artifact: Path, cache: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "artifact"
    shutil.copytree(artifact, damaged)
    weights = damaged / "variants" / "packed" / "model.weights"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with serving(damaged, PREHEAT_CACHE=str(cache)) as server:
        server.wait_ready()
        state = settled(server)
        answer = server.request("POST", "/predict", {"input": "still here"})
        status, out, err = server.stop()
    assert state["state"] == "failed"
    assert "packed/model.weights was changed" in str(state["error"])
    assert (answer.status, answer.headers["x-preheat-variant"]) == (200, "unpacked")
    assert (status, err) == (0, "")
    assert "was changed" in next(
        line for line in out.splitlines() if '"takeover"' in line and "failed" in line
    )


def test_a_request_runs_beside_the_golden_one_and_is_answered_after_it(
    artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, ran = answered_early(artifact, cache, monkeypatch, proves=True)
    assert ran == ["unpacked"]
    assert (response.status, dict(response.headers)["x-preheat-variant"]) == (200, "unpacked")


def test_nothing_that_ran_on_a_session_that_is_refused_is_told(
    artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, ran = answered_early(artifact, cache, monkeypatch, proves=False)
    variant = dict(response.headers)["x-preheat-variant"]
    assert response.status == 200
    assert ran == ["unpacked", variant]
    assert variant != "unpacked"


def answered_early(
    artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, proves: bool
) -> tuple[HttpResponse, list[str]]:
    """The answer to a request that waits for a start whose first golden run takes until that request has run,
    and then passes or does not; and what the request ran on. A refused engine has to be gone then."""
    done = threading.Event()
    ran: list[str] = []
    refused: list[weakref.ref[Engine]] = []
    really_warm, really_infer = warmup.warm, Engine.infer

    def warm(engine: Engine, *arguments: Any, **more: Any) -> Any:
        if engine.variant.name != "unpacked":
            until = time.monotonic() + WITHIN_S
            while refused[0]() is not None and time.monotonic() < until:
                time.sleep(0.01)
            assert refused[0]() is None, "it takes its memory beside the next one"
            return really_warm(engine, *arguments, **more)
        refused.append(weakref.ref(engine))
        more["begins"]()
        assert done.wait(10)
        if not proves:
            raise GoldenError("it drifts")
        return really_warm(engine, *arguments)

    def infer(engine: Engine, *arguments: Any, **more: Any) -> Any:
        found = really_infer(engine, *arguments, **more)
        if threading.current_thread().name == "client":
            ran.append(engine.variant.name)
            done.set()
        return found

    monkeypatch.setattr(warmup, "warm", warm)
    monkeypatch.setattr(Engine, "infer", infer)
    function = Function(
        environ={
            "PREHEAT_ARTIFACT": str(artifact),
            "PREHEAT_CACHE": str(cache),
            "PREHEAT_TIERED": "on",
            "PREHEAT_BATCH_MS": "0",
        }
    )
    service = function.service
    headers = {"content-type": "application/json"}
    request = HttpRequest("POST", "/predict", headers, b'{"input": "a text"}', time.perf_counter_ns())
    found: list[HttpResponse | None] = []
    client = threading.Thread(target=lambda: found.append(respond(service, request)), name="client")
    client.start()
    function.start()
    client.join(10)
    service.drain()
    service.close()
    assert found[0] is not None
    return found[0], ran


@pytest.mark.parametrize(
    ("environ", "first"),
    [
        ({"PREHEAT_TIERED": "off", "PREHEAT_OBJECTIVE": "warm"}, "packed"),
        ({"PREHEAT_VARIANT": "mapped"}, "mapped"),
        ({"K_SERVICE": "on-cloud-run", "PREHEAT_OBJECTIVE": "warm"}, "packed"),
    ],
)
def test_where_one_session_is_wanted_one_is_opened(
    artifact: Path, cache: Path, environ: dict[str, str], first: str
) -> None:
    with serving(artifact, PREHEAT_CACHE=str(cache), **environ) as server:
        server.wait_ready()
        answer = server.request("POST", "/predict", {"input": "one"})
        assert takeover(server) == {}
    assert answer.headers["x-preheat-variant"] == first


def test_sigterm_amid_it_ends_the_server_at_once(artifact: Path, cache: Path) -> None:
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        server.wait_ready()
        assert server.request("POST", "/predict", {"input": "one"}).status == 200
        until = time.monotonic() + WITHIN_S
        while takeover(server)["state"] == "waiting":
            assert time.monotonic() < until
        status, _, err = server.stop(timeout=10)
    assert (status, err) == (0, "")
