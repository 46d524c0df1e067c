"""Progress as a person sees it: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from . import fault_proxy
from .conftest import Place
from .fault_proxy import FaultProxy
from .samples import command, content, environ, make_artifact

SIZE = 20_000_000


@pytest.fixture
def slow(moto: Place) -> Iterator[tuple[Place, FaultProxy]]:
    """A store whose answers take long enough for a bar to be drawn."""
    with fault_proxy.before(moto.environ["AWS_ENDPOINT_URL"]) as proxy:
        yield Place(moto.root, {**moto.environ, "AWS_ENDPOINT_URL": proxy.url}), proxy


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return make_artifact(tmp_path / "artifact", weights=content("weights", SIZE))


def on_a_terminal(place: Place, *arguments: str | Path) -> tuple[int, str]:
    """A command's exit status, and what it writes to a terminal of 100 columns, without colours."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "preheat", *map(str, arguments)],
        env={**environ(place.environ), "TERM": "xterm", "NO_COLOR": "1"},
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    written, deadline = b"", time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    written += os.read(leader, 65536)
                except OSError:  # EIO: nobody holds the other end any more
                    break
            elif process.poll() is not None:
                break
        return process.wait(10), re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", written.decode())
    finally:
        process.kill()
        process.wait(10)
        os.close(leader)


def test_bars_show_bytes_and_rate(slow: tuple[Place, FaultProxy], artifact: Path, tmp_path: Path) -> None:
    place, proxy = slow
    where = f"{place.root}/m"
    status, shown = on_a_terminal(place, "publish", artifact, where, "--alias", "prod")
    assert status == 0, shown
    for stage in ("checking", "uploading"):
        assert re.search(rf"{stage} [━╸╺ ]+ \d+\.\d/20\.0 MB", shown), shown
    proxy.delay_s = 0.01
    status, shown = on_a_terminal(place, "pull", f"{where}@prod", tmp_path / "out")
    assert status == 0, shown
    amounts = [float(text) for text in re.findall(r"fetching [━╸╺ ]+ (\d+\.\d)/20\.0 MB \d+\.\d MB/s", shown)]
    assert len(set(amounts)) > 2, shown
    assert amounts == sorted(amounts)


def test_lines_where_there_is_no_terminal(moto: Place, artifact: Path, tmp_path: Path) -> None:
    done = command(moto.environ, "publish", artifact, f"{moto.root}/m", "--alias", "prod")
    assert done.err == "checking (20.0 MB) …\nuploading (20.0 MB) …\n"
    done = command(moto.environ, "pull", f"{moto.root}/m@prod", tmp_path / "out")
    assert done.err == "fetching (20.0 MB) …\n"


def test_a_bar_ends_with_the_error(slow: tuple[Place, FaultProxy], artifact: Path, tmp_path: Path) -> None:
    place, proxy = slow
    proxy.plan = lambda asked: fault_proxy.Fault.DENIED if asked.method == "PUT" else None
    status, shown = on_a_terminal(place, "publish", artifact, f"{place.root}/m")
    assert status == 1
    assert "permission denied: AccessDenied by the proxy" in shown.splitlines()[-1]
