"""An encoded image to the pixel array that a model was trained on.

The steps, their order and their rounding are those of the image processors that transformers saves as
``preprocessor_config.json``: to RGB, resize (Pillow), centre crop, rescale, normalise. Processors that do
something else are refused when the artifact is opened.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArtifactError, InvalidRequestError, TooLargeError
from ..tensors import Array

if TYPE_CHECKING:
    from PIL.Image import Image


class Processor(NamedTuple):
    """What a class of image processor does where its saved configuration, often an old one, is silent."""

    square: bool
    """A size that is one number is both edges, not the shorter one."""
    resample: int
    """Pillow's filter: 2 bilinear, 3 bicubic."""
    crop: bool = False
    """Crops its centre; the others never do."""
    normalize: bool = True
    flip: bool = False
    """Gives BGR."""


PROCESSORS = {
    "ViT": Processor(True, 2),
    "DeiT": Processor(True, 3, crop=True),
    "Beit": Processor(True, 3, crop=True),
    "Siglip": Processor(True, 3),
    "CLIP": Processor(False, 3, crop=True),
    "Bit": Processor(False, 3, crop=True),
    "ConvNext": Processor(False, 2),
    "MobileNetV1": Processor(False, 2, crop=True),
    "MobileNetV2": Processor(False, 2, crop=True),
    "MobileViT": Processor(False, 2, crop=True, normalize=False, flip=True),
}
"""Image processors whose steps are these, by the part of their class's name before ``ImageProcessor``."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded; Pillow's other readers are never tried."""

_STEPS = {
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order"),
    "do_reduce_labels",  # concerns segmentation maps, not images
}


class Pixels:
    """One processor. Safe to call from several threads."""

    def __init__(self, config: object) -> None:
        """``config``: the content of preprocessor_config.json. Raises ArtifactError for one unknown here."""
        if not isinstance(config, dict):
            raise ArtifactError("the option 'preprocessor' must be the content of preprocessor_config.json")
        name, processor = _processor(config)
        self.short_edge, self.size, self.crop = 0, None, None
        if _flag(config, "do_resize", True):
            self.short_edge, self.size = _size(config, "size", processor.square)
        if processor.crop and _flag(config, "do_center_crop", True):
            self.crop = _size(config, "crop_size", True)[1]
        if name == "ConvNext" and self.short_edge:
            self._convnext(config)
        self.resample = int(_number(config, "resample", processor.resample))
        if not 0 <= self.resample <= 5:
            raise ArtifactError(
                f"preprocessor.resample must be one of Pillow's filters, 0 to 5, not {self.resample}"
            )
        rescales = _flag(config, "do_rescale", True)
        self.scale = _number(config, "rescale_factor", 1 / 255) if rescales else None
        self.flip = processor.flip and _flag(config, "do_flip_channel_order", True)
        self.normal: tuple[Array, Array] | None = None
        if processor.normalize and _flag(config, "do_normalize", True):
            self.normal = _three(config, "image_mean"), _three(config, "image_std")
            if not self.normal[1].all():
                raise ArtifactError("preprocessor.image_std has a zero")

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


def _processor(config: dict[str, Any]) -> tuple[str, Processor]:
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    for ending in ("Fast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    if name not in PROCESSORS:
        raise ArtifactError(
            f"preprocessor.image_processor_type is {name or 'missing'}, whose steps are not known here; "
            f"known: {', '.join(PROCESSORS)}"
        )
    unknown = [key for key, value in config.items() if key.startswith("do_") and value and key not in _STEPS]
    if unknown:
        raise ArtifactError(f"preprocessor.{unknown[0]}: this step is not known here")
    return name, PROCESSORS[name]


def _flag(config: dict[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ArtifactError(f"preprocessor.{key} must be true or false, not {value!r}")
    return default if value is None else value


def _size(config: dict[str, Any], key: str, square: bool) -> tuple[int, tuple[int, int] | None]:
    """A size as processors save it: the short edge and nothing, or 0 and (height, width)."""
    size = config.get(key)
    if isinstance(size, int) and not isinstance(size, bool):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, dict):
        edges = {name: value for name, value in size.items() if value is not None}
        if all(type(value) is int and 0 < value <= 8192 for value in edges.values()):
            if set(edges) == {"height", "width"}:
                return 0, (edges["height"], edges["width"])
            if set(edges) == {"shortest_edge"}:
                edge = edges["shortest_edge"]
                return (0, (edge, edge)) if key == "crop_size" else (edge, None)
    raise ArtifactError(
        f"preprocessor.{key} must have height and width, or shortest_edge, of 1 to 8192; it is {size!r}"
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
