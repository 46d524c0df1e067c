"""What turns a request into tensors, and tensors into an answer.

A task of one's own is one class with ``prepare`` and ``finish``::

    class Sentiment(preheat.Task):
        def prepare(self, request):
            return {"ids": np.array([encode(request["text"])], dtype=np.int64)}

        def finish(self, outputs, inputs):
            return {"positive": float(outputs["score"][0])}

One instance serves every request, from several threads at once: keep no request's state on ``self``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, EngineError, InvalidRequestError
from ..tensors import Padding, Tensors, datatype_of

if TYPE_CHECKING:
    from ..download import Artifact
    from ..manifest import TensorSpec

BUILT_IN = {
    "tensors": ("tensors", "RawTensors"),
    "text_embedding": ("text_embedding", "TextEmbedding"),
    "text_classification": ("text_classification", "TextClassification"),
    "image_classification": ("image_classification", "ImageClassification"),
    "filetype": ("filetype", "FileType"),
}
"""Name of a task in a manifest -> its module here, and its class."""


class Task:
    """Base of every task. The artifact's assets are loaded by ``__init__``, while the session is proved."""

    accepts: tuple[str, ...] = ()
    """Content types that ``prepare`` takes as raw ``bytes``, beside JSON: ``("image/*",)``, say."""

    libraries: tuple[str, ...] = ()
    """Modules that the task's first answer needs, beside numpy and onnxruntime; imported with those."""

    pads: Padding | None = None
    """How requests of different length may be run together (preheat.batching); None: only those of one."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options: dict[str, Any] = artifact.manifest.options

    def prepare(self, request: Any) -> Tensors:
        """The model's inputs for a request: decoded JSON, or ``bytes`` of a type in ``accepts``.

        Raises InvalidRequestError for a request that has no tensors.
        """
        raise TypeError(f"{type(self).__name__} must define prepare(request)")

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:
        """The answer, as a value that JSON can hold. ``inputs`` is what ``prepare`` gave."""
        raise TypeError(f"{type(self).__name__} must define finish(outputs, inputs)")


def prepare(task: Task, request: Any, specs: tuple[TensorSpec, ...]) -> Tensors:
    """``task.prepare``, for a request that nobody has looked at: what does not fit is the client's error.

    A task of the user's own reads a request as it expects it to be. Raises RequestError; EngineError where
    the task itself gives other tensors than the model takes, which no client can mend.
    """
    try:
        inputs = task.prepare(request)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequestError(
            f"the request does not fit the task: {type(error).__name__}: {error}"
        ) from error
    for spec in specs:
        given = inputs.get(spec.name)
        if given is None or datatype_of(given).v2 != spec.dtype:
            what = "no tensor of that name" if given is None else datatype_of(given).v2
            raise EngineError(
                f"{type(task).__name__}.prepare must give {spec.name!r} as {spec.dtype}; it gave {what}"
            )
    return inputs


def built_in(name: str) -> type[Task]:
    """The class of a built-in task. Raises ArtifactError for a name that there is none of."""
    if name not in BUILT_IN:
        raise ArtifactError(
            f"the artifact's task is {name!r}, which is not built in ({', '.join(BUILT_IN)}); "
            "give the function its own Task class"
        )
    module, attribute = BUILT_IN[name]
    task: type[Task] = getattr(import_module(f".{module}", __name__), attribute)
    return task
