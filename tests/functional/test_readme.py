"""The code of README and docs runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from ..conftest import ROOT, serving

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]


@pytest.fixture
def sum_model(tmp_path: Path) -> Path:
    """x [batch, n] -> y [batch], the sum of each row."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "sum", [x], [y], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "sum.onnx")
    return tmp_path / "sum.onnx"


def test_the_function_in_readme_is_the_one_in_the_repository() -> None:
    assert (ROOT / "functions" / "filetype" / "app.py").read_text().endswith(BLOCKS[0])


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_powertools_over_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in BLOCKS if "LedgerPersistenceLayer" in block]
    names: dict[str, Any] = {"__name__": "app"}
    exec(block, names)
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: 30_000)
    for _ in range(2):
        assert names["handler"]({"amount": 7}, context) == {"charged": 7}
    names["layer"].close()
    assert (tmp_path / "ledger.sqlite3").stat().st_size > 0


def test_a_task_of_ones_own(sum_model: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BLOCKS[1])
    command = [sys.executable, "-m", "preheat", "build", str(sum_model), "-o", str(tmp_path / "artifact")]
    subprocess.run([*command, "--rounds", "1"], check=True, capture_output=True)
    with serving(tmp_path / "app.py") as server:
        assert server.request("POST", "/predict", {"numbers": [1, 2, 3.5]}).json() == {"sum": 6.5}
        refused = server.request("POST", "/predict", {"number": 1})
        assert refused.status == 400
        assert "KeyError: 'numbers'" in refused.json()["error"]
        assert server.request("POST", "/predict", {"numbers": ["a"]}).status == 400
        assert server.request("POST", "/predict", {"numbers": [1]}).json() == {"sum": 1.0}
