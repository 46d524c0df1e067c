"""`preheat check lambda` and `preheat render sam` as a person and a program meet them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preheat.deploy.cloudformation import load

from ...conftest import ROOT
from ..build.conftest import preheat
from ..store.conftest import Place
from ..store.samples import make_artifact, succeeds, version_of
from ..store.servers import Endpoint

FILETYPE = ROOT / "functions" / "filetype" / "app.py"


def check(*arguments: str | Path, status: int = 0, **environ: str) -> Any:
    ran = preheat("check", "lambda", *arguments, "--json", **environ)
    assert ran.status == status, ran.out + ran.err
    return ran.json()


def test_a_small_model_fits(filetype_artifact: Path) -> None:
    for target in (FILETYPE, filetype_artifact):
        found = check(target)
        assert found["fits"]
        assert found["artifact"]["name"] == "filetype"
        assert {way["name"] for way in found["monthly_usd"]} >= {"plain cold starts", "SnapStart"}
        assert found["prices"]["region"] == "us-east-1"


def test_a_person_gets_a_page_of_80_columns(filetype_artifact: Path) -> None:
    ran = preheat("check", "lambda", filetype_artifact, "--requests-per-second", "5")
    assert ran.status == 0
    for word in ("package", "memory", "init", "snapstart", "SnapStart", "5 requests/s", "check them"):
        assert word in ran.out
    tables = [line for line in ran.out.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80


def test_a_large_one_does_not_and_is_told_what_to_do(embed_artifact: Path) -> None:
    found = check(embed_artifact, status=1)
    (package,) = [f for f in found["findings"] if f["verdict"] == "does not fit"]
    assert package["what"] == "package"
    assert "store's reference" in package["change"]
    assert check(embed_artifact, "--package", "image")["fits"]


def test_measured_phases_are_taken_from_a_run(filetype_artifact: Path, tmp_path: Path) -> None:
    best = check(filetype_artifact)["sizing"]["variant"]
    ran = preheat("measure", filetype_artifact, "--rounds", "1", "--variant", best, "--json")
    assert ran.status == 0, ran.err
    (tmp_path / "run.json").write_text(ran.out)
    found = check(filetype_artifact, "--run", tmp_path / "run.json")
    assert found["sizing"]["measured_init"]
    (init,) = [f for f in found["findings"] if f["what"] == "init"]
    assert "measured phases" in init["said"]


def test_the_other_architecture_does_not_fit(filetype_artifact: Path) -> None:
    here = json.loads((filetype_artifact / "manifest.json").read_text())["measurements"]["host"]["arch"]
    other = "arm64" if here == "x86_64" else "x86_64"
    found = check(filetype_artifact, "--architecture", other, status=1)
    assert [f["what"] for f in found["findings"] if f["verdict"] == "does not fit"] == ["architecture"]


def test_what_snapstart_excludes_is_an_answer_of_no(filetype_artifact: Path) -> None:
    found = check(filetype_artifact, "--provisioned", "2", "--efs", status=1)
    assert len([f for f in found["findings"] if f["verdict"] == "does not fit"]) == 2
    assert check(filetype_artifact, "--provisioned", "2", "--no-snapstart")["fits"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--architecture", "riscv64"], "must be one of x86_64, arm64, not 'riscv64'"),
        (["--requests-per-second", "-1"], "--requests-per-second must be a number that is not negative"),
        (["--requests-per-second", "nan"], "--requests-per-second must be a number that is not negative"),
        (["--requests-per-second", "1e15"], "at most 10,000 instances at once"),
        (["--latency-ms", "-5"], "--latency-ms must be a number that is not negative"),
        (["--latency-ms", "0"], "--latency-ms must be more than 0"),
        (["--memory", "64"], "--memory must lie between 128 and 10240 MB, not 64"),
        (["--ephemeral-storage", "-1"], "--ephemeral-storage must lie between 512 and 10240 MB"),
        (["--provisioned", "-1"], "--provisioned must not be negative"),
        (["--region", "mars-1"], "no prices for the region 'mars-1', only for: us-east-1"),
        (["--prices", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--run", "nowhere.json"], "nowhere.json cannot be read"),
        (["--package", "rpm"], "--package must be one of zip, image"),
        (["--layer", "nowhere.zip"], "nowhere.zip cannot be read"),
        (["--python", "x"], "--python takes a release such as 3.12"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, filetype_artifact: Path) -> None:
    ran = preheat("check", "lambda", filetype_artifact, *arguments)
    assert ran.status == 2
    assert words in ran.error


@pytest.mark.parametrize("command", [("check", "lambda"), ("render", "sam")])
def test_an_artifact_that_is_not_there(command: tuple[str, str], tmp_path: Path) -> None:
    ran = preheat(*command, tmp_path / "nothing")
    assert ran.status == 1
    assert "nothing" in ran.error
    ran = preheat(*command, tmp_path / "app.py")
    assert ran.status == 2
    assert "does not exist" in ran.error


def test_a_missing_alias_is_named_with_those_that_are_there(aws: Endpoint, tmp_path: Path) -> None:
    place = Place(aws.at(tmp_path.name), aws.environ)
    artifact = make_artifact(tmp_path / "m")
    succeeds(place.environ, "publish", artifact, f"{place.root}/m", "--alias", "prod")
    ran = preheat("check", "lambda", f"{place.root}/m@live", **place.environ)
    assert ran.status == 1
    assert "there is no alias 'live'; there are prod" in ran.error


def test_a_published_artifact_is_checked_without_being_fetched(
    aws: Endpoint, filetype_artifact: Path, tmp_path: Path
) -> None:
    place = Place(aws.at(tmp_path.name), aws.environ)
    succeeds(place.environ, "publish", filetype_artifact, f"{place.root}/filetype", "--alias", "prod")
    cache = tmp_path / "cache"
    found = check(f"{place.root}/filetype@prod", PREHEAT_CACHE=str(cache), **place.environ)
    whats = {f["what"]: f for f in found["findings"]}
    assert whats["store"]["verdict"] == "fits"
    assert whats["snapshot_alias"]["verdict"] == "beware"
    assert whats["package"]["said"].endswith("artifact 0")
    assert not cache.exists()
    version = check(f"{place.root}/filetype@{version_of(filetype_artifact)[:12]}", **place.environ)
    assert "snapshot_alias" not in {f["what"] for f in version["findings"]}


def test_an_artifact_that_was_never_measured(tmp_path: Path) -> None:
    ran = preheat("check", "lambda", make_artifact(tmp_path / "m"))
    assert ran.status == 2
    assert "build it again" in ran.error


def test_render_prints_or_writes(filetype_artifact: Path, tmp_path: Path) -> None:
    printed = preheat("render", "sam", FILETYPE)
    assert printed.status == 0
    assert load(printed.out)["Resources"]["FiletypeFunction"]["Type"] == "AWS::Serverless::Function"
    written = preheat("render", "sam", FILETYPE, "-o", tmp_path / "out", "--architecture", "arm64")
    assert written.status == 0
    template = load((tmp_path / "out" / "template.yaml").read_text())
    assert template["Parameters"]["Architecture"]["Default"] == "arm64"
    assert "build-FiletypeFunction:" in (tmp_path / "out" / "Makefile").read_text()


def test_render_overwrites_nothing_that_somebody_changed(filetype_artifact: Path, tmp_path: Path) -> None:
    command = ("render", "sam", FILETYPE, "-o", tmp_path)
    for _ in range(2):  # what is alike is no obstacle
        assert preheat(*command).status == 0
    template = tmp_path / "template.yaml"
    changed = template.read_text() + "# mine\n"
    template.write_text(changed)
    refused = preheat(*command)
    assert refused.status == 2
    assert "template.yaml is there already, with another content: --force" in refused.error
    assert template.read_text() == changed
    assert preheat(*command, "--force").status == 0
    assert template.read_text() != changed


def test_an_artifact_without_an_app_needs_no_code(filetype_artifact: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(filetype_artifact, tmp_path / "alone")
    template = load(preheat("render", "sam", alone).out)
    assert "InlineCode" in template["Resources"]["FiletypeFunction"]["Properties"]
    assert template["Parameters"]["FiletypeVersion"]["Default"] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--architecture", "riscv64"], "must be one of x86_64, arm64"),
        (["--python", "3.11"], "--python must be one of 3.12, 3.13, 3.14"),
        (["--package", "rpm"], "--package must be one of zip, image"),
        (["-o", "/proc/nowhere"], "/proc/nowhere cannot be written"),
        ([str(FILETYPE)], "two functions would be called Filetype"),
    ],
)
def test_wrong_use_of_render(arguments: list[str], words: str) -> None:
    ran = preheat("render", "sam", FILETYPE, *arguments)
    assert ran.status == 2
    assert words in ran.error


def test_templates_need_a_library_that_checks_do_without(filetype_artifact: Path) -> None:
    script = (
        "import sys; sys.modules['yaml'] = None; from preheat.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    for command, status in ((("render", "sam"), 2), (("check", "lambda"), 0)):
        ran = subprocess.run(
            [sys.executable, "-c", script, *command, str(filetype_artifact)], capture_output=True, text=True
        )
        assert ran.returncode == status, ran.stderr
        assert ("pip install 'preheat[deploy]'" in ran.stderr) == (status == 2)
