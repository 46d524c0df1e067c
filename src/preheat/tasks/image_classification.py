"""Images to labels.

Request: ``{"image": base64 | [base64, …], "top_k": n}``, ``top_k`` optional, or the image itself as
``image/*``. JPEG, PNG, WebP, GIF (its first frame) and BMP.
Answer: ``{"predictions": [{"label": …, "score": 0…1, "top": [{"label": …, "score": …}, …]}, …]}``, one for
each image, ``top`` with the ``top_k`` best, best first.

Options: ``preprocessor``, the content of transformers' ``preprocessor_config.json``; ``top_k`` (5);
``max_pixels``, how many the images of one request may have together; and those of classes.Classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, InvalidRequestError, TooLargeError
from ..protocol.values import shown
from ..tensors import BY_V2, Array, Tensors
from . import Task
from .classes import Classes
from .fields import at, contents
from .pixels import Pixels, decode

if TYPE_CHECKING:
    from ..download import Artifact

TOP_K = 5
MAX_PIXELS = 2**26


class Images(dict[str, Array]):
    """The model's inputs for a request, and how many labels it wants."""

    top_k = TOP_K


class ImageClassification(Task):
    accepts = ("image/*",)
    # The readers too: Pillow would import every one that it has on the first request.
    libraries = (
        "PIL.Image",
        "PIL.ImageOps",
        "PIL.BmpImagePlugin",
        "PIL.GifImagePlugin",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "PIL.WebPImagePlugin",
    )

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.classes = Classes(artifact)
        self.pixels = Pixels(self.options.get("preprocessor"))
        self.top_k = _positive(self.options, "top_k", TOP_K)
        self.max_pixels = _positive(self.options, "max_pixels", MAX_PIXELS)
        manifest = artifact.manifest
        spec = manifest.inputs[0] if len(manifest.inputs) == 1 else None
        if spec is None or spec.shape is None or len(spec.shape) != 4 or spec.dtype in ("BYTES", "BOOL"):
            raise ArtifactError("the task 'image_classification' takes a model with one input of four axes")
        self.input = spec.name
        self.dtype = np.dtype(BY_V2[spec.dtype].numpy)
        self.channels_last = spec.shape[3] == 3 and spec.shape[1] != 3

    def prepare(self, request: Any) -> Tensors:
        """Pixels [images, 3, height, width], or [images, height, width, 3] where the model says so."""
        fields = request if isinstance(request, dict) else {}
        top_k = fields.get("top_k")
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InvalidRequestError(f"top_k must be a whole number from 1 on, not {shown(top_k)}")
        found = contents(request, "image", self.artifact.manifest.limits.batch)
        left = self.max_pixels
        arrays = []
        for index, data in enumerate(found):
            where = at(fields.get("image"), "image", index)
            image = decode(data, where, left)
            left -= image.width * image.height
            width, height = self.pixels.target(image.size)
            if width * height > self.max_pixels:
                raise TooLargeError(f"{where} is {image.width} x {image.height}, too long for its width")
            arrays.append(self.pixels.array(image))
        if len({array.shape for array in arrays}) > 1:
            raise InvalidRequestError("image: these images come out in different sizes; send them one by one")
        batch = np.stack(arrays).astype(self.dtype, copy=False)
        if not self.channels_last:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        inputs = Images({self.input: batch})
        inputs.top_k = top_k or self.top_k
        return inputs

    def finish(self, outputs: Tensors, inputs: Tensors) -> Any:
        count = inputs.top_k if isinstance(inputs, Images) else self.top_k
        predictions = []
        for row in self.classes.scores(outputs[self.classes.output]):
            best = [{"label": label, "score": score} for label, score in self.classes.best(row, count)]
            predictions.append({**best[0], "top": best})
        return {"predictions": predictions}


def _positive(options: dict[str, Any], key: str, default: int) -> int:
    value = options.get(key, default)
    if type(value) is not int or value < 1:
        raise ArtifactError(f"the option {key} must be a whole number from 1 on, not {value!r}")
    return value
