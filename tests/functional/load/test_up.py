"""A load test against `preheat up` itself: made cold by its API, and counted alike on both sides."""

from __future__ import annotations

import json
from pathlib import Path

from ..local.conftest import up
from .conftest import Load, lines

STEPS = """
[[steps]]
name = "cold"
arrivals = "burst"
count = 1
cold = true
expect = "cold"
repeat = 3

[[steps]]
name = "warm"
arrivals = "constant"
rate = 20
duration_s = 2
expect = "warm"

[[steps]]
name = "burst on zero"
arrivals = "burst"
count = 20
cold = true
"""


def test_a_load_test_and_the_gateway_count_alike(
    filetype_artifact: Path, tmp_path: Path, load: Load, out: Path
) -> None:
    with up(tmp_path, str(filetype_artifact)) as gateway:
        done = load(STEPS, f"http://127.0.0.1:{gateway.port}", "--cold", "up", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert gateway.function("filetype")["outcomes"] == {"ok": 63} == found["outcomes"]
    assert found["forced"] == 4
    by_step = {step["name"]: step for step in found["steps"]}
    assert by_step["cold"]["as_asked"] == 3
    assert by_step["warm"]["as_asked"] == 40
    _, samples, _ = lines(out)
    # Whoever waited for a start met it cold: one at least for each instance.
    assert {sample["instance"] for sample in samples if sample["start"] == "cold"} == {
        sample["instance"] for sample in samples
    }
    assert found["instances"]["all"] >= 4
