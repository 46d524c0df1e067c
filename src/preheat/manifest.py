"""What an artifact says of itself: ``manifest.json``, schema 1.

Records are named tuples, not data classes: each costs a tenth to define, and the cold path defines them all.
``version`` is the sha256 over the canonical JSON of everything that decides what runs; ``measurements`` are
not in it, so two builds on one machine carry the same version. What writes one is ``build/manifest_text.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, TypeVar

from .errors import ManifestError
from .providers import CPU, chain

SCHEMA = 1
FILENAME = "manifest.json"
MAX_BYTES = 8 * 1024 * 1024
"""A manifest larger than this is refused unread."""
MAX_FILE_BYTES = 64 * 1024**3
"""A manifest that lists a larger file is neither published nor fetched."""

OBJECTIVES = ("cold", "balanced", "warm")
LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
"""Graph optimisation that is left to the session's opening, and GraphOptimizationLevel's name for it."""
PORTABLE = "portable"
"""The variant that every artifact has and that runs anywhere."""

T = TypeVar("T")


class TensorSpec(NamedTuple):
    """An input or output of the model."""

    name: str
    dtype: str
    """The Open Inference Protocol's name of the data type."""
    shape: tuple[int | str | None, ...] | None
    """Each axis: a size, a symbol that stands for the same size everywhere, or None for any size.
    None instead of a shape: the rank is free."""


class Limits(NamedTuple):
    """What a request may ask for; checked before allocation."""

    bytes: int = 16 * 1024 * 1024
    """Largest request body."""
    rank: int = 8
    elements: int = 16 * 1024 * 1024
    """Largest number of elements of one tensor."""
    batch: int = 256
    """Largest size of a free first axis."""
    sequence: int = 0
    """Longest token sequence of a text task; longer text is cut. 0: the task has none."""
    nonfinite: bool = False
    """Whether inputs may hold NaN and infinities."""


class Requires(NamedTuple):
    """What a machine must offer for a variant to be opened. None: anything."""

    provider: str = CPU
    arch: str | None = None
    """``uname -m``."""
    isa: tuple[str, ...] | None = None
    """The exact set of instruction-set extensions (fingerprint.ISA) that the layout was made for."""
    onnxruntime: tuple[str, str] | None = None
    """Lowest version that opens it, and the lowest that no longer does."""
    gpu: str | None = None
    """The GPU's architecture (``sm_90``) that an engine was made for."""
    driver: str | None = None
    """The lowest version of its driver."""
    libraries: dict[str, str] | None = None
    """The very versions of ``cuda``, ``cudnn`` or ``tensorrt`` that an engine was made with."""


class Variant(NamedTuple):
    """One way to open the model."""

    name: str
    model: str
    """Path of the file that the session opens."""
    files: tuple[str, ...]
    """Every file that opening it touches, the model included."""
    optimization: str
    """Graph optimisation still to do at session creation: one of LEVELS."""
    config: dict[str, str]
    """Session configuration entries."""
    requires: Requires
    provider_options: dict[str, str] = {}
    """Options of the execution provider."""

    @property
    def providers(self) -> list[tuple[str, dict[str, str]]]:
        """The execution providers of its session, its own first, each with its options."""
        own = self.requires.provider
        return [(name, self.provider_options if name == own else {}) for name in chain(own)]


class File(NamedTuple):
    path: str
    size: int
    sha256: str


class Golden(NamedTuple):
    """A recorded inference: two files written by tensors.pack."""

    inputs: str
    outputs: str


class Manifest(NamedTuple):
    name: str
    version: str
    """``sha256:…`` over the canonical part."""
    task: str
    """Name of a built-in task."""
    options: dict[str, Any]
    """The task's options."""
    source: dict[str, Any]
    """format, digest, opset, ir_version, exporter."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: Limits
    objective: str
    variants: tuple[Variant, ...]
    assets: dict[str, str]
    """Role to path: tokenizer, labels, …"""
    golden: tuple[Golden, ...]
    tolerance: float
    """Largest drift (tensors.drift) from the golden outputs."""
    stable_outputs: tuple[str, ...]
    """Outputs that gave the same values twice at build time; only these are held against the golden ones."""
    warmup_runs: int
    sample: dict[str, Any] | None
    """A natural request of the task and the answer it must get: {"request": …, "answer": …}."""
    files: tuple[File, ...]
    measurements: dict[str, Any]
    """What the planner measured, and on what host; see build.planner."""

    def variant(self, name: str) -> Variant | None:
        return next((v for v in self.variants if v.name == name), None)

    def file(self, path: str) -> File | None:
        return next((f for f in self.files if f.path == path), None)

    def measured(self, variant: str, figure: str) -> float | None:
        """The median of a figure (``session_ms``, ``first_ms``, ``steady_ms``, ``rss_mib``), if measured."""
        row: Any = self.measurements
        # No version covers these: anything may stand here.
        for key in ("variants", variant, figure, "median"):
            row = row.get(key) if isinstance(row, dict) else None
        return float(row) if isinstance(row, int | float) and 0 <= row < math.inf else None

    def device_mib(self, variant: Variant) -> float:
        """MiB of the GPU's memory that a variant takes, as the build measured it; else its weights'."""
        return self.measured(variant.name, "device_mib") or self.weight_bytes(variant) / (1 << 20)

    def weight_bytes(self, variant: Variant) -> int:
        """Bytes of a variant's files."""
        return sum(file.size for file in self.files if file.path in variant.files)

    def read_with(self, variant: Variant) -> list[str]:
        """Files that a start reads which opens this variant: its own, the task's, the warm-up's."""
        golden = (path for pair in self.golden for path in pair)
        return [*variant.files, *self.assets.values(), *golden]

    def joined(self, variant: str) -> dict[int, float]:
        """Rows a second by rows run together, as measured; empty where they must not be, or none were."""
        row: Any = self.measurements
        for key in ("variants", variant, "joined"):
            row = row.get(key) if isinstance(row, dict) else None
        if not isinstance(row, dict):
            return {}
        return {
            int(rows): float(rate)
            for rows, rate in row.items()
            if rows.isdigit() and isinstance(rate, int | float) and 0 < rate < math.inf
        }

    def fixed_s(self, variant: str) -> float:
        """Seconds of a run that do not grow with its rows, by what was measured: a run of ``n`` rows takes
        ``fixed + n * row``. 0 where that is not known; infinite where more rows take no longer."""
        rates, one = self.joined(variant), self.measured(variant, "steady_ms")
        most = max(rates, key=rates.__getitem__, default=1)
        if most == 1 or 1 not in rates or one is None:
            return 0.0
        single, joined = 1 / rates[1], most / rates[most]
        if joined <= single:
            return math.inf
        in_rows = max((most * single - joined) / (joined - single), 0.0)
        return one / 1e3 * in_rows / (1 + in_rows)


def version_of(document: dict[str, Any]) -> str:
    """``sha256:…`` over the canonical JSON of all but ``version`` and ``measurements``."""
    import hashlib

    part = {k: v for k, v in document.items() if k not in ("version", "measurements")}
    text = json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def digest_of(data: bytes) -> str:
    """``sha256:…`` over a manifest's very bytes, measurements included: what a signature covers."""
    import hashlib

    return "sha256:" + hashlib.sha256(data).hexdigest()


def load(data: bytes, vouched: Callable[[str], bool] = lambda _: False) -> Manifest:
    """Read a manifest. Raises ManifestError that names the field that is wrong.

    ``vouched``: whether these very bytes were held against the version that they claim before; then they are
    not hashed again.
    """
    if len(data) > MAX_BYTES:
        raise ManifestError(f"the manifest is {len(data)} bytes; the most that is read is {MAX_BYTES}")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest.json is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ManifestError("manifest.json must hold an object")
    if document.get("schema") != SCHEMA:
        raise ManifestError(
            f"the manifest's schema is {document.get('schema')!r}; this Preheat reads schema {SCHEMA}. "
            "Build the artifact again, or use the version of Preheat that built it"
        )
    manifest = _manifest(_Reader(document, "manifest"))
    if not vouched(manifest.version) and manifest.version != version_of(document):
        raise ManifestError(
            "the manifest was changed after the build: its version does not match its content"
        )
    return manifest


def _refuse_constant(word: str) -> NoReturn:
    raise ManifestError(f"manifest.json holds {word}, which no field may be")


class _Reader:
    """Takes fields out of a JSON object by type, and says where it stood when one is wrong."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise ManifestError(f"{where} must be an object")
        self.document: dict[str, Any] = document
        self.where = where

    def take(self, key: str, kind: type[T] | tuple[type[T], ...]) -> T:
        if key not in self.document:
            raise ManifestError(f"{self.where}.{key} is missing")
        value = self.document[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ManifestError(f"{self.where}.{key} must be {' or '.join(k.__name__ for k in kinds)}")
        return value

    def each(self, key: str, read: Callable[[_Reader], T]) -> tuple[T, ...]:
        items = self.take(key, list)
        return tuple(read(_Reader(item, f"{self.where}.{key}[{i}]")) for i, item in enumerate(items))

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.take(key, list)
        if not all(isinstance(item, str) for item in items):
            raise ManifestError(f"{self.where}.{key} must be a list of strings")
        return tuple(items)

    def optional(self, key: str, kind: type[T]) -> T | None:
        return self.take(key, kind) if key in self.document else None

    def mapping(self, key: str) -> dict[str, str]:
        items = self.take(key, dict)
        if not all(isinstance(value, str) for value in items.values()):
            raise ManifestError(f"{self.where}.{key} must map strings to strings")
        return items

    def path(self, key: str) -> str:
        return _inside(self.take(key, str), f"{self.where}.{key}")


def _inside(path: str, where: str) -> str:
    """A path as an artifact may name it: relative, with forward slashes, never out of the folder."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise ManifestError(f"{where}: {path!r} is not a plain path inside the artifact")
    return path


def _manifest(r: _Reader) -> Manifest:
    manifest = Manifest(
        name=r.take("name", str),
        version=r.take("version", str),
        task=r.take("task", str),
        options=r.take("options", dict),
        source=r.take("source", dict),
        inputs=r.each("inputs", _read_spec),
        outputs=r.each("outputs", _read_spec),
        limits=_read_limits(_Reader(r.take("limits", dict), f"{r.where}.limits")),
        objective=r.take("objective", str),
        variants=r.each("variants", _read_variant),
        assets=r.mapping("assets"),
        golden=r.each("golden", lambda g: Golden(g.path("inputs"), g.path("outputs"))),
        tolerance=float(r.take("tolerance", (float, int))),
        stable_outputs=r.texts("stable_outputs"),
        warmup_runs=r.take("warmup_runs", int),
        sample=r.take("sample", (dict, type(None))),
        files=r.each("files", _read_file),
        measurements=r.take("measurements", dict),
    )
    if not is_name(manifest.name):
        raise ManifestError(f"manifest.name: {manifest.name!r} must be letters, digits, '.', '_' or '-'")
    if manifest.objective not in OBJECTIVES:
        raise ManifestError(f"manifest.objective must be one of {', '.join(OBJECTIVES)}")
    listed = {file.path for file in manifest.files}
    if len(listed) != len(manifest.files):
        raise ManifestError("manifest.files names a path twice")
    if manifest.variant(PORTABLE) is None:
        raise ManifestError("manifest.variants has no 'portable' variant")
    for path in _mentioned(manifest):
        if path not in listed:
            raise ManifestError(f"manifest.files does not list {path!r}, which the manifest uses")
    return manifest


def is_name(name: str) -> bool:
    """Whether a name can stand in a URL, a path and a metric: letters, digits, ".", "_", "-"."""
    return 0 < len(name) <= 64 and name.isascii() and not set(name) - _NAME_CHARS and name[0].isalnum()


_NAME_CHARS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _mentioned(m: Manifest) -> list[str]:
    paths = [path for v in m.variants for path in (v.model, *v.files)]
    paths += [path for g in m.golden for path in g]
    paths += [_inside(path, "manifest.assets") for path in m.assets.values()]
    return paths


def _read_spec(r: _Reader) -> TensorSpec:
    shape = r.take("shape", (list, type(None)))
    if shape is not None and not all(
        dim is None or (isinstance(dim, int | str) and not isinstance(dim, bool)) for dim in shape
    ):
        raise ManifestError(f"{r.where}.shape must list sizes, symbols and nulls")
    return TensorSpec(r.take("name", str), r.take("dtype", str), None if shape is None else tuple(shape))


def _read_limits(r: _Reader) -> Limits:
    return Limits(
        bytes=r.take("bytes", int),
        rank=r.take("rank", int),
        elements=r.take("elements", int),
        batch=r.take("batch", int),
        sequence=r.take("sequence", int),
        nonfinite=r.take("nonfinite", bool),
    )


def _read_variant(r: _Reader) -> Variant:
    requires = _Reader(r.take("requires", dict), f"{r.where}.requires")
    versions = None
    if requires.take("onnxruntime", (list, type(None))) is not None:
        texts = requires.texts("onnxruntime")
        if len(texts) != 2:
            raise ManifestError(f"{requires.where}.onnxruntime must be two versions")
        versions = (texts[0], texts[1])
    has_isa = requires.take("isa", (list, type(None))) is not None
    return Variant(
        name=r.take("name", str),
        model=r.path("model"),
        files=tuple(_inside(path, f"{r.where}.files") for path in r.texts("files")),
        optimization=r.take("optimization", str),
        config=r.mapping("config"),
        requires=Requires(
            provider=requires.take("provider", str),
            arch=requires.take("arch", (str, type(None))),
            isa=requires.texts("isa") if has_isa else None,
            onnxruntime=versions,
            gpu=requires.optional("gpu", str),
            driver=requires.optional("driver", str),
            libraries=requires.mapping("libraries") if "libraries" in requires.document else None,
        ),
        provider_options=r.mapping("provider_options") if "provider_options" in r.document else {},
    )


def _read_file(r: _Reader) -> File:
    digest = r.take("sha256", str)
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ManifestError(f"{r.where}.sha256 must be 64 hexadecimal digits")
    return File(r.path("path"), r.take("size", int), digest)
