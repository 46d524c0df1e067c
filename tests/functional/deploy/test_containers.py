"""`preheat render` and `check` for Knative, Cloud Run and KServe; the repository's own manifests."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ...conftest import ROOT
from ..build.conftest import preheat
from ..store.samples import make_artifact

FILETYPE = ROOT / "functions" / "filetype" / "app.py"
SAMPLES = ("service", "service-gpu", "cloudrun", "cloudrun-gpu", "kserve")
MEASURED = re.compile(
    r"(memory|sizeLimit|containerConcurrency|timeoutSeconds|timeout|scaleTarget|failureThreshold"
    r"|preheat-cold-start-p99-ms|autoscaling\.knative\.dev/target|PREHEAT_TIMEOUT\n *value): .*"
)


def masked(text: str) -> str:
    """Without the sizes, which are those of the machine that built the artifact."""
    return MEASURED.sub(r"\1: MEASURED", text.replace("name: PREHEAT_TIMEOUT", "PREHEAT_TIMEOUT"))


def test_the_repositorys_manifests_are_what_the_code_writes(embed_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "knative").mkdir()
    (tmp_path / "functions").symlink_to(ROOT / "functions")
    ran = subprocess.run(
        ["sh", str(ROOT / "knative" / "render.sh")],
        cwd=tmp_path,
        env={"PREHEAT": shlex.join([sys.executable, "-m", "preheat"]), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert {p.name for p in (tmp_path / "knative").iterdir()} == {f"{name}.yaml" for name in SAMPLES}
    for name in SAMPLES:
        written = (tmp_path / "knative" / f"{name}.yaml").read_text()
        committed = (ROOT / "knative" / f"{name}.yaml").read_text()
        assert masked(written) == masked(committed), "run `make templates`"
        assert "MEASURED" in masked(committed)


def test_render_prints_or_writes(tmp_path: Path) -> None:
    printed = preheat("render", "knative", FILETYPE, "--image", "r/x:1")
    assert printed.status == 0
    written = preheat("render", "knative", FILETYPE, "--image", "r/x:1", "-o", tmp_path / "new" / "s.yaml")
    assert written.status == 0
    assert (tmp_path / "new" / "s.yaml").read_text() == printed.out
    assert yaml.safe_load(printed.out)["metadata"]["name"] == "filetype"


def test_render_overwrites_nothing_that_somebody_changed(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    command = ("render", "knative", FILETYPE, "--image", "r/x:1", "-o", path)
    assert preheat(*command).status == 0
    path.write_text(path.read_text() + "# mine\n")
    refused = preheat(*command)
    assert refused.status == 2
    assert "is there already, with another content: --force overwrites it" in refused.error
    assert preheat(*command, "--force").status == 0
    assert "# mine" not in path.read_text()


def test_every_option_of_a_platform_is_its_help() -> None:
    words = " ".join(preheat("render", "knative", "--help", COLUMNS="300").out.split())
    for flag in ("podspec-nodeselector", "podspec-persistent-volume-claim", "podspec-runtimeclassname"):
        assert flag in words
    assert "--startup-probe" not in words
    cloudrun = preheat("render", "cloudrun", "--help", COLUMNS="300").out
    assert "--startup-probe" in cloudrun
    assert "--node-selector" not in cloudrun


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("render", "knative", FILETYPE), "Missing option '--image'"),
        (("render", "knative", FILETYPE, "--image", ""), "--image must name"),
        (("render", "knative", FILETYPE, "--image", "i", "--cpu", "0"), "--cpu must be at least 1"),
        (("render", "knative", FILETYPE, "--image", "i", "--name", "My_Model"), "cannot name a service"),
        (("render", "knative", FILETYPE, "--image", "i", "--env", "PREHEAT_TRED=1"), "not a setting"),
        (("render", "cloudrun", FILETYPE, "--image", "i", "--startup-probe", "exec"), "must be http or tcp"),
        (("render", "cloudrun", FILETYPE, "--image", "i", "--gpu", "2"), "--gpu must be 1 on Cloud Run"),
        (("render", "kserve", FILETYPE, "--image", "i", "-o", "/proc/no/x"), "/proc/no cannot be written"),
        (("check", "cloudrun", FILETYPE, "--cpu", "3"), "--cpu must be one of 1, 2, 4, 6, 8"),
    ],
)
def test_wrong_use(arguments: tuple[Any, ...], words: str) -> None:
    ran = preheat(*arguments)
    assert ran.status == 2
    assert words in ran.error


@pytest.mark.parametrize("command", [("check", "knative"), ("check", "cloudrun")])
def test_an_artifact_that_was_never_measured(command: tuple[str, str], tmp_path: Path) -> None:
    ran = preheat(*command, make_artifact(tmp_path / "m"))
    assert ran.status == 2
    assert "build it again" in ran.error


@pytest.mark.parametrize("platform", ["knative", "cloudrun"])
def test_check_for_a_program_and_for_a_person(platform: str, filetype_artifact: Path) -> None:
    ran = preheat("check", platform, FILETYPE, "--json")
    assert ran.status == 0, ran.err
    found = ran.json()
    assert found["fits"]
    assert found["platform"] == platform
    assert {f["what"] for f in found["findings"]} >= {"memory", "start", "concurrency", "artifact", "ledger"}
    person = preheat("check", platform, FILETYPE)
    assert person.status == 0
    assert "at once" in person.out
    assert max(map(len, person.out.splitlines()[1:])) <= 80


def test_what_does_not_fit_is_an_answer_of_no(filetype_artifact: Path) -> None:
    ran = preheat("check", "knative", FILETYPE, "--gpu", "1", "--memory", "64", "--json")
    assert ran.status == 1
    wrong = {f["what"] for f in ran.json()["findings"] if f["verdict"] == "does not fit"}
    assert wrong == {"gpu", "memory"}
