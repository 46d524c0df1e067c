"""Control groups as files: made, told of, removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from preheat.local import limits
from preheat.local.limits import Limits, anonymous_mib

CGROUP = "/proc/self/cgroup"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that looks as cgroup v2 does to this process."""
    line = next(line for line in Path(CGROUP).read_text().splitlines() if line.startswith("0::"))
    own = tmp_path / line.removeprefix("0::").lstrip("/")
    own.mkdir(parents=True, exist_ok=True)
    (own / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


def test_a_group_holds_the_limits_and_goes_with_its_instance(root: Path) -> None:
    held = Limits(256, 1.5, root=root)
    assert held.refused == ""
    assert held.told() == {"memory": "256 MiB, by control group", "cpu": "1.5, by control group"}
    assert not held.watches_memory
    group = Path(held.room("embed-1"))
    assert (group / "memory.max").read_text() == str(256 * 1024**2)
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "cpu.max").read_text() == "150000 100000"
    limits.enter(group)
    assert (group / "cgroup.procs").read_text() == "0", "whoever writes is moved"
    assert not held.killed("embed-1")
    (group / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 1\n")
    assert held.killed("embed-1")


def test_groups_of_a_gateway_that_was_killed_are_removed(root: Path) -> None:
    (own,) = (path.parent for path in root.rglob("cgroup.controllers"))
    (own / "preheat-up-99999999" / "embed-1").mkdir(parents=True)
    alive = own / f"preheat-up-{os.getppid()}" / "embed-1"
    alive.mkdir(parents=True)
    Limits(256, root=root)
    assert not (own / "preheat-up-99999999").exists()
    assert alive.exists()


def test_where_there_are_no_groups_memory_is_watched_and_it_is_said(root: Path, tmp_path: Path) -> None:
    held = Limits(256, 2, root=tmp_path / "nowhere")
    assert held.watches_memory
    assert held.told()["memory"].startswith("256 MiB, watched by the gateway: no cgroup v2 is mounted at ")
    assert held.told()["cpu"].startswith("2, not enforced: no cgroup v2 is mounted at ")
    assert held.room("embed-1") == ""
    (next(root.rglob("cgroup.controllers"))).write_text("pids\n")
    assert "cgroup v2 has no memory and cpu controller at " in Limits(1, 1, root=root).refused
    assert Limits(root=root).told() == {}


def test_a_group_that_may_not_be_made_is_told_by_its_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own,) = (path.parent for path in root.rglob("cgroup.controllers"))

    def refused(group: Path) -> None:
        if group.name == "preheat-gateway":
            raise PermissionError(13, "Permission denied", str(group / "cgroup.procs"))

    monkeypatch.setattr(limits, "enter", refused)
    held = Limits(256, root=root)
    assert held.refused == f"{own}/preheat-gateway/cgroup.procs: Permission denied"
    assert held.watches_memory
    assert not list(own.glob("preheat-up-*"))


def test_memory_that_no_file_backs() -> None:
    before = anonymous_mib(os.getpid())
    kept = bytearray(os.urandom(1024)) * 64 * 1024
    after = anonymous_mib(os.getpid())
    assert before is not None
    assert after is not None
    assert 50 < after - before < 90, len(kept)
    assert anonymous_mib(99999999) is None
