"""An encoded image to the pixel array that a model was trained on.

The steps, their order and their rounding are those of the image processors that transformers saves as
``preprocessor_config.json``: to RGB, resize (Pillow), centre crop, rescale, normalise. Processors that do
something else are refused when the artifact is opened.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArtifactError, InvalidRequestError, TooLargeError
from ..tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSORS = frozenset(
    {
        "",
        "ViT",
        "DeiT",
        "Beit",
        "CLIP",
        "Bit",
        "Siglip",
        "MobileNetV1",
        "MobileNetV2",
        "MobileViT",
        "ConvNext",
    }
)
"""Image processors whose steps are these, by the part of their class's name before ``ImageProcessor``."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded; Pillow's other readers are never tried."""

_STEPS = {
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_flip_channel_order",
}
_NO_STEPS = {"do_reduce_labels"}
"""Concerns segmentation maps, not images."""


class Pixels:
    """One processor. Safe to call from several threads."""

    def __init__(self, config: object) -> None:
        """``config``: the content of preprocessor_config.json. Raises ArtifactError for one unknown here."""
        if not isinstance(config, dict):
            raise ArtifactError("the option 'preprocessor' must be the content of preprocessor_config.json")
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        for ending in ("Fast", "ImageProcessor", "FeatureExtractor"):
            kind = kind.removesuffix(ending)
        unknown = [
            key
            for key, value in config.items()
            if key.startswith("do_") and value and key not in _STEPS | _NO_STEPS
        ]
        if kind not in PROCESSORS or unknown:
            raise ArtifactError(
                f"the image processor {kind or 'of the artifact'} does something that is not known here"
                + (
                    f": {', '.join(unknown)}"
                    if unknown
                    else f"; known: {', '.join(sorted(PROCESSORS - {''}))}"
                )
            )
        self.short_edge, self.size = _size(config, "size") if config.get("do_resize", True) else (0, None)
        self.crop = _size(config, "crop_size")[1] if config.get("do_center_crop") else None
        if kind == "ConvNext" and self.short_edge:
            self._convnext(config)
        self.resample = int(_number(config, "resample", 2))
        self.scale = _number(config, "rescale_factor", 1 / 255) if config.get("do_rescale", True) else None
        self.flip = bool(config.get("do_flip_channel_order"))
        self.normal: tuple[Array, Array] | None = None
        if config.get("do_normalize"):
            self.normal = _three(config, "image_mean"), _three(config, "image_std")

    def array(self, image: Image) -> Array:
        """[height, width, 3], float32, or uint8 where the processor neither rescales nor normalises."""
        if self.size or self.short_edge:
            image = image.resize(self.target(image.size), resample=self.resample)
        pixels: Array = np.asarray(image)
        if self.crop:
            pixels = centre_crop(pixels, *self.crop)
        if self.scale is not None:
            pixels = (pixels * np.float64(self.scale)).astype(np.float32)
        if self.normal is not None:
            mean, deviation = self.normal
            pixels = (pixels.astype(np.float32, copy=False) - mean) / deviation
        return pixels[:, :, ::-1] if self.flip else pixels

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size, width and height, to which an image of a size is resized."""
        if self.size:
            return self.size[1], self.size[0]
        if not self.short_edge:
            return size
        short, long = min(size), max(size)
        long = int(self.short_edge * long / short)
        return (self.short_edge, long) if size[0] <= size[1] else (long, self.short_edge)

    def _convnext(self, config: dict[str, Any]) -> None:
        # ConvNeXt resizes to a little more than it needs and crops; from 384 on it resizes to a square.
        edge = self.short_edge
        if edge < 384:
            self.short_edge = int(edge / _number(config, "crop_pct", 224 / 256))
            self.crop = (edge, edge)
        else:
            self.short_edge, self.size = 0, (edge, edge)


def decode(data: bytes, where: str, max_pixels: int) -> Image:
    """An upright RGB image. Raises InvalidRequestError, and TooLargeError before too much is decoded."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise TooLargeError(
                f"{where} has {image.width} x {image.height} pixels; the request has {max_pixels} left"
            )
        return ImageOps.exif_transpose(image).convert("RGB")
    except TooLargeError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"{where} has more pixels than any image may have") from None
    except Exception as error:  # its readers raise OSError, SyntaxError, ValueError, struct.error and others
        raise InvalidRequestError(
            f"{where} is not an image that can be read ({', '.join(FORMATS)}): {type(error).__name__}"
        ) from None


def centre_crop(pixels: Array, height: int, width: int) -> Array:
    """The middle of [h, w, channels], with zeros around where the image is smaller."""
    h, w = pixels.shape[:2]
    if h < height or w < width:
        before = (max(height - h, 0) + 1) // 2, (max(width - w, 0) + 1) // 2
        after = max(height - h, 0) // 2, max(width - w, 0) // 2
        pixels = np.pad(pixels, ((before[0], after[0]), (before[1], after[1]), (0, 0)))
        h, w = pixels.shape[:2]
    top, left = (h - height) // 2, (w - width) // 2
    return pixels[top : top + height, left : left + width]


def _size(config: dict[str, Any], key: str) -> tuple[int, tuple[int, int] | None]:
    """A size as processors save it: the short edge, or height and width."""
    size = config.get(key)
    if isinstance(size, int) and key == "crop_size":
        size = {"height": size, "width": size}
    if isinstance(size, dict):
        edges = {name: value for name, value in size.items() if value is not None}
        if all(type(value) is int and 0 < value <= 8192 for value in edges.values()):
            if set(edges) == {"height", "width"}:
                return 0, (edges["height"], edges["width"])
            if set(edges) == {"shortest_edge"}:
                edge = edges["shortest_edge"]
                return edge, (edge, edge) if key == "crop_size" else None
    raise ArtifactError(
        f"preprocessor.{key} must have height and width, or shortest_edge, not {size!r}; save the processor "
        "anew with a current transformers"
    )


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArtifactError(f"preprocessor.{key} must be a number, not {value!r}")
    return value


def _three(config: dict[str, Any], key: str) -> Array:
    value = config.get(key)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(v, int | float) for v in value):
        raise ArtifactError(f"preprocessor.{key} must be three numbers, not {value!r}")
    return np.array(value, dtype=np.float32)
