"""What a file is, by its content: the model input and the decision rules of Google's magika, version 3.

Request: ``{"content": base64 | [base64, …]}``, or the file itself as ``application/octet-stream``.
Answer: ``{"predictions": [{"label": …, "score": 0…1, "model_label": … | null}, …]}``, one for each content.
``label`` is what the content is taken for; ``model_label`` what the model said before its confidence was
weighed, null where the content is too short for it to be asked.

The asset ``config`` is magika's ``config.min.json``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError
from ..tensors import BY_V2, Array, Tensors
from . import Task
from .fields import contents

if TYPE_CHECKING:
    from ..download import Artifact

TEXT_LABELS = frozenset(
    """
    aidl appleplist asm asp autohotkey autoit awk batch bazel bib c clojure cmake cobol coffeescript cpp cs
    csproj css csv dart diff dm dockerfile dxf elixir eml erb erlang fortran gemfile gemspec gitattributes
    gitmodules go gradle groovy handlebars haskell hcl htaccess html ics ignorefile ini internetshortcut ipynb
    java javascript jinja json jsonl julia kotlin latex lisp lua m3u m4 makefile markdown matlab mht mum
    objectivec ocaml pascal pem perl php po powershell prolog proteindb proto python r randomtxt rdf rst rtf
    ruby rust scala scss sgml shell smali solidity sql srt stltext sum svg swift tcl textproto toml tsv twig
    txt typescript vba vcxproj verilog vhdl vtt vue winregistry xml yaml yara zig
    """.split()  # noqa: SIM905 - a table to be read
)
"""Labels of formats that are text: below its threshold such a guess becomes ``txt``, another ``unknown``."""

WHITESPACE = 0x20


class FileType(Task):
    accepts = ("application/octet-stream",)

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        config = _read_config(artifact)
        try:
            self.beg_size = int(config["beg_size"])
            self.end_size = int(config["end_size"])
            self.block_size = int(config["block_size"])
            self.padding = int(config["padding_token"])
            self.min_bytes = int(config["min_file_size_for_dl"])
            self.labels: list[str] = list(config["target_labels_space"])
            self.threshold = float(config["medium_confidence_threshold"])
            self.thresholds: dict[str, float] = dict(config["thresholds"])
            self.renamed: dict[str, str] = dict(config["overwrite_map"])
            plain = not config["mid_size"] and not config["use_inputs_at_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the asset 'config' is not magika's config.min.json: {error!r}") from None
        manifest = artifact.manifest
        if not plain or not 0 < self.min_bytes <= self.beg_size < self.block_size > self.end_size:
            raise ArtifactError(
                "the asset 'config' asks for features of a magika model that is not known here"
            )
        if len(manifest.inputs) != 1 or manifest.inputs[0].dtype not in ("INT32", "INT64"):
            raise ArtifactError("the task 'filetype' takes a model with one input of byte tokens, magika's")
        self.input = manifest.inputs[0].name
        self.dtype = np.dtype(BY_V2[manifest.inputs[0].dtype].numpy)
        self.output = manifest.outputs[0].name
        shape = manifest.outputs[0].shape
        if shape and isinstance(shape[-1], int) and shape[-1] != len(self.labels):
            raise ArtifactError(
                f"the asset 'config' has {len(self.labels)} labels, the model {shape[-1]} scores"
            )

    def prepare(self, request: Any) -> Tensors:
        """Tokens [contents, beg_size + end_size]: the first and the last bytes, padded."""
        found = contents(request, "content", self.artifact.manifest.limits.batch)
        rows = np.full((len(found), self.beg_size + self.end_size), self.padding, dtype=self.dtype)
        for row, content in zip(rows, found, strict=True):
            self._fill(row, content)
        return {self.input: rows}

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:
        rows, scores = inputs[self.input], outputs[self.output]
        return {"predictions": [self._decide(row, of) for row, of in zip(rows, scores, strict=True)]}

    def _fill(self, row: Array, content: bytes) -> None:
        beg = content[: self.block_size].lstrip()[: self.beg_size]
        end = content[-self.block_size :].rstrip()[-self.end_size :] if self.end_size else b""
        if content and not beg:
            # Nothing but whitespace. It is too short for the model either way; one blank of it is kept, so
            # that finish can tell it from no content at all.
            beg = bytes([WHITESPACE])
        row[: len(beg)] = np.frombuffer(beg, dtype=np.uint8)
        row[len(row) - len(end) :] = np.frombuffer(end, dtype=np.uint8)

    def _decide(self, row: Array, scores: Array) -> dict[str, Any]:
        if row[self.min_bytes - 1] == self.padding:
            few = row[: self.min_bytes]
            return _few_bytes(few[few != self.padding].astype(np.uint8).tobytes())
        best = int(scores.argmax())
        score, guess = float(scores[best]), self.labels[best]
        label = self.renamed.get(guess, guess)
        if score < self.thresholds.get(guess, self.threshold):
            label = "txt" if label in TEXT_LABELS else "unknown"
        return {"label": label, "score": score, "model_label": guess}


def _few_bytes(content: bytes) -> dict[str, Any]:
    """The decision for what is left of a content too short for the model. Stripping whitespace, all ASCII,
    does not change whether the rest is UTF-8."""
    try:
        label = "txt" if content.decode() else "empty"
    except UnicodeDecodeError:
        label = "unknown"
    return {"label": label, "score": 1.0, "model_label": None}


def _read_config(artifact: Artifact) -> dict[str, Any]:
    path = artifact.asset("config")
    if path is None:
        raise ArtifactError("the task 'filetype' needs the asset 'config', magika's config.min.json")
    try:
        with open(path, "rb") as file:
            config = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} must hold a JSON object")
    return config
