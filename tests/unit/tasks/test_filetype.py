"""The filetype task against the real magika, over contents of many kinds and sizes."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preheat.errors import ArtifactError, InvalidRequestError, RequestError, TooLargeError
from preheat.manifest import TensorSpec
from preheat.tasks.filetype import TEXT_LABELS, FileType

from .artifacts import FakeArtifact, artifact, written

MODEL = next((Path(str(files("magika"))) / "models").glob("*/model.onnx"))
CONFIG = MODEL.with_name("config.min.json")
INPUT = TensorSpec("bytes", "INT32", ("batch", 2048))
OUTPUT = TensorSpec("target_label", "FP32", ("batch", 214))
BLOCK = 4096


def magika_artifact(**limits: int) -> FakeArtifact:
    return artifact([INPUT], [OUTPUT], assets={"config": CONFIG}, **limits)


class Identifier:
    """The task in front of a bare session."""

    def __init__(self) -> None:
        import onnxruntime

        self.task = FileType(magika_artifact())
        self.session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])

    def __call__(self, request: Any) -> list[dict[str, Any]]:
        inputs = self.task.prepare(request)
        outputs = dict(zip(["target_label"], self.session.run(None, dict(inputs)), strict=True))
        answer = self.task.finish(outputs, inputs)
        json.dumps(answer, allow_nan=False)
        predictions: list[dict[str, Any]] = answer["predictions"]
        return predictions


@pytest.fixture(scope="module")
def identify() -> Identifier:
    return Identifier()


@pytest.fixture(scope="module")
def magika() -> Any:
    from magika import Magika

    return Magika()


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(48)) for _ in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "some text " * 200)
        archive.writestr("b/c.csv", "x,y\n1,2\n")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 10
        archive.addfile(info, io.BytesIO(b"0123456789"))
    return out.getvalue()


def numpy_file() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(100))
    return out.getvalue()


def contents() -> dict[str, bytes]:
    rng = random.Random(7)
    python = Path(__file__).read_bytes()
    prose = b"It was a bright cold day in April, and the clocks were striking thirteen. " * 40
    found = {
        "empty": b"",
        "python": python,
        "python, short": b"import os\n\ndef main():\n    print(os.getcwd())\n",
        "prose": prose,
        "json": json.dumps({"a": [1, 2, {"b": None}], "name": "value"}, indent=2).encode(),
        "html": b"<!doctype html><html><head><title>x</title></head><body><p>hello</p></body></html>",
        "xml": b'<?xml version="1.0"?><root><item id="1">text</item></root>',
        "c": b'#include <stdio.h>\nint main(void) { printf("%d\\n", 1); return 0; }\n',
        "rust": b'fn main() {\n    let x: Vec<u8> = vec![1, 2];\n    println!("{:?}", x);\n}\n',
        "go": b'package main\n\nimport "fmt"\n\nfunc main() {\n\tfmt.Println("hi")\n}\n',
        "javascript": b"const f = async (x) => { await fetch(`/a/${x}`); };\nmodule.exports = { f };\n",
        "shell": b'#!/bin/bash\nset -euo pipefail\nfor f in *.txt; do echo "$f"; done\n',
        "sql": b"SELECT a, count(*) FROM t WHERE b = 1 GROUP BY a ORDER BY 2 DESC;\n",
        "css": b"body { margin: 0; color: #fff; }\n.a > .b:hover { display: none; }\n",
        "csv": b"id,name,score\n1,ann,3.5\n2,bob,4.0\n3,cat,1.25\n" * 5,
        "tsv": b"id\tname\tscore\n1\tann\t3.5\n2\tbob\t4.0\n" * 5,
        "yaml": b"name: x\non: [push]\njobs:\n  build:\n    runs-on: linux\n    steps:\n      - run: make\n",
        "toml": b'[project]\nname = "x"\nversion = "1.0"\ndependencies = ["numpy"]\n',
        "ini": b"[section]\nkey = value\nother = 1\n",
        "makefile": b"all: a.o\n\tgcc -o all a.o\n\nclean:\n\trm -f *.o\n",
        "markdown": b"# Title\n\nSome *text* with `code`.\n\n- one\n- two\n\n```python\nx = 1\n```\n",
        "dockerfile": b'FROM python:3.12\nRUN pip install x\nCOPY . /app\nCMD ["python", "app.py"]\n',
        "diff": b"--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-old\n+new\n same\n",
        "latex": b"\\documentclass{article}\n\\begin{document}\nHello $x^2$.\n\\end{document}\n",
        "pem": b"-----BEGIN CERTIFICATE-----\n"
        + base64.b64encode(rng.randbytes(600))
        + b"\n-----END CERTIFICATE-----\n",
        "png": png(),
        "zip": zipped(),
        "tar": tarred(),
        "gzip": gzip.compress(prose, mtime=0),
        "zlib": zlib.compress(prose),
        "pdf": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 3, 62, 1) + bytes(2000),
        "wav": b"RIFF"
        + struct.pack("<I", 2036)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
        + b"data"
        + struct.pack("<I", 2000)
        + bytes(2000),
        "gif": bytes.fromhex("47494638396101000100800000000000ffffff2c00000000010001000002024401003b"),
        "npy": numpy_file(),
        "onnx": MODEL.read_bytes()[:100_000],
        "zeros": bytes(5000),
        "latin-1": "Über größere Äpfel läßt sich streiten. ".encode("latin-1") * 5,
        "utf-8": "Über größere Äpfel läßt sich streiten. ".encode() * 5,
        "utf-16": "some text in another encoding ".encode("utf-16") * 5,
        "random, printable": bytes(rng.choices(range(33, 127), k=3000)),
        "short, not UTF-8": b"\xff\xfe\x80",
        "seven, not UTF-8": b"abcdef\xc3",
        "eight, not UTF-8": b"abcdefg\xc3",
        "short between blanks": b" \n\t" * 700 + b"abc" + b"  " * 700,
        "not UTF-8 between blanks": b" " * 30 + b"\xc3\x28" + b"\n" * 30,
        "seven between blanks": b" " * 30 + b"abcdefg" + b"\n" * 30,
        "eight between blanks": b" " * 30 + b"abcdefgh" + b"\n" * 30,
        "zero bytes, few": bytes(7),
        "a whole block of blanks, then text": b" " * BLOCK + prose,
        "a block of blanks but for the last seven bytes": b" " * (BLOCK - 7) + b"abcdefg" + prose,
        "a character cut at the block's end": b" " * (BLOCK - 1) + "ü".encode() + prose,
        "text, then a whole block of blanks": prose + b"\n" * BLOCK,
        "vertical tab and form feed": b"\x0b\x0c" * 20 + prose,
        "no-break space is not stripped": "\u00a0".encode() * 20,
    }
    for size in range(1, 21):
        found[f"{size} random bytes"] = rng.randbytes(size)
        found[f"{size} letters"] = bytes(rng.choices(b"abcdefghij \n", k=size))
    for size in (1, 2, 7, 8, 9, 1023, 1024, 1025, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK):
        found[f"{size} blanks"] = b" " * size
        found[f"{size} bytes of prose"] = (prose * 4)[:size]
        found[f"{size} bytes of noise"] = rng.randbytes(size)
    return found


CONTENTS = contents()


@pytest.mark.parametrize("name", list(CONTENTS))
def test_it_says_what_magika_says(name: str, identify: Identifier, magika: Any) -> None:
    want = magika.identify_bytes(CONTENTS[name]).prediction
    (got,) = identify(CONTENTS[name])
    assert got["label"] == str(want.output.label)
    assert got["score"] == pytest.approx(want.score, abs=1e-4)
    assert (got["model_label"] or "undefined") == str(want.dl.label)


def test_it_says_the_same_of_many_at_once_as_of_one_by_one(identify: Identifier) -> None:
    several = list(CONTENTS.values())[:64]
    together = identify({"content": [base64.b64encode(c).decode() for c in several]})
    for content, got in zip(several, together, strict=True):
        (alone,) = identify({"content": base64.b64encode(content).decode()})
        assert got["label"] == alone["label"]
        # The model itself is not that stable: onnxruntime takes another kernel for eight rows than for one,
        # and a content that is nearly all zeros (the ELF one) moves by 0.0076.
        assert got["score"] == pytest.approx(alone["score"], abs=0.02)


ORACLE: Any = None
OURS: Any = None


@pytest.fixture(autouse=True, scope="module")
def _shared(identify: Identifier, magika: Any) -> None:
    """For the test that hypothesis runs many times: it takes no fixtures of its own."""
    global ORACLE, OURS
    ORACLE, OURS = magika, identify


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=24),
        st.text(alphabet=" \n\tab1é", max_size=24).map(str.encode),
        st.tuples(
            st.sampled_from([b" ", b"\n", b"\xa0"]), st.integers(BLOCK - 9, BLOCK + 9), st.binary(max_size=12)
        ).map(lambda t: t[0] * t[1] + t[2]),
    )
)
def test_short_and_blank_contents_are_decided_as_magika_decides_them(content: bytes) -> None:
    want = ORACLE.identify_bytes(content).prediction
    (got,) = OURS(content)
    assert (got["label"], got["model_label"] or "undefined") == (str(want.output.label), str(want.dl.label))


def test_the_labels_of_text_formats_are_magikas() -> None:
    known = json.loads((Path(str(files("magika"))) / "config" / "content_types_kb.min.json").read_text())
    labels = json.loads(CONFIG.read_text())["target_labels_space"]
    assert {label for label in labels if known[label]["is_text"]} == TEXT_LABELS


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        (None, InvalidRequestError, "object with the field 'content'"),
        ([], InvalidRequestError, "object with the field 'content'"),
        ({}, InvalidRequestError, "no field 'content'"),
        ({"content": None}, InvalidRequestError, "content must be base64 text, not null"),
        ({"content": []}, InvalidRequestError, "content is an empty list"),
        ({"content": ["aGk=", 7]}, InvalidRequestError, r"content\[1\] must be base64 text, not 7"),
        ({"content": "aGk"}, InvalidRequestError, "content is not base64"),
        ({"content": "aGk=aGk="}, InvalidRequestError, "content is not base64"),
        ({"content": "\ud800"}, InvalidRequestError, "content is not base64"),
        ({"content": ["aGk="] * 5}, TooLargeError, "content has 5 items; the limit is 4"),
    ],
)
def test_wrong_requests_are_refused_by_field(request_: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        FileType(magika_artifact(batch=4)).prepare(request_)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"content": JSON}))
def test_no_request_raises_anything_else(request_: Any) -> None:
    task = FileType(magika_artifact(batch=3))
    try:
        (rows,) = task.prepare(request_).values()
    except RequestError:
        return
    assert rows.dtype == np.int32
    assert rows.shape[1] == 2048


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beg_size": None}, "not magika's config"),
        ({"beg_size": "many"}, "not magika's config"),
        ({"mid_size": 512}, "not known here"),
        ({"block_size": 10}, "not known here"),
        ({"target_labels_space": ["txt"]}, "1 labels, the model 214 scores"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    config = written(tmp_path / "config.json", {**json.loads(CONFIG.read_text()), **change})
    with pytest.raises(ArtifactError, match=said):
        FileType(artifact([INPUT], [OUTPUT], assets={"config": config}))
    with pytest.raises(ArtifactError, match="needs the asset 'config'"):
        FileType(artifact([INPUT], [OUTPUT]))
    with pytest.raises(ArtifactError, match="one input of byte tokens"):
        FileType(artifact([INPUT, INPUT], [OUTPUT], assets={"config": CONFIG}))
