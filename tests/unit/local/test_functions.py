"""What is up, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from preheat.errors import SettingsError, UsageError
from preheat.local.functions import find


def function(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "app.py").write_text("")
    return folder


def test_a_function_is_called_as_its_folder_and_an_artifact_as_its_manifest_says(
    tmp_path: Path, filetype_artifact: Path
) -> None:
    one, two = function(tmp_path / "one"), function(tmp_path / "two")
    targets = [str(one), str(two / "app.py"), str(filetype_artifact), "s3://bucket/models/three@prod"]
    environ = {"HOME": "/h", "PORT": "1", "PREHEAT_TIMEOUT": "9", "PREHEAT_ARTIFACT": "another"}
    found = find(targets, environ)
    assert [each.name for each in found] == ["one", "two", "filetype", "three"]
    assert [each.location for each in found] == [
        str(one / "app.py"),
        str(two / "app.py"),
        str(filetype_artifact),
        "s3://bucket/models/three@prod",
    ]
    assert found[0].environ == {"HOME": "/h", "PREHEAT_TIMEOUT": "9", "PREHEAT_ARTIFACT": str(one / "app.py")}
    assert found[0].settings.timeout == 9


def test_a_folder_with_an_artifact_alone(tmp_path: Path, filetype_artifact: Path) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (found,) = find([str(tmp_path)], {})
    assert (found.name, found.location) == ("filetype", str(tmp_path / "artifact"))


def test_a_setting_that_is_not_known_ends_the_command(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean PREHEAT_TIMEOUT"):
        find([str(function(tmp_path / "one"))], {"PREHEAT_TIMEOUTS": "1"})


@pytest.mark.parametrize("name", ["_preheat", "a b"])
def test_a_name_that_no_route_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a function's name"):
        find([str(function(tmp_path / name))], {})
