"""What a TARGET is, and how it is started cold: the server itself, and the floor under it."""

from __future__ import annotations

import json
import os
import py_compile
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import manifest as manifests
from ..errors import ArtifactError, UsageError
from ..function import target as function_of
from ..manifest import Manifest
from ..settings import Settings
from ..stores import Reference, open_store
from . import answers
from .client import HOST, Response, request
from .start import REPORT, Contender

if TYPE_CHECKING:
    from ..tasks import Task

FLOOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "floor.py")
_INTEGERS = {"INT64": "<i8", "INT32": "<i4"}


class Target(NamedTuple):
    """Something that `preheat serve` can serve, and what is known of it without starting it."""

    location: str
    """The artifact folder or ``app.py``, absolute; or a store's URL."""
    artifact: str
    """The artifact folder; of what lies in a store, the one in the cache."""
    manifest: Manifest
    task: type[Task] | None
    """The function's own task, in place of the artifact's."""
    environ: Mapping[str, str]

    @property
    def importable(self) -> str:
        """What says which modules a start imports: the ``app.py``, else the artifact folder."""
        return self.location if self.location.endswith(".py") else self.artifact

    def path(self, relative: str) -> str:
        return f"{self.artifact}/{relative}"

    @property
    def natural(self) -> bool:
        """Whether it is asked in its task's own words, with an answer that the build recorded. Tensors go
        over /v2 as binary data, where no value is out of JSON's reach."""
        return self.task is None and self.manifest.sample is not None and self.manifest.task != "tensors"


def find(location: str, environ: Mapping[str, str]) -> Target:
    """Read a TARGET's manifest; of one in a store, into the cache. Raises UsageError, ArtifactError."""
    if "://" not in location:
        location = os.path.abspath(location)
    environ = {**environ, "PREHEAT_ARTIFACT": location}
    settings = Settings.from_environ(environ)
    function = function_of(location, environ)
    place = open_store(function.location)
    if isinstance(place, Reference):
        folder, manifest = _fetched(place, settings, settings.cache_dir(environ))
    else:
        folder = place.local("").rstrip("/")
        manifest = manifests.load(place.read(manifests.FILENAME, manifests.MAX_BYTES))
    if not manifest.golden:
        raise ArtifactError(
            f"{function.location} has no golden inference to hold answers against; build it again"
        )
    return Target(location, folder, manifest, function.task, environ)


def _fetched(reference: Reference, settings: Settings, cache_dir: str) -> tuple[str, Manifest]:
    """An artifact's folder in the cache, with what a measurement itself reads: golden inferences and assets.
    A variant's files come with the server's first start, which is not counted."""
    from ..phases import PhaseClock
    from ..remote import open_remote

    artifact = open_remote(reference, settings, cache_dir=cache_dir, clock=PhaseClock())
    manifest = artifact.manifest
    artifact.require([*(path for pair in manifest.golden for path in pair), *manifest.assets.values()])
    return artifact.path("").rstrip("/"), manifest  # held against eviction until this process ends


def server(target: Target, variant: str = "") -> Contender:
    """The server, as `preheat serve` runs it; ``variant``: force one."""
    environ = forced({**target.environ, "PREHEAT_HOST": HOST}, target, variant)
    path, body, headers, check = conversation(target)
    return Contender(
        f"{target.location}{' ' + variant if variant else ''}",
        (sys.executable, "-m", "preheat.server"),
        environ,
        request("POST", path, body, headers),
        check,
        phases=REPORT,
    )


def forced(environ: Mapping[str, str], target: Target, variant: str) -> dict[str, str]:
    """An environment in which ``variant`` is opened, any for an empty one. Raises UsageError for one that the
    artifact does not have."""
    made = with_bytecode(environ)
    if variant and target.manifest.variant(variant) is None:
        names = ", ".join(v.name for v in target.manifest.variants)
        raise UsageError(f"{target.artifact} has no variant {variant!r}; it has {names}")
    if variant:
        made["PREHEAT_VARIANT"] = variant
    return made


def floor(target: Target, opened: str, threads: int, libraries: Sequence[str], folder: str) -> Contender:
    """The floor under a start that opened the variant ``opened`` with ``threads``.

    ``libraries``: those of the task (Task.libraries). ``folder``: a place for the script's bytecode, because
    a script, unlike a module, would be compiled at every start.
    """
    manifest = target.manifest
    script = os.path.join(folder, "floor.pyc")
    py_compile.compile(FLOOR, cfile=script, doraise=True)
    plan = floor_plan(target, opened, threads, libraries)
    golden = _read(target.path(manifest.golden[0].outputs))
    asked = manifest.sample["request"] if plan["text"] and manifest.sample else {}
    return Contender(
        f"floor of {opened}",
        (sys.executable, script, json.dumps(plan)),
        with_bytecode(target.environ),
        request("POST", "/", json.dumps(asked).encode(), {"content-type": "application/json"}),
        lambda response: answers.framed(response, manifest, golden),
    )


def floor_plan(target: Target, opened: str, threads: int, libraries: Sequence[str]) -> dict[str, Any]:
    """What floor.py is told."""
    variant = target.manifest.variant(opened)
    assert variant is not None  # noqa: S101 - it was opened
    return {
        "model": target.path(variant.model),
        "optimization": manifests.LEVELS[variant.optimization],
        "config": variant.config,
        "providers": variant.providers,
        "threads": threads,
        "libraries": list(libraries),
        "text": _text(target),
        "tensors": target.path(target.manifest.golden[0].inputs),
        "outputs": [spec.name for spec in target.manifest.outputs],
    }


def with_bytecode(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which modules are compiled once, as an image's build does it, not at every start."""
    return {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def conversation(target: Target) -> tuple[str, bytes, dict[str, str], Callable[[Response], str | None]]:
    """What is asked (path, body, headers of a POST), and how the answer is checked."""
    manifest = target.manifest
    if target.natural:
        assert manifest.sample is not None  # noqa: S101 - natural
        body = json.dumps(manifest.sample["request"]).encode()
        kind = {"content-type": "application/json"}
        return "/predict", body, kind, lambda response: answers.natural(response, manifest)
    golden = manifest.golden[0]
    header, data = _binary_request(_read(target.path(golden.inputs)))
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(header)),
    }
    wanted = _read(target.path(golden.outputs))
    path = f"/v2/models/{manifest.name}/infer"
    return path, header + data, headers, lambda response: answers.binary(response, manifest, wanted)


def _binary_request(packed: bytes) -> tuple[bytes, bytes]:
    """A file of tensors as an inference request with binary inputs: only its header is written anew."""
    length = int.from_bytes(packed[:4], "little")
    inputs = [
        {
            "name": entry["name"],
            "datatype": entry["datatype"],
            "shape": entry["shape"],
            "parameters": {"binary_data_size": entry["bytes"]},
        }
        for entry in json.loads(packed[4 : 4 + length])
    ]
    document = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return json.dumps(document).encode(), packed[4 + length :]


def _text(target: Target) -> dict[str, Any] | None:
    """How the floor tokenises the sample's text; None where the sample is not one text."""
    manifest = target.manifest
    asked = manifest.sample["request"] if target.natural and manifest.sample else None
    text = asked.get("input") if isinstance(asked, dict) else None
    tokenizer = manifest.assets.get("tokenizer")
    if not isinstance(text, str) or tokenizer is None:
        return None
    path = target.path(tokenizer)
    shape = next((spec.shape for spec in manifest.inputs if spec.name == "input_ids"), None)
    width = shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None
    lengths = [manifest.options.get("max_length"), manifest.limits.sequence, width]
    padding = json.loads(_read(path)).get("padding") or {}
    return {
        "tokenizer": path,
        "length": min([length for length in lengths if length] or [512]),
        "width": width,
        "pad": padding.get("pad_id", 0),
        "inputs": {spec.name: _INTEGERS.get(spec.dtype, "<i8") for spec in manifest.inputs},
    }


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
