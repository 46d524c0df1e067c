"""Memory and CPU limits of an instance: by control groups (cgroup v2) where this process may make them.

Elsewhere memory is watched by the gateway: an instance past its limit is ended at the next look, so it may be
past it for as long as a look takes. RLIMIT_AS would count mapped weights, and RLIMIT_DATA turns a limit into
any of a dozen errors inside of libraries. The CPU is then not limited at all. Either is said on the status
page.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_PREFIX = "preheat-up-"
PERIOD_US = 100_000
"""Of ``cpu.max``: the kernel's own default."""


class Limits:
    """``memory_mib``, ``cpus``: of each instance; 0 for none. ``root``: where cgroup v2 is mounted."""

    def __init__(self, memory_mib: int = 0, cpus: float = 0.0, *, root: Path = ROOT) -> None:
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.refused = ""
        """Why control groups hold no limits here; empty where they do, or where there is no limit."""
        self._base: Path | None = None
        if memory_mib or cpus:
            try:
                self._base = _delegated(root, (["memory"] if memory_mib else []) + (["cpu"] if cpus else []))
            except OSError as error:
                self.refused = str(error) if error.strerror is None else f"{error.filename}: {error.strerror}"

    @property
    def watches_memory(self) -> bool:
        """Whether the gateway has to look at what instances take."""
        return bool(self.memory_mib) and self._base is None

    def told(self) -> dict[str, str]:
        """How each limit is held, in words."""
        held = "by control group" if self._base is not None else ""
        said = {}
        if self.memory_mib:
            said["memory"] = f"{self.memory_mib} MiB, {held or f'watched by the gateway: {self.refused}'}"
        if self.cpus:
            said["cpu"] = f"{self.cpus:g}, {held or f'not enforced: {self.refused}'}"
        return said

    def room(self, name: str) -> str:
        """Make an instance's group; gives its folder, empty where there are no groups. Raises OSError."""
        if self._base is None:
            return ""
        group = self._base / name
        group.mkdir(exist_ok=True)
        if self.memory_mib:
            (group / "memory.max").write_text(str(self.memory_mib * 1024**2))
            with contextlib.suppress(OSError):  # without swap accounting there is no such file
                (group / "memory.swap.max").write_text("0")
            (group / "memory.oom.group").write_text("1")
        if self.cpus:
            (group / "cpu.max").write_text(f"{round(self.cpus * PERIOD_US)} {PERIOD_US}")
        return str(group)

    def killed(self, name: str) -> bool:
        """Whether the kernel ended an instance for its memory."""
        if self._base is None or not self.memory_mib:
            return False
        try:
            lines = (self._base / name / "memory.events").read_text().splitlines()
        except OSError:
            return False
        return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines)

    def remove(self, name: str) -> None:
        """Remove the group of an instance that has ended."""
        if self._base is not None:
            with contextlib.suppress(OSError):
                (self._base / name).rmdir()

    def close(self) -> None:
        """Remove what was made; the gateway's process stays in its own leaf."""
        if self._base is not None:
            _remove(self._base)


def anonymous_mib(pid: int) -> float | None:
    """Memory that no file backs of a process and those that it has started, MiB: mapped weights are left out,
    as another instance shares them. None where it has ended."""
    kib = _anonymous_kib(pid)
    if kib is None:
        return None
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        kib += sum(_anonymous_kib(int(child)) or 0 for child in file.read().split())
    return kib / 1024


def _anonymous_kib(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return sum(int(lines[key].split()[0]) for key in ("RssAnon", "RssShmem"))
    except (OSError, KeyError, ValueError):
        return None


def _delegated(root: Path, controllers: list[str]) -> Path:
    """A folder for groups under this process's own, with the controllers on. Raises OSError."""
    line = next(
        (one for one in Path("/proc/self/cgroup").read_text().splitlines() if one.startswith("0::")), None
    )
    if line is None:
        raise OSError("this process is in no cgroup v2")
    own = root / line.removeprefix("0::").lstrip("/")
    if not (own / "cgroup.controllers").exists():
        raise OSError(f"no cgroup v2 is mounted at {root}")
    there = (own / "cgroup.controllers").read_text().split()
    missing = [name for name in controllers if name not in there]
    if missing:
        raise OSError(f"cgroup v2 has no {' and '.join(missing)} controller at {own}")
    _remove_left(own)
    base = own / f"{_PREFIX}{os.getpid()}"
    base.mkdir(exist_ok=True)
    try:
        # No process may be in a group that hands controllers down (cgroups(7), "no internal processes").
        leaf = own / "preheat-gateway"
        leaf.mkdir(exist_ok=True)
        enter(leaf)
        for folder in (own, base):
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
    except OSError:
        enter(own)
        base.rmdir()
        raise
    return base


def _remove_left(own: Path) -> None:
    """Remove the groups of gateways that were killed."""
    for base in own.glob(f"{_PREFIX}*"):
        if not Path("/proc", base.name.removeprefix(_PREFIX)).exists():
            _remove(base)


def _remove(base: Path) -> None:
    with contextlib.suppress(OSError):
        for group in [*base.iterdir(), base]:
            if group.is_dir():
                group.rmdir()


def enter(group: Path) -> None:
    """Put this process into a group. Raises OSError."""
    (group / "cgroup.procs").write_text("0")
