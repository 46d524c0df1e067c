"""An environment of its own for each peer, from its pinned requirements."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import venv
from collections.abc import Sequence

from preheat import __version__
from preheat.errors import UsageError

from ..models import ROOT
from .contenders import PEERS, Contender

ENVIRONMENTS = ROOT / ".venv-peers"
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL_S = 1800


def make(contender: Contender, options: Sequence[str]) -> None:
    """Make a contender's environment, or leave it where its requirements are those it was made from.

    ``options``: more of pip's, an index for instance. Raises UsageError with pip's last words.
    """
    if not contender.environment:
        return
    folder = ENVIRONMENTS / contender.environment
    requirements = PEERS / "requirements" / f"{contender.environment}.txt"
    made_from = hashlib.sha256(requirements.read_bytes() + CONSTRAINTS.read_bytes() + sys.version.encode())
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text() == made_from.hexdigest():
        return
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    asked = [*options, "--constraint", str(CONSTRAINTS), "--requirement", str(requirements)]
    try:
        done = subprocess.run([*pip, *asked], capture_output=True, text=True, timeout=INSTALL_S, check=False)  # noqa: S603 - pip
    except subprocess.TimeoutExpired:
        raise UsageError(f"pip took longer than {INSTALL_S} s for {requirements.name}") from None
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UsageError(f"pip cannot install {requirements.name}: {(errors or [done.stderr.strip()])[-1]}")
    stamp.write_text(made_from.hexdigest())


def versions(contender: Contender) -> dict[str, str]:
    """What is installed of the packages that are told, by name."""
    if not contender.environment:
        return {"preheat": __version__, **{name: importlib.metadata.version(name) for name in contender.told}}
    folder = ENVIRONMENTS / contender.environment
    found = {}
    for name in contender.told:
        for one in importlib.metadata.distributions(
            name=name, path=[*map(str, folder.glob("lib/*/site-packages"))]
        ):
            found[name] = one.version
    return found
