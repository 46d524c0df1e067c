"""Artifacts changed, cut, moved or made for another machine: refused by name, or degraded and said so."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preheat import manifest as manifests
from preheat.build import manifest_text
from preheat.manifest import Manifest, Requires

from ..conftest import ROOT, Server, serving

REQUEST = {"content": "aW1wb3J0IG9zCg=="}


@pytest.fixture
def artifact(tmp_path: Path, filetype_artifact: Path) -> Path:
    copy = tmp_path / "artifact"
    shutil.copytree(filetype_artifact, copy)
    return copy


def read(artifact: Path) -> Manifest:
    return manifests.load((artifact / "manifest.json").read_bytes())


def write(artifact: Path, manifest: Manifest) -> None:
    (artifact / "manifest.json").write_text(manifest_text.dump(manifest))


WATCHED = """
import sys
import onnxruntime
made = onnxruntime.InferenceSession.__init__
def told(*arguments, **more):
    print("a session was made", file=sys.stderr, flush=True)
    made(*arguments, **more)
onnxruntime.InferenceSession.__init__ = told
from preheat.server import main
sys.exit(main())
"""
"""A server that says on standard error when it makes a session."""


def refused(artifact: Path | str, cache: Path, *, session: bool = False, **environ: str) -> str:
    """What a server that cannot start says, having ended with status 1; without ``session`` before it made
    one."""
    command = () if session else (sys.executable, "-c", WATCHED)
    server = Server(artifact, command=command, PREHEAT_CACHE=str(cache), **environ)
    status, _, err = server.finish()
    assert status == 1, err
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _chosen(artifact: Path) -> Path:
    from preheat import fingerprint
    from preheat.choice import choose

    best = choose(read(artifact), fingerprint.with_runtime(fingerprint.machine())).variants[0]
    return artifact / best.model


def _symlink(artifact: Path) -> None:
    model = _chosen(artifact)
    shutil.move(model, artifact.parent / "elsewhere")
    model.symlink_to(artifact.parent / "elsewhere")


@pytest.mark.attack
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda a: _flip(_chosen(a)), "was changed: its sha256"),
        (lambda a: _flip(a / read(a).golden[0].inputs), "was changed: its sha256"),
        (lambda a: _flip(a / read(a).assets["config"]), "was changed: its sha256"),
        (lambda a: _chosen(a).unlink(), "is missing; the manifest lists it"),
        (lambda a: _chosen(a).write_bytes(b"x"), "has 1 bytes, the manifest says"),
        (lambda a: os.truncate(_chosen(a), 10**8), "has 100000000 bytes, the manifest says"),
        (lambda a: (a / "extra.bin").write_bytes(b"x"), "is not in the manifest"),
        (lambda a: (a / "variants" / "hidden").write_bytes(b""), "is not in the manifest"),
        (_symlink, "is a link or a special file"),
        (lambda a: (a / "manifest.json").unlink(), "is not an artifact: it has no manifest.json"),
        (lambda a: (a / "manifest.json").write_text("{"), "manifest.json is not JSON"),
        (lambda a: (a / "manifest.json").write_text('{"schema": 9}'), "schema is 9"),
        (lambda a: os.truncate(a / "manifest.json", 9 * 1024 * 1024), "is larger than"),
        (lambda a: shutil.rmtree(a), "does not exist; make one with `preheat build"),
        (
            lambda a: (a / "manifest.json").write_text(
                (a / "manifest.json").read_text().replace('"warmup_runs": 1', '"warmup_runs": 2')
            ),
            "changed after the build",
        ),
    ],
)
def test_a_harmed_artifact_is_refused_by_name(
    artifact: Path, cache: Path, harm: Callable[[Path], Any], said: str
) -> None:
    harm(artifact)
    assert said in refused(artifact, cache)


@pytest.mark.attack
def test_a_change_after_a_verified_start_is_seen(artifact: Path, cache: Path) -> None:
    time.sleep(0.2)  # no file is vouched for that was changed a moment ago
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        server.wait_ready()
        first = server.request("GET", "/coldstart").json()
    assert any("verified_bytes" in phase["attributes"] for phase in first["phases"])
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        server.wait_ready()
        second = server.request("GET", "/coldstart").json()
    assert not any("verified_bytes" in phase["attributes"] for phase in second["phases"])
    model = _chosen(artifact)
    times = model.stat()
    _flip(model)
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "was changed" in refused(artifact, cache)


def test_verify_always_hashes_every_time(artifact: Path, cache: Path) -> None:
    for _ in range(2):
        with serving(artifact, PREHEAT_CACHE=str(cache), PREHEAT_VERIFY="always") as server:
            server.wait_ready()
            phases = server.request("GET", "/coldstart").json()["phases"]
        assert any("verified_bytes" in phase["attributes"] for phase in phases)


def test_a_read_only_cache_is_no_error(artifact: Path) -> None:
    with serving(artifact, PREHEAT_CACHE="/proc/nothing") as server:
        server.wait_ready()


def _for_another(manifest: Manifest, requires: Requires) -> Manifest:
    variants = tuple(v if v.name == "portable" else v._replace(requires=requires) for v in manifest.variants)
    return manifest._replace(variants=variants)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        (Requires(arch="riscv64"), "made for riscv64"),
        (Requires(isa=("avx9",)), "this one lacks avx9"),
        (Requires(onnxruntime=("0.1", "0.2")), "made for onnxruntime 0.1 up to 0.2"),
        (Requires(provider="NoneExecutionProvider"), "needs NoneExecutionProvider"),
    ],
)
def test_an_artifact_for_another_machine_runs_portable_and_says_so(
    artifact: Path, cache: Path, requires: Requires, said: str
) -> None:
    # Rank the others first, so that portable is the fallback and not the choice.
    manifest = read(artifact)._replace(measurements={})
    write(artifact, _for_another(manifest, requires))
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        answer = server.request("POST", "/predict", REQUEST)
        assert answer.status == 200
        assert answer.headers["x-preheat-degraded"] == "variant=portable"
        report = server.request("GET", "/coldstart").json()
        assert report["variant"] == "portable"
        assert said in report["fallback"]


def test_variants_that_cannot_be_opened_are_left_for_portable(artifact: Path, cache: Path) -> None:
    manifest = read(artifact)._replace(measurements={})
    no_model = manifest.golden[0].outputs
    broken = tuple(
        v if v.name == "portable" else v._replace(model=no_model, files=(no_model,))
        for v in manifest.variants
    )
    write(artifact, manifest._replace(variants=broken))
    with serving(artifact, PREHEAT_CACHE=str(cache)) as server:
        server.wait_ready()
        report = server.request("GET", "/coldstart").json()
    assert report["variant"] == "portable"
    assert "cannot be opened" in report["fallback"]


def test_golden_answers_that_nothing_gives_refuse_the_start(artifact: Path, cache: Path) -> None:
    import hashlib

    from preheat.tensors import pack, unpack

    manifest = read(artifact)
    path = artifact / manifest.golden[0].outputs
    wrong = {name: array + 1 for name, array in unpack(path.read_bytes()).items()}
    path.write_bytes(pack(wrong))
    relative = manifest.golden[0].outputs
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = tuple(f._replace(sha256=digest) if f.path == relative else f for f in manifest.files)
    write(artifact, manifest._replace(files=files))
    assert "from the golden outputs; the tolerance is" in refused(artifact, cache, session=True)


def test_a_required_provider_that_is_not_there(artifact: Path, cache: Path) -> None:
    line = refused(artifact, cache, PREHEAT_REQUIRE_PROVIDER="CUDAExecutionProvider")
    assert "CUDAExecutionProvider is required" in line


def test_a_forced_variant_that_does_not_exist(artifact: Path, cache: Path) -> None:
    assert "has no variant 'fast'" in refused(artifact, cache, PREHEAT_VARIANT="fast")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PREHEAT_ARTIFACT": ""}, "nothing to serve"),
        ({"PREHEAT_THREDS": "1"}, "did you mean PREHEAT_THREADS"),
        ({"PORT": "seventy"}, "PORT must be a whole number"),
        ({"PREHEAT_ARTIFACT": "/nowhere/app.py"}, "/nowhere/app.py does not exist"),
    ],
)
def test_wrong_use_exits_2(filetype_artifact: Path, environ: dict[str, str], said: str) -> None:
    status, _, err = Server(filetype_artifact, **environ).finish()
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_a_port_that_is_taken(filetype_server: Server, filetype_artifact: Path) -> None:
    status, _, err = Server(filetype_artifact, PORT=str(filetype_server.port)).finish()
    assert status == 2
    assert "choose another port (PORT, --port)" in err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "must define one preheat.Function; it defines 0"),
        ("import nothing_of_that_name\n", "failed when it was imported: ModuleNotFoundError"),
        ("def broken(:\n", "SyntaxError"),
        (
            "from preheat import Function\na = Function(__file__)\nb = Function(__file__)\n",
            "it defines 2",
        ),
    ],
)
def test_an_app_that_is_no_function(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "app.py").write_text(source)
    status, _, err = Server(tmp_path / "app.py").finish()
    assert status == 2
    assert said in err
    assert "Traceback" not in err


def test_the_repositorys_functions_are_short() -> None:
    for app in (ROOT / "functions").glob("*/app.py"):
        assert len(app.read_text().splitlines()) <= 20, app


def test_requests_that_wait_are_told_of_a_failed_start(tmp_path: Path) -> None:
    """What was accepted is answered before the process ends: nobody is left with a reset connection."""
    (tmp_path / "app.py").write_text(
        "import time\nfrom preheat import Function\ntime.sleep(1)\nfunction = Function(__file__)\n"
    )
    server = Server(tmp_path / "app.py")
    try:
        answer = server.request("POST", "/predict", REQUEST)
        assert answer.status == 503
        assert answer.json()["code"] == "failed_start"
        assert "artifact does not exist" in answer.json()["error"]
    finally:
        status, _, err = server.finish()
    assert status == 1
    assert "artifact does not exist" in err
