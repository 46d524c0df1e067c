"""A gateway with a real function behind it, scenarios as text, and the command as a person runs it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..test_measure import preheat
from .servers import OneInstance, answering, plain, wait_for

REQUEST = '[[requests]]\npath = "/predict"\njson = { content = "aW1wb3J0IHN5cwo=" }\n'

Load = Callable[..., subprocess.CompletedProcess[str]]
Begun = Callable[..., contextlib.AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a scenario with one request and these steps."""

    def write(steps: str) -> Path:
        path = tmp_path / "scenario.toml"
        path.write_text(f'name = "test"\ntimeout_s = 20\n{REQUEST}{steps}')
        return path

    return write


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run.jsonl"


@pytest.fixture
def load(scenario: Callable[[str], Path], out: Path) -> Load:
    """`preheat load` with these steps."""

    def run(steps: str, url: str, *more: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return preheat("load", scenario(steps), "--target", url, "-o", out, *more, COLUMNS="200", **environ)

    return run


@pytest.fixture
def begun(scenario: Callable[[str], Path], out: Path) -> Begun:
    """`preheat load` for two minutes, in a process of its own that has begun to measure."""

    @contextlib.contextmanager
    def run(*more: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        steps = '[[steps]]\narrivals = "constant"\nrate = 20\nduration_s = 120\n'
        with answering(plain) as url:
            command = ["load", str(scenario(steps)), "--target", url, "-o", str(out), *more]
            with subprocess.Popen(
                [sys.executable, "-m", "preheat", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environ},
            ) as process:
                try:
                    wait_for(
                        lambda: out.exists() and out.read_text().count("\n") > 20, "nothing was measured", 60
                    )
                    yield process
                finally:
                    process.kill()

    return run


@pytest.fixture
def gateway(filetype_artifact: Path, cache: Path) -> Iterator[tuple[str, OneInstance]]:
    one = OneInstance(filetype_artifact, cache)
    try:
        with answering(one) as url:
            yield url, one
    finally:
        one.close()


def lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """A run's head, samples and end."""
    head, *samples, end = (json.loads(line) for line in path.read_text().splitlines())
    return head, samples, end["end"]
