"""Resizing: as torchvision's presets do it, and on the 8-bit grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import build_pixels
from PIL import Image
from torchvision.transforms import v2

from robustbench_local.data.resize import resize_and_crop


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (17, 90), (33, 33), (12, 9)])
def test_shorter_side_and_centre_as_torchvision(height, width):
    picture = build_pixels(height, width, 3)
    preset = v2.Compose([v2.Resize(24, antialias=True), v2.CenterCrop(20)])
    expected = preset(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    got = resize_and_crop(picture, (20, 20), resize=24)
    assert got.shape == expected.shape == (20, 20, 3)
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (12, 9), (24, 24)])
def test_without_resize_the_picture_just_covers_the_size(height, width):
    picture = build_pixels(height, width, 1)
    expected = v2.Compose([v2.Resize(24, antialias=True), v2.CenterCrop(24)])(
        torch.from_numpy(picture).permute(2, 0, 1)
    )
    got = torch.from_numpy(resize_and_crop(picture, (24, 24)).copy()).permute(2, 0, 1)
    assert (got.int() - expected.int()).abs().max() <= 1


def test_stretching_as_pillow():
    picture = build_pixels(50, 31, 3)
    expected = np.asarray(Image.fromarray(picture).resize((16, 20), Image.Resampling.BILINEAR))
    got = resize_and_crop(picture, (20, 16), resize="stretch")
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_other_shapes_than_squares_are_covered_too():
    for shape in ((50, 31), (31, 50), (10, 10), (200, 20)):
        assert resize_and_crop(build_pixels(*shape, 3), (24, 40)).shape == (24, 40, 3)
        assert resize_and_crop(build_pixels(*shape, 3), (40, 24)).shape == (40, 24, 3)


def test_the_right_size_is_left_alone_and_dtypes_are_kept():
    picture = build_pixels(8, 9, 3)
    assert np.array_equal(resize_and_crop(picture, (8, 9)), picture)
    deep = (build_pixels(20, 20, 1) / 255).astype(np.float32)
    small = resize_and_crop(deep, (7, 7))
    assert small.dtype == np.float32
    assert resize_and_crop(picture, (5, 5)).dtype == np.uint8
    assert 0 <= small.min() <= small.max() <= 1


def test_a_flat_picture_stays_flat():
    assert (resize_and_crop(np.full((30, 47, 3), 77, np.uint8), (16, 16)) == 77).all()
