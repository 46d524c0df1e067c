"""Where -o goes, with every command that writes a text: a folder is made, a file replaced, - is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from preheat.load.runs import Writer

from ..conftest import ROOT
from ..unit.load.runs_of import HEAD, sample
from .build.conftest import Ran, preheat

FILETYPE = ROOT / "functions" / "filetype"
APP = FILETYPE / "app.py"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A load test's."""
    path = tmp_path / "run.jsonl"
    with Writer(str(path), HEAD) as writer:
        writer.add([sample(number, 10.0) for number in range(10)])
        writer.end({"seconds": 10.0, "cpu_s": 0.1, "forced": []})
    return path


PLAN = ("plan", APP, "--rate", "1", "--objective", "p99=10s", "--options", "up", "--requests", "1000")
COMMANDS = {
    "sbom": ("sbom", FILETYPE / "artifact"),
    "plan": PLAN,
    "report": ("report", "RUN"),
    "knative": ("render", "knative", APP, "--image", "i"),
    "cloudrun": ("render", "cloudrun", APP, "--image", "i"),
    "try": ("try", APP),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_its_folder_and_standard_output(name: str, run: Path, tmp_path: Path) -> None:
    flag = "--report" if name == "try" else "-o"

    def to(place: str | Path) -> Ran:
        command = [run if word == "RUN" else word for word in COMMANDS[name]]
        ran = preheat(*command, flag, place)
        assert ran.status == 0, ran.err
        return ran

    path = tmp_path / "new" / "folder" / "file"
    to(path)
    first = path.read_text()
    assert first
    to(path)
    assert path.stat().st_size == pytest.approx(len(first.encode()), rel=0.2)
    printed = to("-").out
    assert printed[:15] == first[:15], "nothing but the text"
    assert printed[-15:] == first[-15:]
    assert not Path("-").exists()


def test_a_document_and_a_text_do_not_share_standard_output(tmp_path: Path) -> None:
    assert "both want standard output" in preheat(*PLAN, "--json", "-o", "-").error
    ran = preheat("measure", APP, "--json", "--report", "-")
    assert "both want standard output" in ran.error


def test_a_file_that_is_there_may_lie_where_none_can_be_made() -> None:
    assert preheat("sbom", FILETYPE / "artifact", "-o", "/dev/null").status == 0
