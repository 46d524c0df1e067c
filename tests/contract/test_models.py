"""Further models over the doors: loaded on demand, let go of for room, each with its own phases."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat import Function
from preheat.answer import Answer as Outcome
from preheat.answer import unpack
from preheat.ledger import open_ledger
from preheat.manifest import FILENAME, Manifest, load
from preheat.models import memory_bytes
from preheat.principals import new_key

from ..conftest import Answer, Server, renamed, serving
from .conftest import Door, _server, door_of

JSON = {"content_type": "application/json"}
PYTHON = json.dumps({"content": "aW1wb3J0IG9zCmltcG9ydCBzeXMK"}).encode()
TEXT = json.dumps({"input": "hello"}).encode()
EMBEDDING = json.dumps({"input": "hello", "model": "embed"}).encode()
VARIANT = "portable"
"""The one that takes most memory that is no file's: what letting go of it frees is seen at once."""


def manifest(artifact: Path) -> Manifest:
    return load((artifact / FILENAME).read_bytes())


def size(artifact: Path) -> int:
    """Of the budget, in bytes."""
    found = manifest(artifact)
    variant = found.variant(VARIANT)
    assert variant is not None
    return memory_bytes(found, variant)


@pytest.fixture(scope="module")
def folder(filetype_artifact: Path, embed_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts: two small ones, a large one, and one whose weights were changed."""
    folder = tmp_path_factory.mktemp("models")
    renamed(filetype_artifact, folder / "small", "small")
    renamed(filetype_artifact, folder / "other", "other")
    (folder / "embed").symlink_to(embed_artifact)
    broken = renamed(filetype_artifact, folder / "broken", "broken")
    for path in broken.rglob("*.onnx"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def environ(filetype_artifact: Path, folder: Path, embed_artifact: Path) -> dict[str, str]:
    """There is room for the large model, or for the small ones."""
    return {
        "PREHEAT_ARTIFACT": str(filetype_artifact),
        "PREHEAT_MODELS": str(folder),
        "PREHEAT_MODELS_BYTES": str(size(embed_artifact) + 1),
        "PREHEAT_VARIANT": VARIANT,
    }


@pytest.fixture(params=["server", "lean", "fastapi", "lambda-v2", "mangum-v1"])
def many(request: pytest.FixtureRequest, environ: dict[str, str], cache: Path) -> Iterator[Door]:
    """Each door in turn to a function that has further models, none of them loaded."""
    if request.param == "server":
        with serving(**_arguments(environ, cache)) as server:
            server.wait_ready()
            yield _server(server)
        return
    function = Function(environ={**environ, "PREHEAT_CACHE": str(cache)})
    function.start()
    yield from door_of(function, request.param)
    function.service.close()


@pytest.fixture
def server(environ: dict[str, str], cache: Path) -> Iterator[Server]:
    with serving(**_arguments(environ, cache)) as server:
        server.wait_ready()
        yield server


def _arguments(environ: dict[str, str], cache: Path, **more: str) -> dict[str, Any]:
    named = {name: value for name, value in environ.items() if name != "PREHEAT_ARTIFACT"}
    return {"artifact": environ["PREHEAT_ARTIFACT"], **named, "PREHEAT_CACHE": str(cache), **more}


def states(door: Door) -> dict[str, str]:
    answer = door("POST", "/v2/repository/index", b"{}", **JSON)
    assert answer.status == 200
    return {row["name"]: row["state"] for row in answer.json()}


def label(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return str(answer.json()["predictions"][0]["label"])


def rss_mib(pid: int) -> float:
    (found,) = re.findall(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found) / 1024


def test_models_are_loaded_by_who_asks_for_them(many: Door) -> None:
    nobody = dict.fromkeys(("broken", "embed", "other", "small"), "UNAVAILABLE")
    assert states(many) == {"filetype": "READY", **nobody}
    answer = many("GET", "/v2/models/embed/coldstart")
    assert (answer.status, answer.json()["code"]) == (404, "not_loaded")

    first = many("POST", "/v2/models/small/predict", PYTHON, **JSON)
    assert label(first) == "python"
    assert first.headers["x-preheat-start"] == "cold"
    assert {"compile", "warmup", "total"} <= set(re.findall(r"(\w+);dur", first.headers["server-timing"]))
    second = many("POST", "/v2/models/small/predict", PYTHON, **JSON)
    assert (second.body, second.headers["x-preheat-start"]) == (first.body, "warm")
    assert states(many) == {"filetype": "READY", **nobody, "small": "READY"}

    report = many("GET", "/v2/models/small/coldstart").json()
    assert report["artifact"]["name"] == "small"
    assert {"download", "compile", "warmup", "first_request"} <= {p["phase"] for p in report["phases"]}
    assert "platform" not in {p["phase"] for p in report["phases"]}
    assert many("GET", "/coldstart").json() == many("GET", "/v2/models/filetype/coldstart").json()

    embedded = many("POST", "/v1/embeddings", EMBEDDING, **JSON)
    assert (embedded.status, embedded.headers["x-preheat-start"]) == (200, "cold")
    assert embedded.json()["model"] == "embed"
    assert states(many)["small"] == "UNAVAILABLE"  # there was no room for both
    assert many("GET", "/v2/models/small/coldstart").json()["id"] == report["id"]
    assert label(many("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"
    assert states(many) == {"filetype": "READY", **nobody, "small": "READY"}


def test_their_metadata_and_readiness(many: Door) -> None:
    asked = many("GET", "/v2/models/other/ready")
    assert (asked.status, asked.json()["code"]) == (503, "loading")
    assert asked.headers["retry-after"] == "1"
    until = time.monotonic() + 20
    while many("GET", "/v2/models/other/ready").status != 200:
        assert time.monotonic() < until
        time.sleep(0.02)
    metadata = many("GET", "/v2/models/small")
    assert metadata.json()["name"] == "small"
    version = metadata.json()["versions"][0]
    assert many("GET", f"/v2/models/small/versions/{version}/ready").json() == {
        "name": "small",
        "ready": True,
    }
    assert many("GET", "/v2/models/small/versions/0").status == 404
    absent = many("GET", "/v2/models/none")
    assert absent.status == 404
    assert "this server has 'filetype', 'broken', 'embed', 'other', 'small'" in absent.json()["error"]
    assert many("POST", "/v1/embeddings", b'{"input": "x", "model": "none"}', **JSON).status == 404
    assert many("POST", "/v1/embeddings", b'{"input": ', **JSON).status == 400
    assert label(many("POST", "/v2/models/filetype/predict", PYTHON, **JSON)) == "python"
    assert label(many("POST", "/predict", PYTHON, **JSON)) == "python"


def test_tensors(many: Door, filetype_artifact: Path) -> None:
    sizes = {"name": "bytes", "shape": [1, 2048], "datatype": "INT32", "data": [[65] * 2048]}
    body = json.dumps({"inputs": [sizes]}).encode()
    own = many("POST", "/v2/models/filetype/infer", body, **JSON)
    assert own.status == 200, own.body
    other = many("POST", "/v2/models/small/infer", body, **JSON)
    assert other.json()["model_name"] == "small"
    assert other.json()["outputs"] == own.json()["outputs"]


def test_a_broken_one_is_told_and_harms_nobody(many: Door) -> None:
    for path, body in (("predict", PYTHON), ("infer", PYTHON)):
        answer = many("POST", f"/v2/models/broken/{path}", body, **JSON)
        assert (answer.status, answer.headers["x-preheat-outcome"]) == (503, "unavailable")
        assert "model 'broken' could not be loaded: " in answer.json()["error"]
        assert "was changed" in answer.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1
    assert many("GET", "/v2/models/broken/ready").status == 503
    assert many("GET", "/v2/health/ready").status == 200
    assert label(many("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"
    assert label(many("POST", "/predict", PYTHON, **JSON)) == "python"


def test_the_repository_extension(many: Door) -> None:
    assert many("POST", "/v2/repository/models/small/load").status == 200
    assert states(many)["small"] == "READY"
    ready = many("POST", "/v2/repository/index", b'{"ready": true}', **JSON).json()
    assert {row["name"] for row in ready} == {"filetype", "small"}
    assert all(len(row["version"]) == 64 for row in ready)
    assert many("POST", "/v2/repository/models/small/unload").status == 200
    assert states(many)["small"] == "UNAVAILABLE"
    own = many("POST", "/v2/repository/models/filetype/unload")
    assert (own.status, "stays" in own.json()["error"]) == (400, True)
    assert many("POST", "/v2/repository/models/none/load").status == 404
    assert many("POST", "/v2/repository/index", b"[]", **JSON).status == 400


def test_letting_go_frees_memory(server: Server, embed_artifact: Path) -> None:
    ask = _server(server)
    for _ in range(2):  # the first time brings libraries that stay
        assert ask("POST", "/v1/embeddings", EMBEDDING, **JSON).status == 200
        full = rss_mib(server.process.pid)
        assert label(ask("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"
        freed = rss_mib(server.process.pid)
    taken = size(embed_artifact) / 2**20
    assert full - freed > 0.6 * taken, (full, freed, taken)
    _, out, _ = server.stop()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["model"] for line in lines if line["message"] == "model let go"].count("embed") == 2
    assert {line["model"] for line in lines if line["message"] == "model loaded"} == {"embed", "small"}


def test_first_requests_at_once_load_once_and_wait(server: Server) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(
            server.request("POST", "/v1/embeddings", EMBEDDING, {"content-type": "application/json"})
        )

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    own = server.request("POST", "/predict", PYTHON, {"content-type": "application/json"})
    assert label(own) == "python"
    for thread in threads:
        thread.join(30)
    assert [a.status for a in answers] == [200] * 8
    assert {a.headers["x-preheat-start"] for a in answers} == {"cold"}
    metrics = server.request("GET", "/metrics").body.decode()
    assert 'preheat_model_loads_total{model="embed",result="ok"} 1.0' in metrics
    assert 'preheat_model_loaded{model="embed"} 1.0' in metrics
    assert 'preheat_model_loaded{model="small"} 0.0' in metrics
    assert re.search(r"^preheat_models_bytes \d", metrics, re.MULTILINE)


def test_a_deadline_holds_while_a_model_is_loaded(server: Server) -> None:
    headers = {"content-type": "application/json", "x-preheat-timeout": "0.01"}
    late = server.request("POST", "/v1/embeddings", EMBEDDING, headers)
    assert (late.status, late.headers["x-preheat-outcome"]) == (504, "timed_out")
    assert _server(server)("POST", "/v1/embeddings", EMBEDDING, **JSON).status == 200


def test_a_model_that_can_never_fit(environ: dict[str, str], folder: Path, cache: Path) -> None:
    own = {**environ, "PREHEAT_MODELS_BYTES": str(1 << 20), "PREHEAT_CACHE": str(cache)}
    function = Function(environ=own)
    function.start()
    for door in door_of(function, "lean"):
        answer = door("POST", "/v2/models/small/predict", PYTHON, **JSON)
        assert (answer.status, answer.json()["code"]) == (422, "model_too_large")
        needed = f"{size(folder / 'small') / 2**20:.1f} MiB"
        assert f"takes {needed}, and all models together may take 1.0 MiB" in answer.json()["error"]
        assert label(door("POST", "/predict", PYTHON, **JSON)) == "python"


def test_room_that_cannot_be_made_now(environ: dict[str, str], cache: Path) -> None:
    function = Function(environ={**environ, "PREHEAT_CACHE": str(cache)})
    function.start()
    assert function.service.models is not None
    embed = function.service.models.find("embed")
    assert embed is not None
    for door in door_of(function, "lambda-v2"):
        with embed.in_use():
            assert door("POST", "/v1/embeddings", EMBEDDING, **JSON).status == 200
            answer = door("POST", "/v2/models/small/predict", PYTHON, **JSON)
            assert (answer.status, answer.json()["code"]) == (503, "no_room")
            assert answer.headers["x-preheat-outcome"] == "shed"
            assert answer.headers["retry-after"] == "1"
            assert door("POST", "/v1/embeddings", EMBEDDING, **JSON).headers["x-preheat-start"] == "warm"
            assert door("POST", "/v2/repository/models/embed/unload").status == 503
        assert label(door("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"


def test_keys_are_a_models_own_and_outlive_it(server: Server) -> None:
    ask = _server(server)
    keyed = {**JSON, "idempotency_key": "one"}
    first = ask("POST", "/v2/models/small/predict", PYTHON, **keyed)
    assert "x-preheat-replayed" not in first.headers
    assert "x-preheat-replayed" not in ask("POST", "/v2/models/other/predict", PYTHON, **keyed).headers
    assert ask("POST", "/v1/embeddings", EMBEDDING, **keyed).status == 200  # they are gone now
    again = ask("POST", "/v2/models/small/predict", PYTHON, **keyed)
    assert (again.body, again.headers["x-preheat-replayed"]) == (first.body, "true")
    assert ask("POST", "/v2/models/small/predict", b'{"content": "aGk="}', **keyed).status == 422


def test_deferred_requests(server: Server) -> None:
    ask = _server(server)
    now = ask("POST", "/v2/models/small/predict", PYTHON, **JSON)
    places = {}
    for path, body in (("/v2/models/small/predict", PYTHON), ("/v1/embeddings", EMBEDDING)):
        accepted = ask("POST", path, body, prefer="respond-async", **JSON)
        assert accepted.status == 202
        places[path] = accepted.headers["location"]
    until = time.monotonic() + 20
    for path, place in places.items():
        while (answer := ask("GET", place)).status == 202:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert answer.status == 200, (path, answer.body)
        if path.endswith("predict"):
            assert answer.body == now.body
    refused = ask("POST", "/v2/models/broken/predict", PYTHON, prefer="respond-async", **JSON)
    assert refused.status == 503


def test_what_another_instance_left_of_a_model_is_taken_over(environ: dict[str, str], cache: Path) -> None:
    """And nothing of a function whose own model has that name. A model that cannot be loaded is not tried for
    ever."""
    url = f"sqlite:///{cache}-ledger.db"
    ledger = open_ledger(url)
    for name, scope, model in (
        ("this", "filetype/small:", "small"),
        ("broken", "filetype/broken:", "broken"),
        ("other", "other/small:", "small"),
        ("own", "small:", "small"),
    ):
        head = {"method": "POST", "path": f"/v2/models/{model}/predict", "headers": {}, "tenant": ""}
        envelope = json.dumps(head).encode() + b"\n" + PYTHON
        ledger.claim(f"of.{name}", scope, f"fence-{name}", lease=0.1, keep=60, request=envelope)
    with serving(**_arguments(environ, cache, PREHEAT_LEDGER=url, PREHEAT_LEASE="0.3")) as server:
        server.wait_ready()
        until = time.monotonic() + 20
        while (record := ledger.read("of.this")) is None or record.outcome is None:
            assert time.monotonic() < until, "it was never run"
            time.sleep(0.05)
        answer = unpack(record.outcome)
        assert isinstance(answer, Outcome)
        assert json.loads(answer.body)["predictions"][0]["label"] == "python"
        while (record := ledger.read("of.broken")) is None or record.outcome is None:
            assert time.monotonic() < until, "it was never given up"
            time.sleep(0.05)
        assert "it failed 3 times" in str(unpack(record.outcome))
        for name in ("other", "own"):
            left = ledger.read(f"of.{name}")
            assert left is not None
            assert (left.outcome, left.attempt) == (None, 1)
    ledger.close()


def test_requests_for_two_models_race_for_room_for_one(server: Server) -> None:
    """Whoever is answered is answered right; whoever is not is told to come again, and is then."""
    asked = {"small": ("/v2/models/small/predict", PYTHON), "embed": ("/v1/embeddings", EMBEDDING)}
    ask = _server(server)
    right = {name: ask("POST", path, body, **JSON).body for name, (path, body) in asked.items()}
    answered = dict.fromkeys(asked, 0)
    wrong: list[Any] = []
    stop = time.monotonic() + 60

    def client(name: str) -> None:
        path, body = asked[name]
        done = 0
        while done < 25 and time.monotonic() < stop:
            answer = ask("POST", path, body, **JSON)
            if answer.status == 503 and answer.json()["code"] == "no_room" and answer.headers["retry-after"]:
                time.sleep(0.01)
            elif answer.status != 200 or answer.body != right[name]:
                wrong.append((name, answer.status, answer.body[:200]))
            else:
                done += 1
                answered[name] += 1
            time.sleep(0.02 * (done % 3))

    threads = [threading.Thread(target=client, args=(name,)) for name in ("small", "embed") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not wrong
    assert answered == {"small": 50, "embed": 50}
    metrics = ask("GET", "/metrics").body.decode()
    (loads,) = re.findall(r'preheat_model_loads_total{model="embed",result="ok"} (\d+)', metrics)
    assert int(loads) > 1


def test_who_is_not_known_has_nothing_loaded(environ: dict[str, str], cache: Path, tmp_path: Path) -> None:
    key, entry = new_key()
    (tmp_path / "keys.json").write_text(json.dumps({"acme": entry}))
    made = {**environ, "PREHEAT_CACHE": str(cache), "PREHEAT_API_KEYS": str(tmp_path / "keys.json")}
    function = Function(environ=made)
    function.start()
    known = {"x_api_key": key}
    for door in door_of(function, "lean"):
        for method, path, body in (
            ("GET", "/v2/models/small", b""),
            ("GET", "/v2/models/small/ready", b""),
            ("POST", "/v2/models/small/predict", PYTHON),
            ("POST", "/v1/embeddings", EMBEDDING),
            ("POST", "/v2/repository/index", b"{}"),
            ("POST", "/v2/repository/models/small/load", b""),
            ("POST", "/v2/repository/models/small/unload", b""),
        ):
            assert door(method, path, body).status == 401, path
        assert function.service.models is not None
        assert [m.state for m in function.service.models.values()] == ["UNAVAILABLE"] * 4
        assert door("GET", "/v2/models/small", **known).status == 200
        assert door("POST", "/v2/repository/models/small/unload", **known).status == 200
    function.service.close()


def test_one_in_a_store_is_fetched_when_it_is_asked_for(
    environ: dict[str, str], folder: Path, cache: Path, tmp_path: Path
) -> None:
    place = f"file://{tmp_path}/store/small"
    publish = [sys.executable, "-m", "preheat", "publish", str(folder / "small"), place]
    subprocess.run(publish, capture_output=True, check=True)
    version = manifest(folder / "small").version
    models = f"{place}@{version},file://{tmp_path}/store/none@prod"
    function = Function(environ={**environ, "PREHEAT_MODELS": models, "PREHEAT_CACHE": str(cache)})
    function.start()
    for door in door_of(function, "lean"):
        assert states(door) == {"filetype": "READY", "small": "UNAVAILABLE", "none": "UNAVAILABLE"}
        assert not (cache / "store").exists()
        assert label(door("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"
        report = door("GET", "/v2/models/small/coldstart").json()
        assert (report["cache"], report["artifact"]["version"]) == ("miss", version)
        opened = []
        for _ in range(4):
            assert door("POST", "/v2/repository/models/small/unload").status == 200
            assert label(door("POST", "/v2/models/small/predict", PYTHON, **JSON)) == "python"
            assert door("GET", "/v2/models/small/coldstart").json()["cache"] == "hit"
            opened.append(len(os.listdir("/proc/self/fd")))
        assert opened[1] == opened[3]
        absent = door("POST", "/v2/models/none/predict", PYTHON, **JSON)
        assert (absent.status, absent.json()["code"]) == (503, "failed_start")
    function.service.close()


def test_names_that_meet_are_told_at_the_start(environ: dict[str, str], folder: Path, cache: Path) -> None:
    for models, said in (
        (f"{folder},{folder}/small", "PREHEAT_MODELS names two models 'small'"),
        (f"{folder}/small,{environ['PREHEAT_ARTIFACT']}", "which is the function's own model too"),
        (f"{folder}/none", "does not exist"),
    ):
        server = Server(**_arguments(environ, cache, PREHEAT_MODELS=models))
        status, _, err = server.finish()
        assert status in (1, 2)
        assert said in err
        assert "Traceback" not in err
