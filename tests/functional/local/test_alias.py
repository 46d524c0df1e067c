"""An alias in a store moves: what instances are made of is made anew, and no request fails for it."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest

from ...conftest import gone, revise
from ..store.samples import publish
from .conftest import KIND, Up, template, up, version_of


@pytest.mark.parametrize("kind", ["fork", "criu"], indirect=True)
def test_instances_drain_onto_what_the_alias_names(
    store: str, filetype_artifact: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(filetype_artifact, tmp_path / "next")
    following = revise(tmp_path / "next", "second")
    with up(tmp_path, f"{store}@prod", "--start", kind) as gateway:
        assert predict(gateway) == (200, "ok", "restored")
        assert gateway.scale(2, "filetype").status == 200
        old = template(gateway, "filetype")
        before = gateway.wait(ready_with_reports, name="filetype")["instances"]
        first = json.loads((filetype_artifact / "manifest.json").read_text())["version"]
        assert {version_of(one) for one in before} == {first}
        stop = threading.Event()
        answers: list[tuple[int, str, str]] = []

        def ask() -> None:
            while not stop.is_set():
                answers.append(predict(gateway))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            publish(tmp_path / "next", store)
            gateway.wait(
                lambda found: (
                    found["instances"] and all(version_of(one) == following for one in found["instances"])
                ),
                timeout=60,
                name="filetype",
            )
            assert gone([old, *(one["pid"] for one in before)])
            moved = len(answers)
            gateway.wait(lambda _: len(answers) > moved + 20, name="filetype")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert Counter(answer[:2] for answer in answers) == {(200, "ok"): len(answers)}
        assert len(answers) > 40
        found = gateway.function("filetype")
        assert found["failures"] == 0
        assert {one["ended"]["code"] for one in found["ended"]} == {"stopped"}
        # The store is gone: what is there goes on, and makes new instances.
        shutil.rmtree(tmp_path / "store")
        assert gateway.scale(0, "filetype").status == 200
        assert predict(gateway) == (200, "ok", "restored")


def predict(gateway: Up) -> tuple[int, str, str]:
    answer = gateway.request("POST", "/predict", b"import os\n" * 8, KIND)
    return answer.status, answer.headers["x-preheat-outcome"], answer.headers.get("x-preheat-start", "")


def ready_with_reports(found: dict[str, list[dict[str, object]]]) -> bool:
    return len(found["instances"]) == 2 and all(one["start"] for one in found["instances"])
