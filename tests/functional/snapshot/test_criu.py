"""Snapshots by CRIU, where `criu check` passes; and what happens where it does not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preheat.measure.client import Response, connect, free_port, read_response, request
from preheat.measure.start import children
from preheat.snapshot import criu, dump

from ...conftest import gone
from ..store.samples import publish
from .conftest import PREDICT, environ


def snapshot(target: Path, folder: Path, made: dict[str, str]) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "preheat",
        "snapshot",
        "create",
        str(target),
        "-o",
        str(folder),
        "--json",
    ]
    done = subprocess.run(command, env=made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


class Restored:
    """`python -IS DIR/restore.py` on a port of its own, or what `command` says."""

    def __init__(self, folder: Path, made: dict[str, str], command: list[str] | None = None) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            command or criu.command(str(folder)),
            env={**made, "PORT": str(self.port), "PREHEAT_HOST": "127.0.0.1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str = "POST", path: str = "/predict", body: Any = PREDICT) -> Response:
        raw = json.dumps(body).encode() if method == "POST" else b""
        deadline = time.monotonic() + 30
        with connect(self.port, deadline=deadline, alive=lambda: self.process.poll() is None) as client:
            kind = {"content-type": "application/json", "accept": "application/json"}
            client.sendall(request(method, path, raw, kind))
            return read_response(client, deadline=deadline)

    def report(self) -> Any:
        return json.loads(self.ask("GET", "/coldstart").body)

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@contextlib.contextmanager
def restored(folder: Path, made: dict[str, str], command: list[str] | None = None) -> Iterator[Restored]:
    process = Restored(folder, made, command)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.stop()


def test_a_restored_process_serves_on_its_port_with_another_id_each_time(
    criu_program: str, embed_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    made = environ(embed_artifact, cache, PREHEAT_THREADS="2")
    told = snapshot(embed_artifact, tmp_path / "snapshot", made)
    weights = max(path.stat().st_size for path in embed_artifact.rglob("*") if path.is_file())
    assert told["bytes"] < weights  # which are mapped, and not in it
    ids, ports = set(), set()
    for _ in range(2):
        with restored(tmp_path / "snapshot", made) as process:
            answer = process.ask(body={"input": "What is in a snapshot?"})
            assert (answer.status, answer.headers["x-preheat-start"]) == (200, "restored")
            report = process.report()
            assert (report["kind"], report["restore"], report["threads"]) == ("restored", "criu", 2)
            assert {p["phase"] for p in report["phases"]} == {"restore", "warmup", "first_request"}
            assert 0 < report["total_ms"] < 20_000
            ids.add(report["instance"])
            ports.add(process.port)
            assert process.stop()[0] == 0
    assert (len(ids), len(ports)) == (2, 2)
    # What is known of the kernel by then is not probed at each restore.
    assert Path(f"/dev/shm/preheat-criu-{os.geteuid()}/criu.kdat").stat().st_size > 0


def test_a_restored_process_takes_over_the_socket_that_it_is_started_with(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    made = environ(filetype_artifact, cache)
    snapshot(filetype_artifact, tmp_path / "snapshot", made)
    launch = (
        "import os, sys\nos.dup2(int(sys.argv[1]), 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'preheat.snapshot.criu', sys.argv[2]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            raw = json.dumps(PREDICT).encode()
            client.sendall(request("POST", "/predict", raw, {"content-type": "application/json"}))
            process = subprocess.Popen(
                [sys.executable, "-c", launch, str(listener.fileno()), str(tmp_path / "snapshot")],
                env=made,
                pass_fds=[listener.fileno()],
            )
            answer = read_response(client, deadline=time.monotonic() + 30)
        process.terminate()
        assert process.wait(30) == 0
    assert (answer.status, answer.headers["x-preheat-start"]) == (200, "restored")


def test_hooks_run_before_the_dump_and_after_each_restore(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifact").symlink_to(filetype_artifact)
    (tmp_path / "app.py").write_text(
        "from preheat import Function, snapshot\nfunction = Function(__file__)\n\n\n"
        f"def say(text):\n    with open({str(tmp_path / 'order')!r}, 'a') as file:\n"
        "        file.write(text + ' ')\n\n\n"
        "snapshot.before(lambda: say('before'))\nsnapshot.after(lambda: say('after'))\n"
    )
    made = environ(tmp_path / "app.py", cache)
    snapshot(tmp_path / "app.py", tmp_path / "snapshot", made)
    assert (tmp_path / "order").read_text() == "before "
    with restored(tmp_path / "snapshot", made) as process:
        assert process.ask().status == 200
        assert (tmp_path / "order").read_text() == "before after "


def test_a_target_in_a_store_is_dumped_and_its_images_are_for_their_owner_alone(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    store = f"file://{tmp_path}/store/filetype"
    publish(filetype_artifact, store)
    made = environ(f"{store}@prod", cache)
    command = [sys.executable, "-m", "preheat", "snapshot", "create", f"{store}@prod"]
    command += ["-o", str(tmp_path / "snapshot")]
    subprocess.run(command, env=made, capture_output=True, check=True, umask=0)
    assert stat.S_IMODE((tmp_path / "snapshot" / "images").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "snapshot" / "restore.py").stat().st_mode) == 0o644
    with restored(tmp_path / "snapshot", made) as process:
        assert process.ask().headers["x-preheat-start"] == "restored"


def test_a_restored_process_ends_with_the_one_that_restored_it(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    made = environ(filetype_artifact, cache)
    snapshot(filetype_artifact, tmp_path / "snapshot", made)
    with restored(tmp_path / "snapshot", made) as process:
        assert process.ask().status == 200
        (pid,) = children(process.process.pid)
        process.process.kill()
        process.process.communicate(timeout=30)
        assert gone([pid]), "it went on"


def test_the_heap_is_mapped_from_a_snapshot_that_may_be_moved_and_must_be_whole(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    made = environ(filetype_artifact, cache)
    told = snapshot(filetype_artifact, tmp_path / "made", made)
    folder = (tmp_path / "made").rename(tmp_path / "moved")
    heap = folder / "images" / "heap.img"
    with restored(folder, made) as process:
        assert process.ask().headers["x-preheat-start"] == "restored"
        (pid,) = children(process.process.pid)
        assert f" {heap}\n" in Path(f"/proc/{pid}/maps").read_text()
        pages = next((folder / "images").glob("pages-*.img")).stat().st_size
        assert told["heap_bytes"] == heap.stat().st_size > pages / 4
        before = heap.read_bytes()
        shutil.rmtree(folder / "images")  # it goes on without
        assert process.ask().status == 200
    (folder / "images").mkdir()
    heap.write_bytes(before[:-4096])
    with restored(folder, made) as process:
        assert process.ask().headers["x-preheat-start"] == "cold"
        assert process.report()["not_restored"] == f"{heap} has not its {len(before)} bytes"


def test_images_that_are_not_understood_are_restored_as_criu_made_them(
    criu_program: str,
    filetype_artifact: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dump, "lay_heap_aside", lambda _folder: 0)
    made = environ(filetype_artifact, cache)
    assert dump.create(str(filetype_artifact), str(tmp_path / "snapshot"), made)["heap_bytes"] == 0
    assert not (tmp_path / "snapshot" / "images" / "heap.img").exists()
    with restored(tmp_path / "snapshot", made) as process:
        assert process.ask().headers["x-preheat-start"] == "restored"


def test_a_snapshot_that_cannot_be_restored_starts_fresh_and_says_why(
    criu_program: str, filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    made = environ(filetype_artifact, cache)
    snapshot(filetype_artifact, tmp_path / "snapshot", made)
    with restored(tmp_path / "snapshot", made) as first:
        assert first.ask().headers["x-preheat-start"] == "restored"
        with restored(tmp_path / "snapshot", made) as second:
            assert second.ask().headers["x-preheat-start"] == "cold"  # its process id is taken
            report = second.report()
            assert (report["kind"], report["not_restored"][:13]) == ("fresh", "criu restore:")
            status, err = second.stop()
            assert status == 0
            assert "warning: the snapshot is not restored, the server starts fresh: criu restore:" in err


def test_without_criu_the_server_starts_fresh_and_says_so(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "snapshot.json").write_text(json.dumps({"schema": 2, "target": str(filetype_artifact)}))
    bare = {**environ(filetype_artifact, cache), "PATH": str(tmp_path)}
    if any(os.access(f"{place}/criu", os.X_OK) for place in ("/usr/local/sbin", "/usr/sbin")):
        pytest.skip("criu is installed in /usr/sbin or /usr/local/sbin, where it is always looked for")
    with restored(folder, bare, [sys.executable, "-m", "preheat.snapshot.criu", str(folder)]) as process:
        assert process.ask().headers["x-preheat-start"] == "cold"
        assert "criu is not installed" in process.report()["not_restored"]


def test_a_criu_that_may_not_is_refused_in_its_own_words(
    filetype_artifact: Path, cache: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "bin" / "criu"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'Error (criu/x.c:1): no rights' >&2\nexit 1\n")
    fake.chmod(0o755)
    made = {**environ(filetype_artifact, cache), "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "preheat", "snapshot", "create", str(filetype_artifact)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "new")], env=made, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "error: criu check: Error (criu/x.c:1): no rights\n",
    )


def test_a_target_that_does_not_start_and_a_folder_without_a_snapshot_are_told(
    criu_program: str, cache: Path, tmp_path: Path
) -> None:
    made = environ(tmp_path / "nothing", cache)
    command = [sys.executable, "-m", "preheat", "snapshot"]
    create = [*command, "create", str(tmp_path / "nothing"), "-o", str(tmp_path / "new")]
    done = subprocess.run(create, env=made, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "the target does not start" in done.stderr
    done = subprocess.run(
        [*command, "restore", str(tmp_path)], env=made, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "holds no snapshot" in done.stderr) == (2, True)
