"""The container-image flavour, built and started by Docker where its engine runs."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preheat import manifest as manifests
from preheat.deploy.cloudformation import load
from preheat.measure.answers import differs
from preheat.measure.client import connect, free_port, read_response
from preheat.measure.lambda_runtime import answer, http_event, invocation

from ...conftest import ROOT


def docker(*words: str, timeout: float = 60) -> str:
    done = subprocess.run(
        ["docker", *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise OSError((done.stderr or done.stdout).strip())
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    try:
        docker("info", "--format", "{{.ServerVersion}}")
    except OSError as error:
        pytest.skip(f"no Docker engine: {error}")


@pytest.fixture
def container(filetype_artifact: Path) -> Iterator[int]:
    """The port of filetype's image, which has AWS's emulator in it."""
    template = load((ROOT / "sam" / "image.yaml").read_text())
    made = template["Resources"]["FiletypeFunction"]["Metadata"]
    arguments = [f"--build-arg={name}={value}" for name, value in made["DockerBuildArgs"].items()]
    tag, port = "preheat-test-filetype", free_port()
    docker("build", "--file", made["Dockerfile"], "--tag", tag, *arguments, ".", timeout=280)
    name = docker("run", "--detach", "--rm", "--publish", f"127.0.0.1:{port}:8080", tag)
    try:
        yield port
    finally:
        docker("kill", name)


@pytest.mark.timeout(400)
def test_the_image_answers(container: int) -> None:
    manifest = manifests.load((ROOT / "functions/filetype/artifact/manifest.json").read_bytes())
    assert manifest.sample is not None
    body = json.dumps(manifest.sample["request"]).encode()
    until = time.monotonic() + 60
    with connect(container, deadline=until, alive=lambda: True) as client:
        client.sendall(invocation(http_event("POST", "/predict", body, {"content-type": "application/json"})))
        found = answer(read_response(client, deadline=until))
    assert found.status == 200
    assert differs(json.loads(found.body), manifest.sample["answer"], manifest.tolerance) is None
