"""Bills of materials: valid, whole, and of the same things the same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from layers import sbom
from layers.environments import ENVIRONMENTS
from layers.locks import BACKEND, read

import preheat
from preheat import manifest
from preheat.build import build, manifest_text
from preheat.build.materials import BUILDER, bill, builder

from ..build.models import linear, save


def valid(text: str) -> Any:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "preheat", "sbom", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def test_an_artifact_says_what_it_is_made_of_and_another_build_says_the_same(tmp_path: Path) -> None:
    model = save(linear(), tmp_path / "model.onnx")
    one, other = (
        build(str(model), str(tmp_path / name), name="it", rounds=1, only=["mapped"])
        for name in ("one", "other")
    )
    of = manifest.load((tmp_path / "one" / "manifest.json").read_bytes())
    assert of.version == manifest.load((tmp_path / "other" / "manifest.json").read_bytes()).version
    text = command(tmp_path / "one").stdout
    assert text == command(tmp_path / "other").stdout == bill(one) == bill(other)
    found = valid(text)
    assert found["metadata"]["component"]["name"] == "it"
    assert found["metadata"]["component"]["version"] == of.version
    digests = {one["name"]: one["hashes"][0]["content"] for one in found["components"]}
    assert digests.pop("it: source") == of.source["digest"].removeprefix("sha256:")
    assert digests == {file.path: file.sha256 for file in of.files}
    tools = {one["name"]: one["version"] for one in found["metadata"]["tools"]["components"]}
    assert tools["preheat"] == preheat.__version__
    assert tools == {"python": tools["python"], "preheat": tools["preheat"], **builder("onnx")["packages"]}
    assert {"numpy", "onnxruntime", "onnx", "protobuf"} <= set(tools)
    depends = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    assert set(depends[of.version]) == {one["bom-ref"] for one in found["components"]}


def test_other_builders_make_another_bill_of_the_same_version(filetype: manifest.Manifest) -> None:
    by = {"preheat": "0.0.1", "python": "3.11.0", "packages": {"onnx": "1.17.0"}}
    other = filetype._replace(measurements={**filetype.measurements, BUILDER: by})
    assert manifest.load(manifest_text.dump(other).encode()).version == filetype.version
    assert valid(bill(other))["serialNumber"] != valid(bill(filetype))["serialNumber"]


@pytest.mark.parametrize("by", [None, "x", {}, {"packages": 7}, {"packages": {"a": None}, "preheat": ["x"]}])
def test_whatever_stands_for_the_builder_a_bill_is_valid(filetype: manifest.Manifest, by: object) -> None:
    """No version covers it: an artifact of an earlier release has none, and anybody may write anything."""
    assert valid(bill(filetype._replace(measurements={BUILDER: by})))["components"]


def test_an_artifact_that_is_not_whole_has_none(filetype_artifact: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(filetype_artifact, changed)
    (changed / "golden" / "0.inputs").write_bytes(b"x")
    done = command(changed)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not what its manifest says: golden/0.inputs" in done.stderr
    done = command(filetype_artifact, "-o", "/proc/no/file")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


@pytest.fixture
def filetype(filetype_artifact: Path) -> manifest.Manifest:
    return manifest.load((filetype_artifact / "manifest.json").read_bytes())


def test_a_lock_has_one(tmp_path: Path) -> None:
    one = sbom.write("one", BACKEND.with_suffix(".txt"), tmp_path).read_text()
    found = valid(one)
    pins = {(pin.name, pin.version) for pin in read(BACKEND.with_suffix(".txt"))}
    assert {(one["name"], one["version"]) for one in found["components"]} == pins
    assert all(one["externalReferences"] for one in found["components"]), "hashes"
    assert sbom.write("other", BACKEND.with_suffix(".txt"), tmp_path).read_text() == one
    assert len(sbom.locks()) == 4 + len(ENVIRONMENTS)
    assert all(lock.exists() for lock in sbom.locks().values())
