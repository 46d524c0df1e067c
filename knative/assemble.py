"""What a container image holds, put together in folders: the Dockerfiles run this, and so does their test.

    python knative/assemble.py dependencies LOCK ROOT      locked wheels, pruned, with bytecode
    python knative/assemble.py system DEPENDENCIES ROOT    the interpreter, and the shared libraries of both
    python knative/assemble.py preheat ROOT                this package, from the tree
    python knative/assemble.py function FOLDER ROOT        a function's modules

Each step writes below its ROOT what the image has below ``/``, and no two write the same file, so that each
is a layer of its own; of the same input a layer has the same bytes. With ``system`` the image needs no base:
what lies in the four is all that there is, without a compiler, a package installer or a shell. Runs with the
interpreter that the image gets, on the standard library and pip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

TREE = Path(__file__).parent.parent
sys.path[:0] = [str(TREE), str(TREE / "src")]

from layers import archive  # noqa: E402 - found by the line above
from layers.contents import LayerError  # noqa: E402

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"usr/local/lib/{PYTHON}"
SITE_PACKAGES = f"{LIBRARY}/site-packages"

LEFT_OUT = (
    # Of the standard library: tests, what needs a screen, and what installs or builds packages.
    *("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "venv", "pydoc_data"),
    *("site-packages", "__pycache__"),
)
SCREEN = ("_tkinter.", "_curses", "readline.", "nis.", "_test", "_ctypes_test.", "xxlimited")
"""How the names begin of extension modules that a server has no use for, whose libraries would come along."""
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
USER = 65532
"""The user of the images; any other numeric one does as well."""
TIME = 315532800
"""1980-01-01: the time of every file. A layer's digest covers times too."""


def dependencies(lock: Path, root: Path) -> None:
    """The wheels of a lock. Raises LayerError where a hash differs or a wheel is missing."""
    site_packages = root / SITE_PACKAGES
    hashed = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(lock))
    _pip("install", "--target", str(site_packages), *hashed)
    archive.prune(site_packages)
    _compile(root, SITE_PACKAGES)
    (root / CERTIFICATES).parent.mkdir(parents=True)  # Mozilla's, which the lock pins as well
    shutil.copyfile(site_packages / "certifi" / "cacert.pem", root / CERTIFICATES)
    _settle(root)


def preheat(root: Path) -> None:
    """This package, built by the locked build system. Raises LayerError."""
    with tempfile.TemporaryDirectory() as folder:
        site_packages = Path(folder) / SITE_PACKAGES
        build = Path(folder) / "build"
        lock = TREE / "layers" / "requirements" / "build.txt"
        _pip("install", "--target", str(build), "--require-hashes", "--no-deps", "--requirement", str(lock))
        _pip(
            *("install", "--target", str(site_packages), "--no-deps", "--no-index", "--no-build-isolation"),
            str(TREE),
            environ={"PYTHONPATH": str(build)},
        )
        archive.prune(site_packages)
        _compile(Path(folder), SITE_PACKAGES)
        shutil.copytree(site_packages, root / SITE_PACKAGES)
    _settle(root)


def function(folder: Path, root: Path) -> None:
    """The modules beside a function's artifact, in /function. Raises LayerError where no ``app.py`` is."""
    if not (folder / "app.py").is_file():
        raise LayerError(f"{folder} has no app.py; name a function's folder")
    shutil.copytree(folder, root / "function", ignore=shutil.ignore_patterns("artifact", "__pycache__"))
    _compile(root, "function")
    _settle(root)


def system(dependencies: Path, root: Path) -> None:
    """The interpreter below /usr/local, shared libraries where the loader looks for them, a writable /tmp.

    ``dependencies``: what the step of that name wrote. Raises LayerError for a library that is nowhere.
    """
    source = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(
        source,
        root / LIBRARY,
        ignore=lambda _, names: [
            n for n in names if n in LEFT_OUT or n.startswith((*SCREEN, "config-")) or n.endswith(".a")
        ],
    )
    _compile(root, LIBRARY)
    program = root / "usr/local/bin/python3"
    program.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(Path(sys.base_prefix) / "bin" / PYTHON, program)
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):  # a merged /usr: the same paths, whatever this is laid over
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
    needed = _needed(root, dependencies) | _needed(dependencies, dependencies)
    searched = os.path.dirname(needed["libc.so.6"])  # without a cache of its own the loader knows this folder
    for name, found in sorted(needed.items()):
        folder = searched if found.startswith(f"{sys.base_prefix}/") else os.path.dirname(found)
        place = root / os.path.realpath(folder).lstrip("/") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(os.path.realpath(found), place)
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text(f"preheat:x:{USER}:{USER}::/tmp:/nologin\n")
    (root / "etc/group").write_text(f"preheat:x:{USER}:\n")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)  # whatever the umask is
    _settle(root)


def _needed(root: Path, dependencies: Path) -> dict[str, str]:
    """Shared libraries outside both folders that what is in ROOT needs: name → path, the dynamic loader among
    them."""
    found: dict[str, str] = {}
    objects = [path for path in sorted((root / "usr/local").rglob("*")) if _is_object(path)]
    for path in objects:
        done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, env=_loading(dependencies))
        for line in done.stdout.splitlines():
            name, arrow, rest = line.strip().partition(" => ")
            where = rest.partition(" (")[0] if arrow else name.partition(" (")[0]
            if where == "not found":
                if not _driver(name):
                    raise LayerError(f"{path.relative_to(root)} needs {name}, which is not on this machine")
            elif where.startswith("/") and not where.startswith((f"{root}/", f"{dependencies}/")):
                found[os.path.basename(name if arrow else where)] = where
    return found


def _driver(name: str) -> bool:
    """Whether a library comes with the GPU's driver, which the container's runtime mounts, or is TensorRT's,
    which is added where it is wanted."""
    return name.startswith(("libcuda.so", "libnvidia-", "libnvinfer", "libnvonnxparser"))


def _loading(dependencies: Path) -> dict[str, str]:
    """The environment in which the loader finds what wheels carry for one another (NVIDIA's do)."""
    folders = [str(folder) for folder in (dependencies / SITE_PACKAGES / "nvidia").glob("*/lib")]
    interpreter = os.path.join(sys.base_prefix, "lib")
    return {"LD_LIBRARY_PATH": ":".join([*folders, interpreter]), "PATH": os.environ.get("PATH", os.defpath)}


def _is_object(path: Path) -> bool:
    return path.parent.name == "bin" or path.name.endswith(".so") or ".so." in path.name


def _settle(root: Path) -> None:
    """One time for everything."""
    for place, folders, names in os.walk(root):
        for name in [*folders, *names]:
            os.utime(os.path.join(place, name), (TIME, TIME), follow_symlinks=False)


def _compile(root: Path, folder: str) -> None:
    """Bytecode that names no time and is never held against its source: the root is read-only."""
    command = [sys.executable, "-S", "-s", "-m", "compileall", "-q", "-f", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", str(root / folder)]
    _run(command, "bytecode could not be made", {"PYTHONHASHSEED": "0"})


def _pip(*arguments: str, environ: dict[str, str] | None = None) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile", "--no-warn-conflicts")
    command = [sys.executable, "-m", "pip", *arguments[:1], *quiet, *arguments[1:]]
    _run(
        command, "pip could not install", {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", **(environ or {})}
    )


def _run(command: Sequence[str], what: str, environ: dict[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise LayerError(f"{what}: {(done.stderr or done.stdout).strip()[-2000:]}")


def main(arguments: Sequence[str]) -> int:
    try:
        match list(arguments):
            case ["dependencies", lock, root]:
                dependencies(Path(lock), Path(root).absolute())
            case ["system", under, root]:
                system(Path(under).absolute(), Path(root).absolute())
            case ["preheat", root]:
                preheat(Path(root).absolute())
            case ["function", folder, root]:
                function(Path(folder), Path(root).absolute())
            case _:
                sys.stderr.write(f"{__doc__}\n")
                return 2
    except (LayerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
