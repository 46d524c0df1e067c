"""What each layer holds, what is left out of it, and the limits that it is held against."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import NamedTuple

from preheat.errors import PreheatError

REQUIREMENTS = Path(__file__).parent / "requirements"
LEFT_OUT = REQUIREMENTS / "left-out.txt"

MB = 1_000_000
UNZIPPED_BYTES = 250 * 1024 * 1024
"""A function and all its layers. AWS Lambda developer guide, "Lambda quotas": 250 MB, and what is past it is
refused with "must be smaller than 262144000 bytes"."""
DIRECT_UPLOAD_BYTES = 50 * 1024 * 1024
"""One zip sent through Lambda's API (the same page); a larger one goes by way of S3."""


class LayerError(PreheatError):
    """A layer that cannot be built, or must not be used. The message says what to do."""

    code = "layer"


class Layer(NamedTuple):
    """One layer, before it is built for a Python and an architecture."""

    name: str
    extras: tuple[str, ...]
    """Of pyproject.toml, whose requirements it carries."""
    own: bool
    """Whether our own wheel is in it."""
    limit: int
    """Bytes unzipped, at most."""
    folder: Path = REQUIREMENTS
    """Where its lock lies."""
    beside: bool = False
    """Whether it is used beside ``runtime``, and so carries nothing that is in there."""
    imports: tuple[str, ...] = ()
    """What LEFT_OUT names, and this one imports all the same."""
    without: tuple[str, ...] = ()
    """What it does not carry although pyproject.toml asks for it: another requirement stands in its place."""

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.name}.txt"


RUNTIME = Layer("runtime", ("text",), own=False, limit=130 * MB)
"""numpy, onnxruntime, httptools, tokenizers: changes with their releases alone."""

PREHEAT = Layer(
    "preheat", ("store", "sign", "auth", "lambda", "dynamodb", "api"), own=True, limit=80 * MB, beside=True
)
"""Our package, and what its doors, artifacts and ledger use on Lambda: obstore, cryptography, PyJWT,
Powertools, Mangum, FastAPI. Redis' and PostgreSQL's clients and Pillow go with the functions that use
them."""

LAYERS = (RUNTIME, PREHEAT)

CONTAINERS = Path(__file__).parent.parent / "knative" / "requirements"
_SERVED = ("text", "image", "store", "sign", "auth", "redis", "postgres", "api", "metrics", "otel")

CPU = Layer("cpu", _SERVED, own=True, limit=300 * MB, folder=CONTAINERS, imports=("protobuf",))
"""The container images' packages: every task, stores, ledgers beside DynamoDB (whose boto3 is as large as all
other clients together), FastAPI, metrics and traces. The limit is that of the whole image."""

GPU = Layer(
    "gpu",
    (*_SERVED, "gpu"),
    own=True,
    limit=4_000 * MB,
    folder=CONTAINERS,
    imports=("protobuf",),
    without=("onnxruntime",),
)
"""The same over CUDA: onnxruntime-gpu is the same Python package as onnxruntime, CUDA's libraries beside."""

IMAGES = (CPU, GPU)
LOCKED = (*LAYERS, *IMAGES)

PRUNED = (
    # Not Python packages: console scripts, headers, locks.
    "bin/*",
    "include/*",
    "share/*",
    ".lock",
    # For compilers and type checkers.
    "*.pyi",
    "*.pxd",
    "*.pyx",
    "*.h",
    "*.c",
    "*.a",
    "*.pc",
    "*/py.typed",
    # An installer's notes. METADATA and entry_points.txt stay: importlib.metadata reads them.
    "*.dist-info/RECORD",
    "*.dist-info/WHEEL",
    "*.dist-info/INSTALLER",
    "*.dist-info/REQUESTED",
    "*.dist-info/direct_url.json",
    "*.dist-info/top_level.txt",
    "*.dist-info/uv_*",
    # Tests, and what serves them alone. numpy.testing stays: other libraries import it.
    "*/tests/*",
    "numpy/conftest.py",
    "numpy/_core/_*_tests.*.so",
    "numpy/_core/_simd.*.so",
    # numpy: Fortran wrappers, helpers of packagers.
    "numpy/f2py/*",
    "numpy/_pyinstaller/*",
    "numpy/_configtool.py",
    "numpy/random/_examples/*",
    # Instructions for assistants that write code.
    "*/.agents/*",
    # onnxruntime: build-time tools, which need protobuf, sympy, onnx or torch; sample models.
    "onnxruntime/backend/*",
    "onnxruntime/datasets/*",
    "onnxruntime/quantization/*",
    "onnxruntime/tools/*",
    "onnxruntime/transformers/*",
    "onnxruntime/capi/convert_npz_to_onnx_adapter.py",
    # A second build of all of onnxruntime, there for packages that use its C interface (microsoft/onnxruntime
    # pull request 21223); the Python module does not link against it.
    "onnxruntime/capi/libonnxruntime.so.*",
)
"""Patterns of paths in site-packages (``*`` crosses folders) that a layer does not carry."""

LICENCES = (
    "*licen[sc]e*",
    "*notice*",
    "*copying*",
    "*authors*",
    "*.dist-info/sboms/*",  # tokenizers names the licences of its Rust crates there alone
)
"""Patterns, without case, of what is kept whatever ``PRUNED`` says."""


def is_licence(path: str) -> bool:
    low = path.lower()
    name = low.rpartition("/")[2]
    if name.endswith((".py", ".so")):
        return False
    return ".dist-info/licenses/" in low or any(
        fnmatch.fnmatchcase(name if "/" not in pattern else low, pattern) for pattern in LICENCES
    )


def is_kept(path: str) -> bool:
    """Whether a file of site-packages, by its relative path, belongs into a layer."""
    if is_licence(path):
        return True
    return not any(fnmatch.fnmatchcase(path, pattern) for pattern in PRUNED)
