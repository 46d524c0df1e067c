"""From zero and back, again and again: no process, descriptor, file or shared memory is left. ``CYCLES=1000``
does more of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from preheat.measure.start import children

from ...conftest import running
from .conftest import Up, shared, up

CYCLES = int(os.environ.get("CYCLES", "12"))


class Held(NamedTuple):
    """What a gateway and its folders hold."""

    processes: int
    descriptors: int
    noted: int
    cached: int
    temporary: int


def held(gateway: Up) -> Held:
    (own,) = gateway.state.glob("up-*")
    return Held(
        len(children(gateway.process.pid)),
        len(os.listdir(f"/proc/{gateway.process.pid}/fd")),
        len(list(own.iterdir())),
        sum(1 for _ in (gateway.folder / "cache").rglob("*")),
        len(list((gateway.folder / "tmp").iterdir())),
    )


@pytest.mark.timeout(60 + 5 * CYCLES)
@pytest.mark.parametrize(("kind", "kept"), [("fresh", 0), ("fork", 1), ("criu", 1)], indirect=["kind"])
def test_cycles_leave_nothing_behind(filetype_artifact: Path, tmp_path: Path, kind: str, kept: int) -> None:
    """``kept``: processes that stay at zero: the template."""
    (tmp_path / "tmp").mkdir()
    pids: list[int] = []
    mapped: set[str] = set()
    with up(tmp_path, str(filetype_artifact), "--start", kind, TMPDIR=str(tmp_path / "tmp")) as gateway:
        before = None
        for cycle in range(CYCLES + 2):
            if cycle == 2:
                before = held(gateway)
            answer = gateway.predict(name="filetype")
            assert answer.status == 200
            assert answer.headers["x-preheat-start"] == ("cold" if kind == "fresh" else "restored")
            instances = [one["pid"] for one in gateway.function("filetype")["instances"]]
            pids += [pid for one in instances for pid in (one, *children(one))]
            mapped |= shared(pids[-1])
            assert gateway.scale(0, "filetype").status == 200
        assert before is not None
        deadline = time.monotonic() + 5
        while any(now > then for now, then in zip(held(gateway), before, strict=True)):
            # The last client's connection may be closing yet.
            assert time.monotonic() < deadline, (held(gateway), before)
            time.sleep(0.05)
        assert before.processes == kept
        assert not any(map(running, pids))
        assert not any(map(os.path.exists, mapped))
        assert len(set(pids)) >= CYCLES
        assert gateway.function("filetype")["outcomes"] == {"ok": CYCLES + 2}
