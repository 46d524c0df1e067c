from __future__ import annotations

import io
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preheat.build import samples
from preheat.manifest import Limits, TensorSpec
from preheat.tensors import BY_V2, check_inputs, datatype_of

dims = st.one_of(st.integers(1, 4), st.none(), st.sampled_from(["batch", "length", "past + length", "n"]))
specs = st.lists(
    st.builds(
        TensorSpec,
        name=st.sampled_from(
            ["x", "attention_mask", "input_ids", "state", "position_ids", "sr", "image", "text"]
        ),
        dtype=st.sampled_from(sorted(BY_V2)),
        shape=st.one_of(st.none(), st.lists(dims, max_size=4).map(tuple)),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda spec: spec.name,
)


@settings(deadline=None, max_examples=40)
@given(specs)
def test_every_candidate_fits_the_specifications(wanted: list[TensorSpec]) -> None:
    for feeds in islice(samples.made_up(wanted), 12):
        check_inputs(wanted, feeds, Limits(batch=10**6, elements=10**9))
        sizes: dict[str, int] = {}
        for spec in wanted:
            for dim, size in zip(spec.shape or (), feeds[spec.name].shape, strict=True):
                if isinstance(dim, str):
                    assert sizes.setdefault(dim, size) == size
        if "past + length" in sizes and "length" in sizes:
            assert sizes["past + length"] > sizes["length"]


@settings(deadline=None, max_examples=40)
@given(specs)
def test_candidates_are_the_same_every_time_and_never_the_same_twice(wanted: list[TensorSpec]) -> None:
    def described(feeds: dict[str, Any]) -> list[Any]:
        return [(name, a.shape, a.dtype.str, a.tolist()) for name, a in feeds.items()]

    first = [described(feeds) for feeds in islice(samples.made_up(wanted), 8)]
    assert first == [described(feeds) for feeds in islice(samples.made_up(wanted), 8)]


def _first(*wanted: TensorSpec) -> dict[str, Any]:
    return next(samples.made_up(wanted))


def test_the_first_candidate_is_what_the_names_mean() -> None:
    feeds = _first(
        TensorSpec("input_ids", "INT64", ("batch_size", "sequence_length")),
        TensorSpec("attention_mask", "INT64", ("batch_size", "past_sequence_length + 1")),
        TensorSpec("token_type_ids", "INT64", ("batch_size", "sequence_length")),
        TensorSpec("position_ids", "INT64", ("batch_size", "sequence_length")),
        TensorSpec("use_cache_branch", "BOOL", (1,)),
        TensorSpec("sr", "INT64", ()),
    )
    assert feeds["input_ids"].shape == (1, 16)
    assert (feeds["input_ids"] > 0).all()
    assert feeds["attention_mask"].shape == (1, 5)
    assert (feeds["attention_mask"] == 1).all()
    assert (feeds["token_type_ids"] == 0).all()
    assert feeds["position_ids"].tolist() == [list(range(16))]
    assert feeds["use_cache_branch"].tolist() == [False]
    assert feeds["sr"] == 16000


@pytest.mark.parametrize(
    "shape",
    [
        ("batch", "num_channels", "height", "width"),
        ("N", 3, "H", "W"),
        (None, None, None, None),
        ("n", 3, 224, 224),
    ],
)
def test_four_axes_are_an_image(shape: tuple[int | str | None, ...]) -> None:
    assert _first(TensorSpec("pixels", "FP32", shape))["pixels"].shape == (1, 3, 224, 224)


def test_a_tensor_that_would_be_too_large_is_not_made() -> None:
    for feeds in islice(samples.made_up([TensorSpec("x", "FP32", ("a", "b", "c", "d", "e"))]), 200):
        assert feeds["x"].size <= samples.MOST_ELEMENTS


def test_fixed_sizes_are_never_changed_and_may_be_large() -> None:
    size = samples.MOST_ELEMENTS + 1
    assert _first(TensorSpec("x", "INT8", (size,)))["x"].shape == (size,)


def test_the_picture_is_a_png_of_its_size() -> None:
    image = Image.open(io.BytesIO(samples.picture(64, 48)))
    assert image.format == "PNG"
    assert image.size == (64, 48)
    assert len({tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}) > 100


def test_every_type_can_be_made_up() -> None:
    for name in BY_V2:
        assert datatype_of(_first(TensorSpec("x", name, ("n", 3)))["x"]).v2 == name
