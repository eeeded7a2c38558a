"""Resizing inside the classifier: PIL's results without its rounding, and gradients through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as torchvision_functional

from robustbench_local.classifier import image_resize
from robustbench_local.classifier.image_resize import (
    crop_center,
    find_crop_start,
    find_resized_size,
    resize_images,
)
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.literals import CropRounding
from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.errors import DataError

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SIZES = [
    ((37, 53), (16, 23)),
    ((21, 17), (45, 64)),
    ((64, 40), (64, 21)),
    ((5, 90), (40, 8)),
    ((1, 7), (3, 2)),
]


def _draw_pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Noise with hard edges, at which bicubic and Lanczos filters overshoot."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels))
    pixels[: height // 2] = np.where(pixels[: height // 2] > 127, 255, 0)
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_results_are_those_of_pil_but_for_rounding(
    interpolation: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    pixels = _draw_pixels(*before)
    expected = np.asarray(Image.fromarray(pixels).resize(after[::-1], FILTERS[interpolation]), dtype=float)
    images = torch.tensor(pixels).permute(2, 0, 1)[None] / 255
    resized = resize_images(images, after, interpolation)  # type: ignore[arg-type]
    assert float(resized.min()) >= -1e-6
    assert float(resized.max()) <= 1 + 1e-6
    difference = np.abs(resized[0].permute(1, 2, 0).numpy() * 255 - expected)
    one_axis = before[0] == after[0]
    # PIL rounds after each of its two passes
    assert difference.max() <= (0.001 if interpolation == "nearest" else 0.501 if one_axis else 1.2)


def test_without_antialiasing_few_pixels_count() -> None:
    images = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    sparse = resize_images(images, (8, 8), "bicubic", antialias=False)
    dense = resize_images(images, (8, 8), "bicubic")
    assert float(sparse.std()) > 2 * float(dense.std())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_gradients_are_those_of_finite_differences(interpolation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = (0.3 + 0.4 * torch.rand(1, 2, 6, 7, generator=generator)).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda pixels: resize_images(pixels, (9, 4), interpolation),
        images,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_black_and_white_areas_keep_their_gradients_and_overshoot_has_none(
    interpolation: str, shade: float
) -> None:
    """Where the clamp cuts off rounding alone, an attack still sees which way to go."""
    flat = torch.full((1, 1, 9, 9), shade, requires_grad=True)
    resize_images(flat, (21, 21), interpolation).sum().backward()  # type: ignore[arg-type]
    assert flat.grad is not None
    torch.testing.assert_close(flat.grad.sum(), torch.tensor(441.0))
    edge = torch.zeros(1, 1, 1, 12)
    edge[..., 6:] = 1
    resized = resize_images(edge.requires_grad_(), (1, 36), interpolation)  # type: ignore[arg-type]
    overshoot = (resized == 0) | (resized == 1)
    (slope,) = torch.autograd.grad(resized[overshoot].sum(), edge)
    (whole,) = torch.autograd.grad(
        resize_images(edge, (1, 36), interpolation).sum(),
        edge,  # type: ignore[arg-type]
    )
    assert float(slope[..., 5:7].abs().sum()) < float(whole[..., 5:7].abs().sum())


@pytest.mark.parametrize("size", [(31, 47), (500, 333), (224, 224), (225, 1001)])
@pytest.mark.parametrize("crop", [(24, 24), (23, 17), (40, 40)])
def test_size_and_crop_are_torchvisions(size: tuple[int, int], crop: tuple[int, int]) -> None:
    shorter = 31
    images = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    resized = torchvision_functional.resize(images, [shorter], antialias=True)
    target = find_resized_size(size, shorter, crop)
    assert target == tuple(resized.shape[-2:])
    assert torch.equal(crop_center(resized, crop), torchvision_functional.center_crop(resized, list(crop)))


@pytest.mark.parametrize(("rounding", "starts"), [("nearest", (1, 2, 2, 2, -1)), ("down", (1, 1, 2, 2, -1))])
def test_where_a_crop_begins_between_two_pixels(rounding: CropRounding, starts: tuple[int, ...]) -> None:
    found = tuple(find_crop_start(before, 10, rounding) for before in (12, 13, 14, 15, 8))
    assert found == starts
    row = torch.arange(13.0).expand(1, 1, 10, 13)
    assert crop_center(row, (10, 10), rounding)[0, 0, 0, 0] == starts[1]


def test_size_that_covers_the_crop_or_ignores_the_aspect_ratio() -> None:
    assert find_resized_size((100, 200), None, (50, 50)) == (50, 100)
    assert find_resized_size((200, 100), None, (50, 60)) == (120, 60)
    assert find_resized_size((100, 200), (30, 20), (10, 10)) == (30, 20)
    assert find_resized_size((1, 900), 1, (1, 1)) == (1, 900)
    assert find_resized_size((1, 2**20), 16, (1, 1)) == (16, 2**24)  # 2**28 pixels are the most
    for resize in (17, None):
        with pytest.raises(DataError, match=r"an image of 1x1048576 would be resized to 17x17825792 pixels"):
            find_resized_size((1, 2**20), resize, (17, 17))


def test_the_contract_in_order() -> None:
    """Shorter side, center, channels, scale, mean: compared with torchvision, step by step."""
    contract = InputContract(
        input_size=(20, 24),
        resize=30,
        interpolation="bicubic",
        channel_order="bgr",
        value_scale=255,
        normalization=((100.0, 110.0, 120.0), (1.0, 2.0, 4.0)),
    )
    prepare = Preprocessing(contract, torch.device("cpu"), torch.float32)
    images = 0.3 + 0.4 * torch.rand(2, 3, 41, 67, generator=torch.Generator().manual_seed(2))
    bicubic = torchvision_functional.InterpolationMode.BICUBIC
    expected = torchvision_functional.resize(images, [30], interpolation=bicubic, antialias=True)
    expected = torchvision_functional.center_crop(expected, [20, 24])[:, [2, 1, 0]] * 255
    expected = torchvision_functional.normalize(expected, [100.0, 110.0, 120.0], [1.0, 2.0, 4.0])
    torch.testing.assert_close(prepare(images), expected)
    ready = torch.rand(1, 3, 20, 24)  # already prepared: neither resized nor cropped
    torch.testing.assert_close(prepare(ready)[:, 0], (ready[:, 2] * 255 - 100), rtol=1e-5, atol=1e-4)
    small = torch.rand(1, 3, 10, 10)  # smaller than the crop on every side
    assert prepare(small).shape == (1, 3, 20, 24)


@pytest.mark.parametrize(("beyond", "slope"), [(9.5e-6, 1.0), (1.05e-5, 0.0)])
def test_overshoot_up_to_a_hundred_thousandth_is_rounding(beyond: float, slope: float) -> None:
    values = torch.tensor([-beyond, 1 + beyond], dtype=torch.float64, requires_grad=True)
    clamped = image_resize._clamp_overshoot(values)
    assert clamped.tolist() == [0.0, 1.0]
    clamped.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [slope, slope]
