"""How much memory there is, by what the kernel says of the control groups."""

from __future__ import annotations

import os

import pytest

from preheat import arena, fingerprint

GIB = 1024**3
MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, MACHINE),
        ({"/sys/fs/cgroup/memory.max": "max"}, MACHINE),
        ({"/sys/fs/cgroup/memory.max": str(2**27)}, 2**27),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/memory.max": str(2**27)}, 2**27),
        (
            {
                "/proc/self/cgroup": "0::/a/b",
                "/sys/fs/cgroup/a/b/memory.max": "max",
                "/sys/fs/cgroup/a/memory.max": str(2**26),
                "/sys/fs/cgroup/memory.max": str(2**27),
            },
            2**26,
        ),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**28)}, 2**28),
        ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
    ],
)
def test_usable_memory(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], found: int) -> None:
    monkeypatch.setattr(fingerprint, "_lines", lambda path: [files[path] + "\n"] if path in files else [])
    assert arena.usable_memory() == found


def test_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    monkeypatch.setattr(arena, "_hold", lambda wanted: held.append(wanted) or wanted)
    monkeypatch.setattr(arena, "_held", 0)
    monkeypatch.setattr(arena, "usable_memory", lambda: 8 * GIB)
    assert arena.held() == 6 * GIB
    assert arena.hold(weights=GIB) == 6 * GIB
    assert arena.hold(weights=7 * GIB) == 9 * GIB, "weights over the bound would leave none"
    assert arena.hold(GIB, 2 * GIB) == 3 * GIB
    monkeypatch.setattr(arena, "_held", 3 * GIB)
    assert (arena.held(), arena.hold(GIB, 2 * GIB), len(held)) == (3 * GIB, 3 * GIB, 4)
