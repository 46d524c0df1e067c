"""A container image without a container engine: the Dockerfile's own steps, run in folders of this machine.

What is understood is what the Dockerfiles use: ARG, FROM … AS, COPY with and without --from, RUN of one
command, ENV, and the instructions that touch no file. Anything else is an error, so that nothing in a file is
left untested.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ...conftest import ROOT

LAUNCH = """
set -e
mount --bind "$ROOT" "$ROOT"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --rbind /proc "$ROOT/proc"
mount -o remount,bind,ro "$ROOT"
exec chroot $IDENTITY "$ROOT" "$@"
"""


class Stage:
    """One stage, as it came out."""

    def __init__(self, base: Stage | str) -> None:
        self.base = "" if isinstance(base, Stage) else base
        """The image below it; empty for a stage of this file."""
        above = base if isinstance(base, Stage) else None
        self.layers: list[tuple[str, dict[str, int]]] = list(above.layers) if above else []
        """What each COPY into the image brought: the instruction, and bytes by path."""
        self.environ: dict[str, str] = dict(above.environ) if above else {}
        self.settings: dict[str, str] = dict(above.settings) if above else {}
        self.commands: list[str] = list(above.commands) if above else []
        """Every RUN."""

    @property
    def files(self) -> dict[str, int]:
        return {path: size for _, layer in self.layers for path, size in layer.items()}


class Image(NamedTuple):
    root: Path
    """What the last stage that was asked for has below ``/``."""
    stage: Stage

    def command(self, *arguments: str) -> list[str]:
        """A command in the image: read-only root, /tmp of its own, the image's user where we may become
        another one, and nothing of this machine but /proc and the network."""
        root = os.geteuid() == 0
        identity = f"--userspec={self.stage.settings['USER']}" if root else ""
        outside = {"ROOT": str(self.root), "IDENTITY": identity, "PATH": os.environ["PATH"]}
        unshare = ["unshare", "--mount"] if root else ["unshare", "--map-root-user", "--mount"]
        return [
            "env",
            *(f"{k}={v}" for k, v in outside.items()),
            *unshare,
            "sh",
            "-c",
            LAUNCH,
            "sh",
            *arguments,
        ]

    @property
    def entry(self) -> list[str]:
        return list(json.loads(self.stage.settings["ENTRYPOINT"]))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def assemble(dockerfile: Path, target: str, folder: Path, **arguments: str) -> Image:
    """Build up to a stage. ``folder`` holds a root for each stage. Raises AssertionError for what is not
    understood, CalledProcessError where a step fails."""
    values: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    name = ""
    for word, rest in instructions(dockerfile):
        if word != "ENV":
            rest = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], rest)
        if word == "ARG":
            key, _, default = rest.partition("=")
            values[key] = arguments.get(key, default)
            continue
        if word == "FROM":
            if name == target:
                break
            base, _, name = rest.partition(" AS ")
            assert name, f"a stage without a name: {rest}"
            stages[name] = Stage(stages.get(base, base))
            _lay(folder / base if base in stages else None, folder / name)
            continue
        stage, root = stages[name], folder / name
        match word:
            case "WORKDIR":
                stage.settings[word] = rest
                (root / rest.strip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                source, _, to = rest.removeprefix(f"--from={name}").rpartition(" ")
                found = re.fullmatch(r"--from=(\w+) (/\S*)", source)
                froms = [folder / found[1] / found[2].strip("/")] if found else []
                froms = froms or [ROOT / path for path in source.split()]
                into = root / os.path.join(stage.settings.get("WORKDIR", "/"), to).strip("/")
                stage.layers.append((f"{word} {rest}", _copy(froms, into, root, to.endswith("/"))))
            case "RUN":
                stage.commands.append(rest)
                _run(rest, root, stage.settings["WORKDIR"])
            case "ENV":
                stage.environ |= dict(part.partition("=")[::2] for part in shlex.split(rest))
            case "EXPOSE" | "USER" | "STOPSIGNAL" | "ENTRYPOINT":
                stage.settings[word] = rest
            case _:
                raise AssertionError(f"{dockerfile.name}: {word} is not understood here")
    for mounted in ("proc", "tmp"):
        (folder / target / mounted).mkdir(exist_ok=True)  # as a container's runtime does
    return Image(folder / target, stages[target])


def _lay(base: Path | None, root: Path) -> None:
    if base is None:
        root.mkdir(parents=True)
    else:
        shutil.copytree(base, root, symlinks=True, copy_function=os.link)


def _copy(sources: list[Path], into: Path, root: Path, many: bool) -> dict[str, int]:
    """Copy as Docker does: a folder's content into a folder, a file to a name or into a folder."""
    before: dict[str, int] = {}
    for source in sources:
        if source.is_dir():
            tree = str(source).startswith(f"{ROOT}/")
            assert tree or not _overwritten(source, into), (
                f"{source} overwrites {_overwritten(source, into)[:3]}"
            )
            ignore = shutil.ignore_patterns("__pycache__") if tree else None  # as .dockerignore says
            shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            names = [path.relative_to(source) for path in source.rglob("*") if not path.is_dir()]
            placed = [into / name for name in names if "__pycache__" not in name.parts or ignore is None]
        else:
            placed = [into / source.name if many else into]
            placed[0].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, placed[0])
        before |= {str(path.relative_to(root)): path.lstat().st_size for path in placed}
    return before


def _overwritten(source: Path, into: Path) -> list[str]:
    names = (path.relative_to(source) for path in source.rglob("*") if not path.is_dir())
    return [str(name) for name in names if (into / name).exists()]


def _run(command: str, root: Path, workdir: str) -> None:
    """One command, its absolute paths below the stage's root, by the interpreter that runs this."""
    assert not re.search(r"[;&|<>$`\n]", command), f"not one plain command: {command}"
    words = [str(root / word.lstrip("/")) if word.startswith("/") else word for word in shlex.split(command)]
    assert words[0] == "python", f"only python is run in a build: {command}"
    done = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=root / workdir.strip("/"),
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PREHEAT_", "PYTHON"))},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
