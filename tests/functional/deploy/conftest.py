"""The SAM CLI, in an environment of its own, and the templates built, packaged, transformed and deployed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ...conftest import ROOT
from ..store import servers
from ..store.servers import BUCKET, KEYS, Endpoint
from .stack import Stack

SAM_BIN = Path(os.environ.get("SAM_BIN") or ROOT / ".venv-sam" / "bin")
"""Where aws-sam-cli and cfn-lint are installed; `make test` does it."""


def sam(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program of that environment: ``sam``, ``cfn-lint`` or its ``python``."""
    program = SAM_BIN / arguments[0]
    assert program.exists(), f"{program} is missing: run the tests by `make test`, or set SAM_BIN"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTHON", "PREHEAT_"))}
    quiet = {"SAM_CLI_TELEMETRY": "0", "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(cwd)}
    return subprocess.run(
        [str(program), *map(str, arguments[1:])],
        cwd=cwd,
        env={**inherited, **quiet, **environ},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, filetype_artifact: Path) -> Path:
    """The folder ``sam/`` of a copy of this repository after `sam build`; its layers hold one line each."""
    root = tmp_path_factory.mktemp("sam")
    shutil.copytree(ROOT / "sam", root / "sam", ignore=shutil.ignore_patterns(".aws-sam"))
    shutil.copytree(filetype_artifact.parent, root / "functions" / "filetype")
    (root / "functions" / "embed").mkdir()
    shutil.copy(ROOT / "functions" / "embed" / "app.py", root / "functions" / "embed")
    template = (root / "sam" / "template.yaml").read_text()
    for line in template.splitlines():
        name, _, path = line.strip().partition(": ")
        if name == "ContentUri":
            (root / "sam" / path).parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(root / "sam" / path, "w") as archive:
                archive.writestr("python/here.txt", path)
    ran = sam("sam", "build", cwd=root / "sam")
    assert ran.returncode == 0, ran.stderr
    return root / "sam"


@pytest.fixture(scope="session")
def aws() -> Iterator[Endpoint]:
    with servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def packaged(built: Path, aws: Endpoint) -> Path:
    """What `sam package` makes of it, its packages uploaded."""
    packaged = built / "packaged.yaml"
    source = built / ".aws-sam" / "build" / "template.yaml"
    ran = sam(
        *("sam", "package", "--template-file", source, "--s3-bucket", BUCKET),
        *("--output-template-file", packaged, "--no-progressbar"),
        cwd=built,
        **aws.environ,
    )
    assert ran.returncode == 0, ran.stderr
    return packaged


def transformed(template: Path, given: dict[str, str]) -> dict[str, Any]:
    """The template as CloudFormation gets it from the SAM transform."""
    script = Path(__file__).with_name("transform.py")
    ran = sam("python", script, template, json.dumps(given), cwd=template.parent, **KEYS)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="session")
def deployed(packaged: Path, aws: Endpoint) -> Stack:
    """A stack with everything that is optional turned on."""
    given = {
        "EmbedVersion": "live",
        "Queues": "true",
        "KeepWarm": "rate(5 minutes)",
        "AlarmTopic": "arn:aws:sns:us-east-1:123456789012:alarms",
    }
    return Stack(aws, transformed(packaged, given), given)
