"""``python -m layers.build``: the layers for every Python and architecture of Lambda, checked.

    lock held against pyproject.toml → wheels, hashes and tags → pruned → bytecode → zip
        → shared objects' needs → a second build's bytes → the canary, where its interpreter is at hand

Exit status: 0; 1 where a layer cannot be built or must not be used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from . import archive, elf
from .contents import DIRECT_UPLOAD_BYTES, LAYERS, MB, UNZIPPED_BYTES, Layer, LayerError, is_licence
from .install import fill
from .locks import ROOT, verify
from .targets import ALL, ARCHITECTURES, Target, interpreter, running

OUT = ROOT / "out" / "layers"
ARTIFACT = ROOT / "functions" / "filetype" / "artifact"


class Built(NamedTuple):
    """One zip."""

    layer: Layer
    target: Target
    path: Path
    sha256: str
    zip_bytes: int
    bytes: int
    """Unzipped."""
    compiled_by: str | None
    """The Python release that made its bytecode; None where none was at hand."""
    packages: dict[str, str]

    def record(self) -> dict[str, Any]:
        """One entry of ``layers.json``."""
        return {
            "layer": self.layer.name,
            "python": self.target.python,
            "architecture": self.target.arch,
            "file": self.path.name,
            "sha256": self.sha256,
            "zip_bytes": self.zip_bytes,
            "bytes": self.bytes,
            "bytecode": self.compiled_by,
            "packages": self.packages,
        }


def build(layer: Layer, target: Target, out: Path) -> Built:
    """One layer for one target, as a zip in ``out``. Raises LayerError."""
    pins = verify(layer, target)
    compiler = interpreter(target.python)
    with tempfile.TemporaryDirectory(prefix="preheat-layer-") as folder:
        root = Path(folder)
        site_packages = root / target.site_packages
        site_packages.mkdir(parents=True)
        fill(layer, target, site_packages)
        before = sum(map(is_licence, archive.files(site_packages)))
        after = len(archive.prune(site_packages))
        if before != after:
            raise LayerError(f"{before - after} licence files of {layer.name} were pruned; they have to stay")
        wrong = elf.check(site_packages, archive.files(site_packages), target)
        if wrong:
            raise LayerError(f"{layer.name} would not load on Lambda ({target}):\n  " + "\n  ".join(wrong))
        if compiler is not None:
            archive.compile_bytecode(root, target, compiler)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{layer.name}-python{target.python}-{target.arch}.zip"
        partial = path.with_suffix(".partial")
        size = archive.write(root, partial)
    if size > layer.limit:
        partial.unlink()
        raise LayerError(
            f"{layer.name} for {target} is {size / MB:.1f} MB unzipped, past its {layer.limit / MB:.0f} MB; "
            "look at what a release brought (layers/contents.py says what is pruned)"
        )
    partial.replace(path)
    return Built(
        *(layer, target, path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, size),
        compiler.version if compiler else None,
        {pin.name: pin.version for pin in pins},
    )


def build_twice(layer: Layer, target: Target, out: Path) -> Built:
    """``build``, and again from the locks. Raises LayerError where the bytes differ."""
    first = build(layer, target, out)
    with tempfile.TemporaryDirectory(prefix="preheat-layer-") as folder:
        second = build(layer, target, Path(folder))
        if second.sha256 != first.sha256:
            names = ", ".join(difference(first.path, second.path)[:5])
            raise LayerError(f"{first.path.name} differs from its second build, in: {names}")
    return first


def difference(one: Path, other: Path) -> list[str]:
    """The entries in which two zips differ."""
    with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
        first, second = ({i.filename: i.CRC for i in z.infolist()} for z in (a, b))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def canary(zips: Sequence[Path], target: Target, artifacts: Sequence[Path]) -> dict[str, Any]:
    """Unpack the layers of one target and run ``canary.py`` on them alone; what it reports. Raises LayerError
    where it fails or its interpreter is not here."""
    python = interpreter(target.python)
    if python is None or not target.native():
        raise LayerError(f"no interpreter for {target} is at hand to run the canary")
    with tempfile.TemporaryDirectory(prefix="preheat-canary-") as folder:
        roots = []
        for path in zips:
            with zipfile.ZipFile(path) as packed:
                packed.extractall(Path(folder) / path.stem)
            roots.append(str(Path(folder) / path.stem / target.site_packages))
        script = Path(folder) / "canary.py"
        shutil.copyfile(Path(__file__).with_name("canary.py"), script)
        done = subprocess.run(
            [python.path, "-I", "-S", str(script), *roots, "--", f"{folder}/cache", *map(str, artifacts)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder},
            timeout=300,
        )
    if done.returncode:
        raise LayerError(f"the canary of {target} failed: {done.stderr.strip()[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(built: Sequence[Built]) -> str:
    """The sizes against the limits, as lines."""
    direct, whole = DIRECT_UPLOAD_BYTES / MB, UNZIPPED_BYTES / MB
    lines = [
        f"{'layer':9}{'Python':8}{'arch':8}{'zip MB':>8}{'unzipped MB':>13}{'limit':>7}  "
        f"{'bytecode':10}sha256"
    ]
    for one in sorted(built, key=lambda b: (b.target.python, b.target.arch, b.layer.name)):
        by = one.compiled_by or "none"
        lines.append(
            f"{one.layer.name:9}{one.target.python:8}{one.target.arch:8}{one.zip_bytes / MB:8.1f}"
            f"{one.bytes / MB:13.1f}{one.layer.limit / MB:7.0f}  {by:10}{one.sha256[:16]}"
        )
    for target in sorted({one.target for one in built}):
        both = [one for one in built if one.target == target]
        if len(both) == len(LAYERS):
            size = sum(one.bytes for one in both)
            lines.append(
                f"{target}: {size / MB:.1f} of {whole:.1f} MB unzipped; "
                f"{whole - size / MB:.1f} are left for the function"
            )
    large = sorted({one.layer.name for one in built if one.zip_bytes > DIRECT_UPLOAD_BYTES})
    if large:
        lines.append(f"past {direct:.1f} MB, so by way of S3 in place of a direct upload: {', '.join(large)}")
    bare = sorted({one.target.python for one in built if one.compiled_by is None})
    if bare:
        lines.append(
            f"no bytecode for Python {', '.join(bare)}: there is no such interpreter here, and each cold "
            "start compiles what it imports; build where there is one (on PATH, pyenv's or uv's)"
        )
    return "\n".join(lines)


def run(
    targets: Sequence[Target], out: Path, artifacts: Sequence[Path], *, jobs: int, twice: bool = True
) -> list[Built]:
    """Build, check and try the layers of some targets; ``layers.json`` beside them. Raises LayerError."""
    make = build_twice if twice else build
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(make, layer, target, out) for target in targets for layer in LAYERS]
        try:
            built = [future.result() for future in futures]
        except LayerError:
            pool.shutdown(cancel_futures=True)
            raise
    (out / "layers.json").write_text(json.dumps([one.record() for one in built], indent=1) + "\n")
    sys.stdout.write(show(built) + "\n")
    sys.stdout.flush()
    tried = try_out(built, artifacts)
    rest = [str(target) for target in targets if target not in tried]
    if rest:
        sys.stdout.write(f"not run here; tags and shared objects checked: {'; '.join(rest)}\n")
    return built


def try_out(built: Sequence[Built], artifacts: Sequence[Path]) -> list[Target]:
    """The canary on each target that can run here; where none can, on the same locks built for the Python
    that runs this. Raises LayerError."""
    targets = sorted({one.target for one in built})
    places = {
        target: [one.path for one in built if one.target == target]
        for target in targets
        if target.native() and interpreter(target.python)
    }
    with tempfile.TemporaryDirectory(prefix="preheat-layer-") as folder:
        if not places:
            places[running()] = [build(layer, running(), Path(folder)).path for layer in LAYERS]
        for target, zips in places.items():
            result = canary(zips, target, artifacts)
            sys.stdout.write(
                f"canary: {target} ({result['python']}): {len(artifacts)} artifact(s) answered as recorded; "
                f"{result['loaded']} modules, all from the layers\n"
            )
    return list(places)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m layers.build", description="Build Lambda layers.")
    parser.add_argument(
        "--python", action="append", choices=sorted({t.python for t in ALL}), help="default: all"
    )
    parser.add_argument("--arch", action="append", choices=sorted(ARCHITECTURES), help="default: both")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--once", action="store_true", help="no second build to compare bytes with")
    parser.add_argument("--artifact", type=Path, action="append", help="what the canary infers with")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    targets = [
        t for t in ALL if t.python in (options.python or [t.python]) and t.arch in (options.arch or [t.arch])
    ]
    artifacts = [path.absolute() for path in options.artifact or [ARTIFACT]]
    missing = [str(path) for path in artifacts if not (path / "manifest.json").exists()]
    if missing:
        sys.stderr.write(f"{', '.join(missing)}: no artifact there; make filetype builds one\n")
        return 1
    try:
        run(targets, options.out, artifacts, jobs=max(1, options.jobs), twice=not options.once)
    except LayerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
