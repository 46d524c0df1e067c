"""Graphs that allocate what their input says, or turn for ever: a clean answer, and the server lives on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preheat import Function
from preheat.errors import PreemptedError
from preheat.overrun import Preemptible

from ..conftest import Answer, Server, serving
from .bombs import NAMES, bombs, constant_bomb
from .build.conftest import preheat
from .build.models import save

MIB = 1024**2
MEMORY = 256 * MIB
HUGE = {
    "fill": 2**40,
    "expand": 2**32,
    "tile": 2**19,
    "range": 2**40,
    "onehot": 2**36,
    "resize": 2**20,
    "pad": 2**40,
    "gather": 2**24,
}
SOME = {"fill": 2**27, "expand": 2**17, "tile": 2**17, "range": 2**26, "onehot": 2**24, "resize": 2**13}
"""Sizes that the machine itself would have given: half a gibibyte and more."""


def sized(**sizes: int) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": "INT64", "data": [sizes.get(name, 1)]} for name in NAMES
        ]
    }


def ask(server: Server, **sizes: int) -> Answer:
    return server.request("POST", "/v2/models/bombs/infer", sized(**sizes))


def peak(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bombs")
    model = save(bombs(), folder / "model.onnx")
    recipe = folder / "recipe.json"
    recipe.write_text(json.dumps({"inputs": [sized()["inputs"]]}))
    made = preheat(
        *("build", model, "-o", folder / "artifact", "--name", "bombs", "--recipe", recipe, "--rounds", "1")
    )
    assert made.status == 0, made.err
    return folder / "artifact"


@pytest.fixture(scope="module")
def server(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    cache = str(tmp_path_factory.mktemp("cache"))
    with serving(
        artifact, PREHEAT_CACHE=cache, PREHEAT_MEMORY_BYTES=str(MEMORY), PREHEAT_TIMEOUT="3"
    ) as running:
        running.wait_ready()
        yield running


@pytest.fixture(autouse=True)
def a_good_inference_right_after(server: Server) -> Iterator[None]:
    before = peak(server)
    yield
    answer = ask(server)
    assert answer.status == 200, answer.body
    assert answer.json()["outputs"][0]["data"] == [0.0]
    assert peak(server) - before <= MEMORY + 64 * MIB


@pytest.mark.attack
@pytest.mark.parametrize(("name", "size"), [*HUGE.items(), *SOME.items()])
def test_what_needs_more_memory_than_it_may_is_refused(server: Server, name: str, size: int) -> None:
    answer = ask(server, **{name: size})
    assert (answer.status, answer.json()["code"]) == (413, "too_much_memory"), answer.body
    assert "256 MiB" in answer.json()["error"]
    assert answer.headers["x-preheat-outcome"] == "rejected"


def test_what_fits_is_answered(server: Server) -> None:
    answer = ask(server, fill=2**24, range=2**23, resize=2**11)
    assert answer.status == 200, answer.body


def test_a_bomb_in_company_harms_it_not(server: Server) -> None:
    import threading

    answers: list[tuple[int, Answer]] = []
    sizes = [2**40 if i % 3 == 0 else 2**10 for i in range(24)]

    def send(size: int) -> None:
        answers.append((size, ask(server, fill=size)))

    threads = [threading.Thread(target=send, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer.status for _, answer in answers) == [200] * 16 + [413] * 8
    assert all((answer.status == 413) == (size == 2**40) for size, answer in answers)


def test_a_negative_size_is_the_models_refusal(server: Server) -> None:
    assert ask(server, fill=-1).status == 422


def test_an_answer_over_the_limit_of_elements_is_refused_before_it_is_encoded(server: Server) -> None:
    for wanted in ([], [{"name": "y_answer", "parameters": {"binary_data": True}}]):
        body = {**sized(answer=2**24 + 1), **({"outputs": wanted} if wanted else {})}
        answer = server.request("POST", "/v2/models/bombs/infer", body)
        assert (answer.status, answer.json()["code"]) == (413, "answer_too_large")
    body = {"inputs": {name: [2**24 + 1 if name == "answer" else 1] for name in NAMES}}
    answer = server.request("POST", "/predict", body)
    assert (answer.status, answer.json()["code"]) == (413, "answer_too_large")


def test_a_loop_without_end_is_ended_at_its_deadline(server: Server) -> None:
    began = time.monotonic()
    answer = ask(server, turn=2**62)
    assert (answer.status, answer.json()["code"]) == (504, "timed_out")
    assert 2.9 < time.monotonic() - began < 6
    began = time.monotonic()
    headers = {"x-preheat-timeout": "0.5"}
    answer = server.request("POST", "/v2/models/bombs/infer", sized(turn=2**62), headers)
    assert answer.status == 504
    assert time.monotonic() - began < 3
    assert ask(server, turn=1000).json()["outputs"][8]["data"] == [1001.0]


def test_a_run_that_is_ended_for_anothers_can_be_made_again(artifact: Path, tmp_path: Path) -> None:
    function = Function(environ={"PREHEAT_ARTIFACT": str(artifact), "PREHEAT_CACHE": str(tmp_path)})
    function.start()
    assert function.service.current is not None
    engine = function.service.current.engine
    long = {name: np.array([2**62 if name == "turn" else 1]) for name in NAMES}
    runs, began = Preemptible(for_s=60), time.perf_counter()
    threading.Timer(0.1, runs.preempt).start()
    with pytest.raises(PreemptedError):
        engine.infer(long, None, began + 30, runs)
    assert time.perf_counter() - began < 5
    short = {**long, "turn": np.array([1000])}
    assert 1001.0 in engine.infer(short, None, began + 30, runs).values()
    engine.rest()


def test_no_turn_is_left_taken(server: Server) -> None:
    """As many loops as there are turns, and more: each would hold its turn for ever."""
    import threading

    threads = [threading.Thread(target=ask, args=(server,), kwargs={"turn": 2**62}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.attack
def test_what_allocates_whatever_is_sent_is_not_built(tmp_path: Path) -> None:
    model = save(constant_bomb(), tmp_path / "model.onnx")
    made = preheat("build", model, "-o", tmp_path / "artifact")
    assert made.status != 0
    assert "more memory" in made.error
    assert not (tmp_path / "artifact").exists()
