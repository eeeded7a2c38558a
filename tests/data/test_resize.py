"""Preparation of photographs: bit by bit as torchvision's presets do it with PIL, and on the 8-bit grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pictures import build_pixels
from PIL import Image
from torchvision.transforms import v2

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.data.resize import format_preparation, prepare_pixels

MODES = {
    "nearest": v2.InterpolationMode.NEAREST,
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
    "lanczos": v2.InterpolationMode.LANCZOS,
}


def _prepare(pixels: np.ndarray, size: tuple[int, int], **options: Any) -> np.ndarray:
    return prepare_pixels(pixels, InputContract(input_size=size, **options))


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (17, 90), (33, 33), (12, 9), (301, 447)])
def test_bit_by_bit_as_torchvision_with_pil(interpolation, channels, height, width):
    pixels = build_pixels(height, width, channels)
    pixels[: height // 2] = np.where(pixels[: height // 2] > 127, 255, 0)  # edges, where filters overshoot
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    mode = MODES[interpolation]
    for crop in ((20, 20), (19, 24), (31, 17)):  # the last two are wider or higher than what is resized
        preset = v2.Compose([v2.Resize(24, mode, antialias=True), v2.CenterCrop(crop)])
        expected = np.asarray(preset(image)).reshape(*crop, channels)
        got = _prepare(pixels, crop, resize=24, interpolation=interpolation)
        assert np.array_equal(got, expected)
        assert got.dtype == np.uint8
    stretched = np.asarray(v2.Resize((21, 30), mode, antialias=True)(image)).reshape(21, 30, channels)
    assert np.array_equal(_prepare(pixels, (21, 30), resize=(21, 30), interpolation=interpolation), stretched)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_torchvisions_tensors_differ_by_one_gray_level_and_floats_stay_floats(interpolation):
    pixels = build_pixels(57, 83, 3)
    mode = MODES[interpolation]
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = v2.Compose([v2.Resize(24, mode, antialias=True), v2.CenterCrop(20)])(tensor)
    got = _prepare(pixels, (20, 20), resize=24, interpolation=interpolation)
    assert np.abs(got.astype(int) - expected.permute(1, 2, 0).numpy().astype(int)).max() <= 1
    deep = _prepare((pixels / 255).astype(np.float32), (20, 20), resize=24, interpolation=interpolation)
    assert deep.dtype == np.float32
    assert np.abs(deep * 255 - got).max() <= 1.01
    assert 0 <= deep.min() <= deep.max() <= 1
    sparse = _prepare(pixels, (20, 20), resize=24, interpolation=interpolation, antialias=False)
    plain = v2.Compose([v2.Resize(24, mode, antialias=False), v2.CenterCrop(20)])(tensor)
    assert np.abs(sparse.astype(int) - plain.permute(1, 2, 0).numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (12, 9), (24, 24)])
def test_without_resize_the_picture_just_covers_the_size(height, width):
    pixels = build_pixels(height, width, 1)
    image = Image.fromarray(pixels[..., 0])
    expected = np.asarray(v2.Compose([v2.Resize(24), v2.CenterCrop(24)])(image))
    assert np.array_equal(_prepare(pixels, (24, 24))[..., 0], expected)


def test_a_crop_with_an_odd_margin_begins_where_the_contract_rounds():
    pixels = build_pixels(10, 9, 3)
    assert np.array_equal(
        _prepare(pixels, (8, 6), resize=9), pixels[1:9, 2:8]
    )  # 1.5 is 2 to the nearest even
    assert np.array_equal(_prepare(pixels, (8, 6), resize=9, crop_rounding="down"), pixels[1:9, 1:7])


def test_other_shapes_than_squares_are_covered_too():
    for shape in ((50, 31), (31, 50), (10, 10), (200, 20)):
        assert _prepare(build_pixels(*shape, 3), (24, 40)).shape == (24, 40, 3)
        assert _prepare(build_pixels(*shape, 3), (40, 24)).shape == (40, 24, 3)


def test_the_right_size_is_left_alone_and_flat_pictures_stay_flat():
    pixels = build_pixels(8, 9, 3)
    assert np.array_equal(_prepare(pixels, (8, 9)), pixels)
    assert prepare_pixels(pixels, InputContract()) is pixels
    assert (_prepare(np.full((30, 47, 3), 77, np.uint8), (16, 16)) == 77).all()


def test_preparation_in_words():
    size = (24, 20)
    assert format_preparation(InputContract(input_size=size)) == (
        "resized to cover 24x20, bilinear, and center-cropped"
    )
    assert format_preparation(InputContract(input_size=size, resize=28, interpolation="bicubic")) == (
        "shorter side 28, bicubic, center 24x20"
    )
    assert format_preparation(InputContract()) == ""
