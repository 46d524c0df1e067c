"""Runs on disk: under which names they are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from preheat.load.runs import Writer, read_all

from .runs_of import HEAD


def written(path: Path, label: str = "", scenario: str = "burst") -> str:
    path.parent.mkdir(exist_ok=True)
    with Writer(
        str(path), {**HEAD, "label": label, "scenario": {**HEAD["scenario"], "name": scenario}}
    ) as run:
        run.end({"seconds": 1.0})
    return str(path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([("a.jsonl", "", "burst"), ("b.jsonl", "", "idle")], ["burst", "idle"]),
        ([("a.jsonl", "", "burst"), ("b.jsonl", "", "burst")], ["a", "b"]),
        ([("a.jsonl", "", "burst"), ("b.jsonl", "burst", "burst")], ["a", "burst"]),
        ([("a/run.jsonl", "", "burst"), ("b/run.jsonl", "", "burst")], ["run", "run 2"]),
        (
            [("a.jsonl", "base", "burst"), ("b.jsonl", "base", "burst"), ("c.jsonl", "base 2", "burst")],
            ["base", "base 2", "base 2 2"],
        ),
    ],
)
def test_no_two_runs_have_one_name(
    files: list[tuple[str, str, str]], names: list[str], tmp_path: Path
) -> None:
    found = read_all([written(tmp_path / name, label, scenario) for name, label, scenario in files])
    assert [run.name for run in found] == names
