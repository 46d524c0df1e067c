"""``python -m tests.hostile.fuzz TARGET SECONDS``: coverage-guided fuzzing with atheris, of one target.

New inputs that reach new code are gathered beside, and merged into the corpus in the end, the smallest that
reach all of it. What crashes stays as ``crash-…`` in the corpus, where the ordinary tests run it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

from .corpus import cases, parsed

CORPUS = Path(__file__).with_name("fuzz_corpus")
EVENTS = Path(__file__).parent.parent / "events"
MANIFESTS = Path(__file__).parent.parent.parent / "functions"


def seeds(name: str) -> list[bytes]:
    """What is sound, or nearly so."""
    if name == "event":
        return [path.read_bytes() for path in EVENTS.glob("*.json")]
    if name == "manifest":
        return [path.read_bytes() for path in MANIFESTS.glob("*/artifact/manifest.json")]
    found = []
    for case in cases():
        request = parsed(case.raw)
        if request is not None and case.kind in ("binary", "tensors", "shapes", "outputs"):
            told = dict(request.headers).get(b"inference-header-content-length", b"65535")
            length = int(told) if told.isdigit() and len(told) < 5 else 0xFFFF
            found.append(length.to_bytes(2, "little") + request.body[:4096])
    return found


def main(name: str, seconds: int) -> None:
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        first, gathered = Path(folder, "seeds"), Path(folder, "gathered")
        for made in (first, gathered):
            made.mkdir()
        for index, seed in enumerate(seeds(name)):
            (first / str(index)).write_bytes(seed)
        again = Path(folder, "again")  # libFuzzer starts itself anew to merge, by one word
        again.write_text(f'#!/bin/sh\nexec {sys.executable} -m {__spec__.name} {name} 0 {again} "$@"\n')
        again.chmod(0o755)
        common = [str(again)]
        limits = [f"-artifact_prefix={kept}/", "-timeout=20", "-rss_limit_mb=2048"]
        run = [*common, str(gathered), str(kept), str(first), f"-max_total_time={seconds}", "-max_len=65536"]
        done = subprocess.run([*run, *limits, "-print_final_stats=1"], check=False)
        merge = ["-merge=1", str(kept), str(gathered), str(first), "-max_len=4096", *limits[1:]]
        subprocess.run([*common, *merge], check=True)
        sys.exit(done.returncode)


if __name__ == "__main__":
    if sys.argv[2] != "0":
        main(sys.argv[1], int(sys.argv[2]))
    else:  # libFuzzer ends its process: this is the one that it may end
        with atheris.instrument_imports(include=["preheat", "json"]):
            from .targets import TARGETS
        atheris.Setup(sys.argv[3:], TARGETS[sys.argv[1]])
        atheris.Fuzz()
