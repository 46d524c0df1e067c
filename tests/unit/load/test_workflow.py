"""The example workflow under docs/ says what the command takes."""

from __future__ import annotations

import re
import shlex
from typing import Any

import yaml

from preheat.load.commands import find_scenario
from preheat.load.compare import limit
from preheat.load.scenario import load

from ...conftest import ROOT
from ...functional.test_measure import preheat


def test_the_example_workflow_says_what_the_command_takes() -> None:
    found: Any = yaml.safe_load((ROOT / "docs" / "load-test.yml").read_text())
    script = "\n".join(step.get("run", "") for step in found["jobs"]["load"]["steps"])
    lines = [line for line in script.splitlines() if re.match(r"\s*preheat (load|compare|report) ", line)]
    commands = [shlex.split(line) for line in lines]
    assert [command[1] for command in commands] == ["load", "report", "compare"]
    for command in commands:
        known = preheat(command[1], "--help", COLUMNS="200").stdout
        for option in (part for part in command if re.match(r"--?\w", part)):
            assert option in known, f"preheat {command[1]} has no {option}"
    assert load(find_scenario(found["env"]["SCENARIO"])).cold
    assert limit(commands[-1][-1]) == 0.1
