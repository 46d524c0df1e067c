"""The rendered templates; those of the repository are held against the code that writes them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from preheat.deploy import aws_tables
from preheat.deploy.cloudformation import load
from preheat.deploy.facts import read
from preheat.deploy.sam import Unit, render, template
from preheat.errors import UsageError
from preheat.ledger import dynamodb_table

from ...conftest import ROOT
from .artifacts import facts

TABLES = aws_tables.load()
UNIT = Unit("m", "../f/m", "", "", "store,lambda", 1769, 30, 512, 1, 1500)
STACK = UNIT._replace(name="other", code="", store="stack")


def made(*units: Unit, package: str = "zip", **more: Any) -> Any:
    return load(rendered(*units, package=package, **more).text)


def rendered(*units: Unit, package: str = "zip", architecture: str = "x86_64") -> Any:
    return template(
        units,
        package=package,
        python="3.12",
        architecture=architecture,
        layers="../out/layers",
        context="..",
        dockerfile="sam/Dockerfile",
    )


@pytest.mark.parametrize(("package", "name"), [("zip", "template.yaml"), ("image", "image.yaml")])
def test_the_repositorys_templates_are_what_the_code_writes(package: str, name: str) -> None:
    """All of it but the measured sizes, which are those of the machine that built the artifacts."""
    text = (ROOT / "sam" / name).read_text()
    parameters = load(text)["Parameters"]

    def unit(name: str, extras: str, store: str) -> Unit:
        logical = name.capitalize()
        sizes = [
            parameters[f"{logical}{what}"]["Default"]
            for what in ("Memory", "Timeout", "EphemeralStorage", "Threads", "ColdStartP99")
        ]
        return Unit(name, f"../functions/{name}", store, "", extras, *sizes)

    units = (
        unit("filetype", "store,lambda", ""),
        unit("embed", "text,store,lambda", "stack" if package == "zip" else ""),
    )
    written = rendered(*units, package=package)
    assert written.text == text, "run `make templates`"
    if package == "zip":
        assert written.makefile == (ROOT / "sam" / "Makefile").read_text(), "run `make templates`"


def test_the_repositorys_sizes_hold_for_the_artifacts_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    committed = load((ROOT / "sam" / "template.yaml").read_text())["Parameters"]
    for name in ("filetype", "embed"):
        found = render(
            [read(f"functions/{name}/app.py", os.environ)],
            TABLES,
            folder="sam",
            package="zip",
            python="3.12",
            architecture="x86_64",
            layers="layers/dist",
        )
        parameters = load(found.text)["Parameters"]
        for what in ("Memory", "Timeout", "EphemeralStorage"):
            key = f"{name.capitalize()}{what}"
            assert committed[key]["Default"] >= parameters[key]["Default"], "run `make templates`"


def test_the_table_is_the_one_that_the_ledger_makes() -> None:
    said = made(UNIT)["Resources"]["Ledger"]["Properties"]
    assert {key: said[key] for key in dynamodb_table.TABLE} == dynamodb_table.TABLE
    assert said["TimeToLiveSpecification"] == {"AttributeName": dynamodb_table.TTL, "Enabled": True}


def test_sizes_come_from_the_artifact() -> None:
    large = facts()
    large.manifest.measurements["variants"]["portable"]["rss_mib"] = {"median": 4000}
    found = render(
        [large],
        TABLES,
        folder="/f/out",
        package="zip",
        python="3.13",
        architecture=None,
        layers="/f/layers",
    )
    parameters = load(found.text)["Parameters"]
    defaults = {key: parameters[f"M{key}"]["Default"] for key in ("Memory", "Threads", "Timeout")}
    assert defaults == {"Memory": 4736, "Threads": 2, "Timeout": 30}
    assert parameters["Architecture"]["Default"] == "x86_64"
    resources = load(found.text)["Resources"]
    assert resources["MFunction"]["Properties"]["Runtime"] == "python3.13"
    assert (
        resources["RuntimeLayerArm"]["Properties"]["ContentUri"] == "../layers/runtime-python3.13-arm64.zip"
    )
    assert 'cp -R "../m/artifact"' in found.makefile


def test_an_artifact_for_arm_is_deployed_on_arm() -> None:
    found = render(
        [facts(arch="aarch64")],
        TABLES,
        folder="/f",
        package="zip",
        python="3.12",
        architecture=None,
        layers="/f/layers",
    )
    assert load(found.text)["Parameters"]["Architecture"]["Default"] == "arm64"


def test_what_fits_beside_the_layers_is_packed_and_the_rest_is_fetched() -> None:
    small, large = (load_one(weights_mib=mib) for mib in (20, 100))
    assert "PREHEAT_ARTIFACT" not in small["Environment"]["Variables"]
    named = large["Environment"]["Variables"]["PREHEAT_ARTIFACT"]
    assert named == {"Fn::Sub": "s3://${Artifacts}/m/m@${MVersion}"}


def load_one(**changes: Any) -> Any:
    found = render(
        [facts(**changes)],
        TABLES,
        folder="/f/out",
        package="zip",
        python="3.12",
        architecture=None,
        layers="/f/layers",
    )
    return load(found.text)["Resources"]["MFunction"]["Properties"]


def test_a_stores_reference_is_read_where_it_lies() -> None:
    said = load_one(location="s3://models/team/m@prod", stored=True, home="", alias="prod")
    assert said["Environment"]["Variables"]["PREHEAT_ARTIFACT"] == "s3://models/team/m@prod"
    assert "from preheat import Function" in said["InlineCode"]
    statements = said["Policies"][0]["Statement"]
    assert {"Fn::Sub": "arn:${AWS::Partition}:s3:::models/team/*"} in [s["Resource"] for s in statements]


def test_no_bucket_where_nothing_is_fetched() -> None:
    assert "Artifacts" not in made(UNIT)["Resources"]
    assert "Artifacts" in made(UNIT, STACK)["Resources"]


def test_an_image_holds_its_artifact_and_needs_no_layers() -> None:
    resources = made(UNIT, package="image")["Resources"]
    assert not [r for r in resources.values() if r["Type"] == "AWS::Serverless::LayerVersion"]
    function = resources["MFunction"]
    assert function["Properties"]["PackageType"] == "Image"
    assert function["Metadata"]["DockerBuildArgs"]["FUNCTION"] == "f/m"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"package": "rpm"}, "--package must be one of"),
        ({"python": "3.11"}, "--python must be one of 3.12"),
    ],
)
def test_wrong_use(change: dict[str, str], words: str) -> None:
    arguments: dict[str, Any] = {"package": "zip", "python": "3.12", "architecture": None, **change}
    with pytest.raises(UsageError, match=words):
        render([facts()], TABLES, folder="/f", layers="/f/layers", **arguments)


def test_functions_need_names_of_their_own() -> None:
    with pytest.raises(UsageError, match="two functions would be called M:"):
        rendered(UNIT, UNIT._replace(code="../f/n"))


def test_an_artifact_elsewhere_than_in_s3() -> None:
    with pytest.raises(UsageError, match="lies in S3"):
        load_one(location="gs://models/m@prod", stored=True, home="", alias="prod")


def test_an_image_is_made_from_an_app() -> None:
    with pytest.raises(UsageError, match="name that"):
        render(
            [facts(home="")],
            TABLES,
            folder="/f",
            package="image",
            python="3.12",
            architecture=None,
            layers="/f/layers",
        )
