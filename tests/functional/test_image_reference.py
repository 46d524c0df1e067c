"""Pixels against the image processors of transformers, over images of many sizes."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from preheat.tasks.pixels import Pixels, decode
from preheat.tensors import Array

from .reference import in_export_environment

SCRIPT = """
import base64, io, json, sys
import numpy as np, transformers
from PIL import Image
question = json.load(sys.stdin)
images = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in question["images"]]
answers = []
for name, options in question["processors"]:
    processor = getattr(transformers, name + "ImageProcessor")(**options)
    arrays = [processor(image, return_tensors="np")["pixel_values"][0].astype("<f4") for image in images]
    answers.append({
        "config": processor.to_dict(),
        "shapes": [array.shape for array in arrays],
        "pixels": [base64.b64encode(np.ascontiguousarray(array).tobytes()).decode() for array in arrays],
    })
print(json.dumps(answers))
"""
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {}),
    ("ViT", {"size": {"height": 50, "width": 70}, "resample": 3, "do_rescale": True, "rescale_factor": 0.01}),
    ("DeiT", {}),
    ("Beit", {"do_center_crop": True}),
    ("CLIP", {}),
    ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": {"height": 61, "width": 33}}),
    ("Bit", {}),
    ("Siglip", {"size": {"height": 64, "width": 64}}),
    ("ConvNext", {"size": {"shortest_edge": 224}}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("MobileNetV1", {}),
    ("MobileNetV2", {}),
    ("MobileViT", {}),
]


def png(width: int, height: int) -> bytes:
    """Smooth colours with noise on top, so that both resampling and rounding show."""
    y, x = np.mgrid[0:height, 0:width]
    colours = np.stack([255 * x / width, 255 * y / height, (x + y) % 256], axis=2)
    noise = np.random.default_rng(width).integers(-40, 40, colours.shape)
    out = io.BytesIO()
    Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


IMAGES = [png(*size) for size in ((640, 480), (300, 500), (64, 64), (33, 201), (500, 31))]


@pytest.fixture(scope="module")
def reference() -> list[dict[str, Any]]:
    question = {"images": [base64.b64encode(image).decode() for image in IMAGES], "processors": PROCESSORS}
    answers: list[dict[str, Any]] = in_export_environment(SCRIPT, question)
    return answers


@pytest.mark.parametrize("index", range(len(PROCESSORS)), ids=[name for name, _ in PROCESSORS])
def test_pixels_are_the_processors(index: int, reference: list[dict[str, Any]]) -> None:
    answer = reference[index]
    configs = [answer["config"]]
    if not PROCESSORS[index][1]:  # what an old configuration leaves to its class
        kept = ("image_processor_type", "size", "crop_size", "image_mean", "image_std")
        configs.append({key: configs[0][key] for key in kept if key in configs[0]})
    for data, shape, raw in zip(IMAGES, answer["shapes"], answer["pixels"], strict=True):
        want: Array = np.frombuffer(base64.b64decode(raw), dtype="<f4").reshape(shape)
        for config in configs:
            got = Pixels(config).array(decode(data, "image", 10**6)).transpose(2, 0, 1)
            assert got.shape == want.shape
            assert np.abs(got - want).max() < 1e-5
