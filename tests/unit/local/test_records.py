"""Instances noted outside of their gateway."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from preheat.errors import UsageError
from preheat.local.records import LOCK, Records, default_folder, started


def test_a_start_time_tells_processes_apart() -> None:
    assert started(os.getpid()) == started(os.getpid())
    child = subprocess.Popen(["sleep", "60"])
    assert (started(child.pid) or 0) >= (started(os.getpid()) or 0)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert started(child.pid) is None, "a zombie has ended"
    child.wait()
    assert started(child.pid) is None


def test_what_a_gateway_left_is_ended_and_nobody_elses(tmp_path: Path) -> None:
    left, others = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["sleep", "60"])
    folder = tmp_path / "up-gone"
    folder.mkdir()
    (folder / str(left.pid)).write_text(str(started(left.pid)))
    (folder / str(others.pid)).write_text("1")
    (folder / "99999999").write_text("7")
    records = Records(tmp_path)
    assert records.ended == 1
    assert left.wait(5) < 0
    assert others.poll() is None
    assert not folder.exists()
    records.add(others.pid)
    second = Records(tmp_path)
    assert second.ended == 0
    assert others.poll() is None, "its gateway lives"
    others.kill()
    others.wait()
    records.remove(others.pid)
    records.close()
    second.close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_folder_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written: .*--state"):
        Records(tmp_path / "file")
    assert default_folder({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/preheat")
    assert default_folder({}).name == f"preheat-{os.getuid()}"
