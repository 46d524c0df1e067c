"""Text to the token tensors that an encoder model takes.

Short texts are encoded on the calling thread: ``encode_batch`` starts the tokenizers library's pool, a thread
for each CPU, and the work is a few microseconds (measured: 10 for five words, 73 for 45). Long ones go to the
pool, which also lets go of the interpreter lock; ``encode`` does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, InvalidRequestError, TooLargeError
from ..protocol.values import shown
from ..tensors import BY_V2, Array, Padding, Tensors
from .fields import at, items, texts

if TYPE_CHECKING:
    from ..download import Artifact

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""Names, as transformers gives them, of the inputs that are filled."""

DEFAULT_LENGTH = 512
CHARACTERS_PER_TOKEN = 256
"""A text is read up to this many characters for each token that is kept, so that a body of many megabytes
costs no more than what can still count. Prose has about five characters a token."""

POOL_FROM = 4096
"""Characters in a request from which encoding goes to the library's pool."""


class Tokens:
    """A tokenizer and the shape of its model's inputs. Safe to call from several threads."""

    def __init__(self, artifact: Artifact) -> None:
        """Raises ArtifactError where the tokenizer is missing or the model takes something else."""
        manifest = artifact.manifest
        self.tokenizer = _load(artifact)
        self.batch = manifest.limits.batch
        self.length = _length(artifact)
        self.vocabulary: int = self.tokenizer.get_vocab_size()
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._fixed: int | None = None
        """The model's own sequence length, where it takes no other."""
        for spec in manifest.inputs:
            if spec.name not in INPUTS:
                raise ArtifactError(
                    f"the model takes {spec.name!r}; text tasks fill {', '.join(INPUTS)} and nothing else"
                )
            self._dtypes[spec.name] = np.dtype(BY_V2[spec.dtype].numpy)
            if spec.shape is not None and len(spec.shape) > 1 and isinstance(spec.shape[1], int):
                self._fixed = spec.shape[1]
        if "input_ids" not in self._dtypes:
            raise ArtifactError("the model has no input 'input_ids'")
        if self._fixed is not None:
            self.length = min(self.length, self._fixed)
        self.pad_id, self._pad_left = _padding(self.tokenizer, self.vocabulary)
        self.tokenizer.no_padding()  # done here, on the arrays
        _truncate(self.tokenizer, self.length)

    def encode(self, value: object, name: str) -> Tensors:
        """The model's inputs, [texts, tokens of the longest].

        ``value``: a text, a list of texts, a list of token ids or a list of such lists. Longer texts are cut;
        token ids are taken as they are. Raises InvalidRequestError or TooLargeError that
        names the field.
        """
        first = value[0] if isinstance(value, list) and value else None
        if type(first) is int:
            return self._feeds([self._ids(value, name)])
        if isinstance(first, list):
            lists = items(value, name, self.batch)
            return self._feeds([self._ids(row, at(value, name, i)) for i, row in enumerate(lists)])
        rows = self._texts(texts(value, name, self.batch))
        for index, row in enumerate(rows):
            if not row:
                raise InvalidRequestError(f"{at(value, name, index)} is an empty text, and has no tokens")
        return self._feeds(rows)

    def mask(self, inputs: Tensors) -> Array:
        """Which of the tokens of ``encode``'s inputs are there, booleans [texts, tokens]."""
        if "attention_mask" in inputs:
            mask: Array = inputs["attention_mask"] != 0
        else:  # a model that sees no mask tells padding by its id
            mask = inputs["input_ids"] != self.pad_id
        return mask

    @property
    def padding(self) -> Padding | None:
        """How more padding is put to ``encode``'s inputs; None for a model that cannot tell it from text."""
        if "attention_mask" not in self._dtypes:
            return None
        return Padding(
            {name: self.pad_id if name == "input_ids" else 0 for name in self._dtypes}, self._pad_left
        )

    def _texts(self, found: list[str]) -> list[list[int]]:
        most = CHARACTERS_PER_TOKEN * self.length
        found = [text[:most] for text in found]
        if sum(map(len, found)) < POOL_FROM:
            encodings = [self.tokenizer.encode(text) for text in found]
        else:
            encodings = self.tokenizer.encode_batch_fast(found)
        return [encoding.ids for encoding in encodings]

    def _ids(self, row: Any, where: str) -> list[int]:
        if not isinstance(row, list) or set(map(type, row)) != {int}:
            raise InvalidRequestError(f"{where} must be a list of one or more token ids")
        if min(row) < 0 or max(row) >= self.vocabulary:
            raise InvalidRequestError(
                f"{where}: token ids go from 0 to {self.vocabulary - 1}; "
                f"it has {shown(min(row))} to {shown(max(row))}"
            )
        if len(row) > self.length:
            raise TooLargeError(f"{where} has {len(row)} tokens; the limit is {self.length}")
        return row

    def _feeds(self, rows: list[list[int]]) -> Tensors:
        lengths = [len(row) for row in rows]
        width = self._fixed or max(lengths)
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            at = slice(width - len(row), None) if self._pad_left else slice(len(row))
            ids[index, at] = row
            mask[index, at] = 1
        feeds: dict[str, Array] = {}
        for name, dtype in self._dtypes.items():
            if name == "input_ids":
                array = ids
            elif name == "attention_mask":
                array = mask
            elif name == "token_type_ids":
                array = np.zeros_like(ids)
            else:
                array = np.maximum(mask.cumsum(axis=1) - 1, 0)
            feeds[name] = array.astype(dtype, copy=False)
        return feeds


def _load(artifact: Artifact) -> Any:
    from tokenizers import Tokenizer

    path = artifact.asset("tokenizer")
    if path is None:
        raise ArtifactError("text tasks need the asset 'tokenizer', a tokenizer.json")
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing narrower
        raise ArtifactError(f"{path} is not a tokenizer: {error}") from None


def _length(artifact: Artifact) -> int:
    """Tokens that are kept of a text: the option ``max_length``, within the limit ``sequence``."""
    limit = artifact.manifest.limits.sequence
    wanted = artifact.manifest.options.get("max_length") or limit or DEFAULT_LENGTH
    if type(wanted) is not int or wanted < 1:
        raise ArtifactError(f"the option max_length must be a whole number of tokens, not {wanted!r}")
    return min(wanted, limit) if limit else wanted


def _truncate(tokenizer: Any, length: int) -> None:
    """Cut texts to a number of tokens, at the end that the tokenizer itself declares."""
    declared = tokenizer.truncation or {}
    special = tokenizer.num_special_tokens_to_add(False)
    if length <= special:
        raise ArtifactError(f"max_length is {length}, and {special} special tokens go around a text")
    try:
        tokenizer.enable_truncation(length, direction=declared.get("direction", "right"))
        tokenizer.encode("a text that is cut")
    except Exception as error:
        raise ArtifactError(f"texts cannot be cut to max_length {length}: {error}") from None


def _padding(tokenizer: Any, vocabulary: int) -> tuple[int, bool]:
    """The id that fills the shorter rows, and whether it goes before the text."""
    declared = tokenizer.padding
    if declared:
        return int(declared["pad_id"]), declared["direction"] == "left"
    for token in ("[PAD]", "<pad>", "<|endoftext|>"):
        found = tokenizer.token_to_id(token)
        if found is not None and found < vocabulary:
            return int(found), False
    return 0, False
