from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preheat.errors import ArtifactError, InvalidRequestError, RequestError, TooLargeError
from preheat.manifest import TensorSpec
from preheat.tasks.image_classification import ImageClassification
from preheat.tasks.pixels import Pixels, centre_crop, decode

from .artifacts import artifact

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 6},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.25, 0.5],
}
CLIP = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "do_normalize": False}
INPUT = TensorSpec("pixel_values", "FP32", ("batch", 3, "height", "width"))
LOGITS = TensorSpec("logits", "FP32", ("batch", 4))


def task(spec: TensorSpec = INPUT, preprocessor: Any = PREPROCESSOR, **options: Any) -> ImageClassification:
    options = {"labels": ["cat", "crane", "crane", "dog"], "preprocessor": preprocessor, **options}
    return ImageClassification(artifact([spec], [LOGITS], options=options, batch=3))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


RED = Image.new("RGB", (6, 8), (255, 0, 0))


def test_an_image_is_the_same_raw_and_in_json() -> None:
    for data in (encoded(RED), encoded(RED, "BMP"), encoded(RED, "GIF"), encoded(RED, "WEBP", lossless=True)):
        (raw,) = task().prepare(data).values()
        (json_,) = task().prepare({"image": b64(data)}).values()
        assert raw.shape == (1, 3, 8, 6)
        assert raw.dtype == np.float32
        assert raw.flags.c_contiguous
        assert np.array_equal(raw, json_)
        assert np.unique(raw[0, 0]) == pytest.approx([1.0])
        assert np.unique(raw[0, 1]) == pytest.approx([-2.0])


def test_several_images_and_the_models_own_layout() -> None:
    several = [b64(encoded(noise(9, 5))), b64(encoded(noise(5, 9), "JPEG"))]
    (first,) = task().prepare({"image": several}).values()
    last = TensorSpec("x", "FP16", ("batch", "h", "w", 3))
    (second,) = task(last).prepare({"image": several}).values()
    assert first.shape == (2, 3, 8, 6)
    assert second.shape == (2, 8, 6, 3)
    assert second.dtype == np.float16
    assert np.allclose(second.transpose(0, 3, 1, 2), first, atol=2e-3)
    plain = {**PREPROCESSOR, "do_resize": False, "do_rescale": False, "do_normalize": False}
    (whole,) = (
        task(TensorSpec("x", "UINT8", (None, None, None, 3)), plain).prepare(encoded(noise(9, 5))).values()
    )
    assert np.array_equal(whole[0], np.asarray(noise(9, 5)))
    with pytest.raises(InvalidRequestError, match="different sizes"):
        task(preprocessor=plain).prepare({"image": several})


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    deep = Image.fromarray(np.full((8, 6), 300, dtype=np.uint16))
    image = deep if mode == "I;16" else RED.convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(data, "image", 100).mode == "RGB"


def test_images_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    data = encoded(noise(20, 10), "JPEG", exif=exif)
    assert decode(data, "image", 1000).size == (10, 20)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3), (10, 6), (6, 12), (11, 11), (10, 3), (9, 13)])
def test_the_crop_is_centred_and_filled_with_zeros(height: int, width: int) -> None:
    pixels = np.asarray(noise(6, 10))
    crop = centre_crop(pixels, height, width)
    assert crop.shape == (height, width, 3)
    # What is inside both is the image, and the sum tells that nothing else is there.
    h, w = min(height, 10), min(width, 6)
    top, left = (10 - h) // 2, (6 - w) // 2
    assert crop.sum() == pixels[top : top + h, left : left + w].sum()


@pytest.mark.parametrize(
    ("size", "want"),
    [((100, 50), (20, 10)), ((50, 100), (10, 20)), ((33, 100), (10, 30)), ((100, 100), (10, 10))],
)
def test_the_short_edge_decides(size: tuple[int, int], want: tuple[int, int]) -> None:
    for kind in ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor"):
        made = {**CLIP, "image_processor_type": kind}
        assert Pixels({**made, "size": {"shortest_edge": 10}}).target(size) == want
        assert Pixels({**made, "size": 10}).target(size) == want  # as old ones were saved
        assert Pixels({**made, "do_resize": False}).target(size) == size
    old = {
        "feature_extractor_type": "DeiTFeatureExtractor",
        "size": 10,
        "crop_size": 9,
        "do_normalize": False,
    }
    assert Pixels(old).target(size) == (10, 10)
    assert Pixels(old).array(noise(*size)).shape == (9, 9, 3)


def test_convnext_resizes_to_more_and_crops() -> None:
    made = {"image_processor_type": "ConvNextImageProcessor", "do_normalize": False}
    small = Pixels({**made, "size": {"shortest_edge": 224}, "crop_pct": 0.875})
    assert small.target((500, 500)) == (256, 256)
    assert small.array(noise(500, 300)).shape == (224, 224, 3)
    large = Pixels({**made, "size": {"shortest_edge": 384}})
    assert large.target((500, 300)) == (384, 384)


def test_the_best_labels_best_first() -> None:
    made = task(top_k=2)
    logits = np.array([[0, 3, 1, 2], [5, 0, 0, 0]], dtype=np.float32)
    data = [b64(encoded(RED))] * 2
    first, second = made.finish({"logits": logits}, made.prepare({"image": data}))["predictions"]
    assert [entry["label"] for entry in first["top"]] == ["crane", "dog"]
    assert first["top"][0] == {"label": first["label"], "score": first["score"]}
    assert first["score"] == pytest.approx(float(np.exp(3) / np.exp([0, 3, 1, 2]).sum()))
    assert second["label"] == "cat"
    for top_k, count in ((1, 1), (3, 3), (99, 4)):
        answer = made.finish({"logits": logits}, made.prepare({"image": data, "top_k": top_k}))
        assert [len(row["top"]) for row in json.loads(json.dumps(answer))["predictions"]] == [count] * 2


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(9000, 8000), (12_000, 8_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns of some of them; as an error it says the same
        with pytest.raises(RequestError, match="image") as caught:
            task().prepare(bomb(*size))
    assert isinstance(caught.value, TooLargeError) or size[0] == 2**31 - 1


def test_the_images_of_a_request_share_a_budget_of_pixels() -> None:
    made = task(max_pixels=100)
    made.prepare({"image": [b64(encoded(RED))] * 2})
    with pytest.raises(TooLargeError, match=r"image\[2\] has 6 x 8 pixels; the request has 4 left"):
        made.prepare({"image": [b64(encoded(RED))] * 3})
    with pytest.raises(TooLargeError, match="image has 11 x 10 pixels"):
        made.prepare(encoded(noise(11, 10)))
    # 1 x 50: few pixels, and a million after the short edge has become 150.
    stretched = task(preprocessor={**CLIP, "size": {"shortest_edge": 150}}, max_pixels=1000)
    with pytest.raises(TooLargeError, match="image is 1 x 50, too long for its width"):
        stretched.prepare(encoded(noise(1, 50)))


GOOD = encoded(noise(12, 9), "JPEG")


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        (b"", InvalidRequestError, "image is not an image"),
        (b"hello", InvalidRequestError, "image is not an image"),
        (GOOD[:200], InvalidRequestError, "image is not an image"),
        (encoded(noise(30, 30))[:1500], InvalidRequestError, "image is not an image"),
        (encoded(RED, "TIFF"), InvalidRequestError, "can be read .JPEG, PNG, WEBP, GIF, BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", InvalidRequestError, "not an image"),
        ({"image": b64(b"hello")}, InvalidRequestError, "image is not an image"),
        ({"image": [b64(GOOD), b64(b"x")]}, InvalidRequestError, r"image\[1\] is not an image"),
        ({"image": "?"}, InvalidRequestError, "image is not base64"),
        ({"image": 7}, InvalidRequestError, "image must be base64 text, not 7"),
        ({"image": []}, InvalidRequestError, "image is an empty list"),
        ({"image": [b64(GOOD)] * 4}, TooLargeError, "image has 4 items; the limit is 3"),
        (
            {"image": b64(GOOD), "top_k": 0},
            InvalidRequestError,
            "top_k must be a whole number from 1 on, not 0",
        ),
        ({"image": b64(GOOD), "top_k": True}, InvalidRequestError, "top_k must be a whole number"),
        ({"images": b64(GOOD)}, InvalidRequestError, "no field 'image'"),
        (None, InvalidRequestError, "object with the field 'image'"),
    ],
)
def test_wrong_requests_are_refused_by_field(request_: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        task().prepare(request_)


FILES = [GOOD, *(encoded(noise(7, 5), kind) for kind in ("PNG", "GIF", "BMP", "WEBP"))]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=3)), max_size=4),
    st.data(),
)
def test_no_bytes_raise_anything_else(
    data: bytes, changes: list[tuple[int, bytes]], draw: st.DataObject
) -> None:
    broken = bytearray(data)
    for at, with_ in changes:
        broken[at : at + len(with_)] = with_
    end = draw.draw(st.integers(0, len(broken)) | st.just(len(broken)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about damaged metadata
        try:
            (pixels,) = task().prepare(bytes(broken[:end])).values()
        except RequestError:
            return
    assert pixels.shape == (1, 3, 8, 6)


def test_only_the_listed_readers_are_loaded() -> None:
    """Pillow loads every reader that it has when a name is unknown to it: slow, and a wide door."""
    script = (
        "import sys\n"
        "from preheat.tasks.image_classification import ImageClassification\n"
        "for library in ImageClassification.libraries: __import__(library)\n"
        "before = {m for m in sys.modules if m.endswith('ImagePlugin')}\n"
        "from preheat.tasks.pixels import decode\n"
        "try: decode(b'hello', 'image', 9)\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print(*{m for m in sys.modules if m.endswith('ImagePlugin')} - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() in (["InvalidRequestError", "PIL.PpmImagePlugin"], ["InvalidRequestError"]), (
        done
    )


@pytest.mark.parametrize(
    ("preprocessor", "said"),
    [
        (None, "must be the content of preprocessor_config.json"),
        ({}, "image_processor_type is missing"),
        ({"image_processor_type": "LevitImageProcessor"}, "image_processor_type is Levit, whose steps"),
        ({**PREPROCESSOR, "do_pad": True}, "preprocessor.do_pad: this step is not known"),
        ({**PREPROCESSOR, "do_resize": 1}, "do_resize must be true or false"),
        ({**PREPROCESSOR, "size": None}, "preprocessor.size must have"),
        ({**PREPROCESSOR, "size": True}, "preprocessor.size must have"),
        ({**PREPROCESSOR, "size": {"height": 8}}, "preprocessor.size must have"),
        ({**PREPROCESSOR, "size": {"height": 8, "width": -1}}, "preprocessor.size must have"),
        ({**PREPROCESSOR, "size": {"height": 8, "width": 10**9}}, "preprocessor.size must have"),
        ({**PREPROCESSOR, "image_mean": [0.5]}, "image_mean must be three numbers"),
        ({**PREPROCESSOR, "image_std": None}, "image_std must be three numbers"),
        ({**PREPROCESSOR, "image_std": [1, 0, 1]}, "image_std has a zero"),
        ({**PREPROCESSOR, "resample": "best"}, "resample must be a number"),
        ({**PREPROCESSOR, "resample": 6}, "resample must be one of Pillow's filters"),
        ({**PREPROCESSOR, "rescale_factor": True}, "rescale_factor must be a number"),
        ({**CLIP, "size": 8, "do_center_crop": True}, "crop_size must have"),
    ],
)
def test_processors_that_do_something_else_are_refused(preprocessor: Any, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        task(preprocessor=preprocessor)


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        (TensorSpec("x", "FP32", ("batch", 3)), {}, "one input of four axes"),
        (TensorSpec("x", "BYTES", (1, 3, 8, 8)), {}, "one input of four axes"),
        (TensorSpec("x", "FP32", None), {}, "one input of four axes"),
        (INPUT, {"top_k": 0}, "top_k must be a whole number"),
        (INPUT, {"max_pixels": "many"}, "max_pixels must be a whole number"),
    ],
)
def test_an_artifact_that_does_not_fit_is_refused(
    spec: TensorSpec, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said):
        task(spec, **options)
