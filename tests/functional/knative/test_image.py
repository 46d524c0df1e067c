"""The container images: what is in them, and that the CPU image starts and answers from that alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from layers import locks
from layers.contents import CPU, GPU, IMAGES, MB, LayerError
from layers.targets import Target

from preheat.manifest import load

from ...conftest import ROOT, serving
from ..store import servers
from ..store.samples import succeeds
from .image import Image, assemble, instructions

DOCKERFILES = [ROOT / "knative" / f"Dockerfile.{name}" for name in ("cpu", "gpu")]
TARGETS = [Target(python, arch) for python in ("3.11", "3.12", "3.13") for arch in ("x86_64", "arm64")]
TIME = 315532800


@pytest.fixture(scope="module")
def image(filetype_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    folder.chmod(0o755)
    for above in (folder, *folder.parents):  # the image's user has to reach it
        if above == Path("/tmp") or above.stat().st_uid != os.geteuid():
            break
        above.chmod(0o755)
    return assemble(DOCKERFILES[0], "model", folder, FUNCTION="functions/filetype")


@pytest.fixture(scope="module")
def isolated(image: Image) -> Image:
    """The image, on a machine that lets us start something in it."""
    done = subprocess.run(image.command("/usr/local/bin/python3", "-c", ""), capture_output=True, text=True)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces for this user: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return image


def inside(image: Image, code: str) -> str:
    environ = image.stage.environ
    done = subprocess.run(
        image.command("/usr/local/bin/python3", "-c", code),
        capture_output=True,
        text=True,
        env=environ | {"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_has_at_most_300_mb_beside_the_model(
    image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {path for path in image.stage.files if path.startswith("function/artifact/")}
    sizes = {path: size for path, size in image.stage.files.items() if path not in model}
    assert len(model) > 3
    assert 100 * MB < sum(sizes.values()) <= CPU.limit
    on_disk = sum(path.lstat().st_size for path in image.root.rglob("*") if not path.is_dir())
    assert on_disk == sum(image.stage.files.values())
    with capsys.disabled():
        layers = ", ".join(
            f"{line.split()[-2].rpartition('/')[2]} {sum(files.values()) / MB:.1f}"
            for line, files in image.stage.layers
        )
        print(f"\nimage: {sum(sizes.values()) / MB:.1f} MB without the model ({layers})")


def test_nothing_that_builds_installs_or_trains_is_in_it(image: Image) -> None:
    names = {part for path in image.stage.files for part in Path(path).parts}
    unwanted = (
        "pip",
        "setuptools",
        "wheel",
        "ensurepip",
        "hatchling",
        "torch",
        "transformers",
        "onnx",
        "boto3",
    )
    assert (
        names & {*unwanted, "gcc", "cc", "ld", "make", "sh", "bash", "apt", "dpkg", "uv", "idlelib"} == set()
    )
    assert not [path for path in image.stage.files if path.endswith((".h", ".a", ".pyi"))]
    programs = [path for path in image.stage.files if "/bin/" in path]
    assert programs == ["usr/local/bin/python3"]


def test_every_module_has_bytecode_that_no_clock_invalidates(image: Image) -> None:
    sources = [path for path in image.stage.files if path.endswith(".py")]
    assert len(sources) > 1000
    for path in sources:
        folder, _, name = path.rpartition("/")
        bytecode = f"{folder}/__pycache__/{name[:-3]}.{sys.implementation.cache_tag}.pyc"
        if bytecode not in image.stage.files:  # a few templates are no Python
            with pytest.raises(SyntaxError):
                compile((image.root / path).read_bytes(), path, "exec")
            continue
        assert (image.root / bytecode).read_bytes()[4:8] == b"\x01\0\0\0", bytecode  # PEP 552: unchecked


def test_a_new_model_moves_no_other_layer(image: Image, tmp_path: Path) -> None:
    order = [line for line, _ in image.stage.layers]
    assert [line.split()[-2:] for line in order] == [
        ["/system", "/"],
        ["/dependencies", "/"],
        ["/preheat", "/"],
        ["functions/filetype/artifact", "/function/artifact"],
        ["/modules", "/"],
    ]
    paths = [path for _, layer in image.stage.layers for path in layer]
    assert len(paths) == len(set(paths))
    of_time = {(image.root / path).lstat().st_mtime for path in paths if "function/artifact" not in path}
    assert of_time == {TIME}
    again = tmp_path / "again"
    command = [sys.executable, str(ROOT / "knative" / "assemble.py"), "preheat", str(again)]
    subprocess.run(command, check=True, capture_output=True)
    for path in image.stage.layers[2][1]:
        assert (again / path).read_bytes() == (image.root / path).read_bytes(), path


def test_it_answers_from_that_alone_as_its_user_on_a_read_only_root(
    isolated: Image, filetype_artifact: Path
) -> None:
    sample = load((filetype_artifact / "manifest.json").read_bytes()).sample
    assert sample is not None
    before = sorted(isolated.root.rglob("*"))
    command = isolated.command(*isolated.entry)
    environ = isolated.stage.environ | {"PATH": os.environ["PATH"], "K_SERVICE": "filetype"}
    with serving("/function/app.py", command=command, **environ) as server:
        server.wait_ready()
        assert server.request("POST", "/predict", sample["request"]).json() == sample["answer"]
        assert server.request("GET", "/openapi.json").status == 200
        report = server.request("GET", "/coldstart").json()
        assert (report["artifact"]["name"], report["fallback"]) == ("filetype", None)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        user = isolated.stage.settings["USER"].partition(":")[0] if os.geteuid() == 0 else str(os.geteuid())
        assert f"\nUid:\t{user}\t{user}\t" in status
        mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "/usr/local/lib/python" in mapped
        assert sys.base_prefix not in mapped
        ended, _, err = server.stop()
    assert (ended, err) == (0, "")
    assert sorted(isolated.root.rglob("*")) == before


def test_the_model_may_be_fetched_into_tmp_in_place_of_being_baked_in(
    isolated: Image, filetype_artifact: Path
) -> None:
    manifest = load((filetype_artifact / "manifest.json").read_bytes())
    assert manifest.sample is not None
    with servers.moto() as endpoint:
        store = endpoint.at("image/filetype")
        succeeds(endpoint.environ, "publish", filetype_artifact, store)
        environ = isolated.stage.environ | endpoint.environ | {"PATH": os.environ["PATH"]}
        del environ["PREHEAT_ARTIFACT"]
        command = isolated.command(*isolated.entry)
        with serving(f"{store}@{manifest.version}", command=command, **environ) as server:
            answer = server.request("POST", "/predict", manifest.sample["request"])
            report = server.request("GET", "/coldstart").json()
    assert answer.json() == manifest.sample["answer"]
    assert report["cache"] == "miss"


def test_every_library_of_it_works_there(isolated: Image) -> None:
    code = """
import cryptography.hazmat.primitives.asymmetric.ed25519 as ed25519, io, json, jwt, os, sqlite3, ssl
import fastapi, httptools, numpy, obstore.store, onnxruntime, PIL.Image, prometheus_client
import psycopg, redis, tokenizers
import opentelemetry.exporter.otlp.proto.http.trace_exporter
assert len(ssl.create_default_context().get_ca_certs()) > 50
ed25519.Ed25519PrivateKey.generate()
store = obstore.store.MemoryStore(); store.put("a", b"1")
PIL.Image.new("RGB", (2, 2)).save(io.BytesIO(), "JPEG")
sqlite3.connect("/tmp/ledger").execute("create table a (b)")
try:
    open("/function/new", "w")
except OSError as error:
    print(error.strerror)
print(json.dumps(os.listdir("/")))
"""
    said = inside(isolated, code).splitlines()
    assert said[0] in ("Read-only file system", "Permission denied")
    assert set(json.loads(said[1])) - {"lib", "lib64"} == {"etc", "function", "proc", "tmp", "usr"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_the_last_stages_only_copy_and_run_as_a_numeric_user(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    server = next(i for i, (word, rest) in enumerate(steps) if word == "FROM" and rest.endswith(" AS server"))
    last = steps[server:]
    assert "RUN" not in {word for word, _ in last}
    settings = dict(last)
    user = settings["USER"].split(":")
    assert all(part.isdigit() and int(part) > 0 for part in user)
    assert json.loads(settings["ENTRYPOINT"])[1:] == ["-m", "preheat.server"]
    copied = [rest for word, rest in last if word == "COPY"]
    assert [line.split()[-2].split("/")[1] for line in copied] == [
        "system",
        "dependencies",
        "preheat",
        "artifact",
        "modules",
    ]
    locked = [rest for word, rest in steps if word == "RUN" and " dependencies " in rest]
    assert f"knative/requirements/{dockerfile.suffix[1:]}.txt" in locked[0]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("layer", IMAGES, ids=lambda layer: layer.name)
def test_the_locks_match_pyproject(layer: locks.Layer, target: Target) -> None:
    pins = {pin.name for pin in locks.verify(layer, target)}
    assert not pins & {"torch", "boto3", "pip", "typer"}
    assert ("onnxruntime" in pins, "onnxruntime-gpu" in pins) == (layer is CPU, layer is GPU)


def test_a_lock_that_pyproject_has_left_behind_is_refused(tmp_path: Path) -> None:
    changed = tmp_path / "pyproject.toml"
    changed.write_text(
        locks.PYPROJECT.read_text().replace("onnxruntime-gpu[cuda,cudnn]>=1.26", "onnxruntime-gpu>=99")
    )
    with pytest.raises(LayerError, match=r"gpu.txt does not match .*run make lock"):
        locks.verify(GPU, TARGETS[0], changed)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "python knative/assemble.py dependencies LOCK ROOT"),
        (["dependencies", "/nowhere.txt", "{root}"], 1, "error: pip could not install"),
        (["function", "{root}", "{root}/out"], 1, "has no app.py; name a function's folder"),
    ],
)
def test_what_cannot_be_assembled_is_said(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(ROOT / "knative" / "assemble.py")]
    command += [argument.format(root=tmp_path) for argument in arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert said in done.stderr
