"""The fifteen corruptions: what each must do exactly, and what all have in common."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from robustbench_local.errors import DataError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.corruptions import CORRUPTION_FUNCTIONS, corrupt_images
from robustbench_local.threats.corruptions.blur import apply_defocus_blur, apply_glass_blur
from robustbench_local.threats.corruptions.digital import apply_elastic_transform
from robustbench_local.threats.corruptions.filters import (
    magnify_planes,
    sample_cloud,
    smear_streak,
    smooth_planes,
)
from robustbench_local.threats.corruptions.noise import (
    apply_gaussian_noise,
    apply_impulse_noise,
    apply_shot_noise,
)
from robustbench_local.threats.corruptions.severity_levels import (
    CIFAR10_C_STRENGTHS,
    IMAGENET_C_STRENGTHS,
    select_scale,
)
from robustbench_local.threats.corruptions.weather import apply_brightness, apply_fog
from robustbench_local.threats.threat_model import CORRUPTIONS

IDS = ("a", "b", "c")
STREAM = RandomStream(0, IDS, "any")
DRAWN = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
         "elastic_transform"}  # fmt: skip

NOT_ORDERED = {"elastic_transform", "fog", "frost", "glass_blur", "pixelate"}
"""Their published strengths do not rise with the size of the change on every picture."""


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Three smooth, colourful 8-bit pictures of 32 pixels, like photographs in their spectrum."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def test_every_name_has_a_function_and_ten_strengths():
    assert (
        tuple(CORRUPTION_FUNCTIONS)
        == tuple(CIFAR10_C_STRENGTHS)
        == tuple(IMAGENET_C_STRENGTHS)
        == CORRUPTIONS
    )
    assert all(
        len(strengths) == 5
        for table in (CIFAR10_C_STRENGTHS, IMAGENET_C_STRENGTHS)
        for strengths in table.values()
    )
    assert [select_scale(32, 32), select_scale(64, 200), select_scale(224, 224)] == [
        "small",
        "small",
        "large",
    ]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_8_bit_deterministic_and_the_images_own(pictures: Tensor, name: str):
    whole = corrupt_images(pictures, name, 5, STREAM)
    levels = whole * 255
    assert whole.shape == pictures.shape
    assert whole.dtype == torch.float32
    assert float(levels.min()) >= 0
    assert float(levels.max()) <= 255
    assert torch.equal(levels.round() / 255, whole)
    assert float((whole - pictures).abs().mean()) > 0.005
    part = corrupt_images(pictures[[2, 0]], name, 5, RandomStream(0, ("c", "a"), "another attack"))
    assert torch.equal(part, whole[[2, 0]])
    other_seed = corrupt_images(pictures, name, 5, RandomStream(1, IDS, "any"))
    assert torch.equal(other_seed, whole) == (name not in DRAWN)
    assert torch.equal(corrupt_images(pictures, name, 0, STREAM), pictures)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 33), (3, 4, 4)], ids=str)
def test_gray_odd_and_tiny_images_are_fine(name: str, shape: tuple[int, int, int]):
    images = torch.rand(1, *shape, generator=draws())
    for scale in ("small", "large"):
        assert torch.isfinite(corrupt_images(images, name, 5, RandomStream(0, ("x",), ""), scale=scale)).all()


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(DataError, match="1 or 3 channels"):
        corrupt_images(torch.rand(1, 4, 8, 8), "fog", 3, RandomStream(0, ("x",), ""))


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - NOT_ORDERED))
def test_severities_rise(pictures: Tensor, name: str):
    for scale in ("small", "large"):
        change = [
            float((corrupt_images(pictures, name, severity, STREAM, scale=scale) - pictures).square().mean())
            for severity in range(1, 6)
        ]
        assert all(one < two * 1.02 for one, two in itertools.pairwise(change)), change


def test_noise_has_the_moments_it_says():
    flat = torch.full((3, 200, 200), 0.5)
    normal = apply_gaussian_noise(flat, 0.08, draws=draws()) - flat
    assert float(normal.mean()) == pytest.approx(0, abs=1e-3)
    assert float(normal.std()) == pytest.approx(0.08, rel=0.01)
    photons = apply_shot_noise(flat, 50, draws=draws())
    assert float(photons.mean()) == pytest.approx(0.5, rel=0.01)
    assert float(photons.std()) == pytest.approx(math.sqrt(0.5 / 50), rel=0.01)
    salted = apply_impulse_noise(flat, 0.1, draws=draws())
    assert float((salted == 1).float().mean()) == pytest.approx(0.05, rel=0.05)
    assert float((salted == 0).float().mean()) == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(("mirrored", "mode"), [(False, "nearest"), (True, "reflect")])
@pytest.mark.parametrize("sigma", [0.7, 3.0, 40.0])
def test_smoothing_is_scipys(mirrored: bool, mode: str, sigma: float):
    plane = torch.rand(1, 13, 17, generator=draws())
    theirs = gaussian_filter(plane[0].numpy(), sigma, truncate=4.0, mode=mode)
    np.testing.assert_allclose(smooth_planes(plane, sigma, mirrored=mirrored)[0].numpy(), theirs, atol=1e-5)


def test_a_point_out_of_focus_is_a_disc():
    point = torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    disc = apply_defocus_blur(point, 3, 0.1, draws=draws())[0]
    rows, columns = torch.meshgrid(torch.arange(21) - 10, torch.arange(21) - 10, indexing="ij")
    inside = rows**2 + columns**2 <= 9
    assert torch.allclose(disc, inside / inside.sum(), atol=1e-4)


def test_behind_glass_every_pixel_is_still_somewhere_near():
    image = torch.arange(400.0).view(1, 20, 20)
    traded = apply_glass_blur(image, 0, 1, 2, draws=draws())
    assert torch.equal(traded.flatten().sort().values, image.flatten())
    assert 0.5 < float((traded != image).float().mean()) < 1


def test_a_streak_runs_along_its_direction():
    point = torch.zeros(1, 31, 31)
    point[0, 15, 15] = 1
    along = smear_streak(point, 3, 2.0, 0)[0]
    assert float(along[15].sum()) == pytest.approx(1)
    assert (along[15] > 0).sum() == 7
    down = smear_streak(point, 3, 2.0, 90)[0]
    assert torch.allclose(down, along.t())


def test_the_middle_of_an_enlargement_stays_where_it_is():
    ramp = torch.linspace(0, 1, 9).expand(1, 9, 9)
    unchanged, doubled = magnify_planes(ramp, torch.tensor([1.0, 2.0]))
    assert torch.allclose(unchanged, ramp, atol=1e-6)
    assert torch.allclose(doubled[0, 4], torch.linspace(0.25, 0.75, 9), atol=1e-6)


def test_a_cloud_spans_its_range_and_smaller_scales_fade():
    rough, soft = (sample_cloud(60, 64, decay, draws()) for decay in (1.4, 3.0))
    for each in (rough, soft):
        assert each.shape == (60, 64)
        assert (float(each.min()), float(each.max())) == pytest.approx((0, 1), abs=0.2)
    assert rough.diff(dim=0).abs().mean() > 2 * soft.diff(dim=0).abs().mean()


def test_fog_keeps_the_brightest_pixel_in_range_and_brightness_keeps_the_hue(pictures: Tensor):
    foggy = apply_fog(pictures[0], 1.5, 1.75, draws=draws())
    assert float(foggy.max()) <= float(pictures[0].max()) + 1e-6
    lighter = apply_brightness(pictures[0], 0.2, draws=draws())
    value = pictures[0].amax(dim=0)
    assert torch.allclose(lighter.amax(dim=0), (value + 0.2).clamp(max=1), atol=1e-6)
    lit = value > 0
    assert torch.allclose((lighter / lighter.amax(0))[:, lit], (pictures[0] / value)[:, lit], atol=1e-5)
    black = apply_brightness(torch.zeros(3, 2, 2), 0.2, draws=draws())
    assert torch.allclose(black, torch.full((3, 2, 2), 0.2))


def test_an_elastic_transform_of_strength_nought_only_tilts(pictures: Tensor):
    still = apply_elastic_transform(pictures[0], 0, 0, 0, draws=draws())
    assert torch.allclose(still, pictures[0], atol=1e-4)
    tilted = apply_elastic_transform(pictures[0], 0, 0, 0.08, draws=draws())
    assert float((tilted - pictures[0]).abs().mean()) > 0.01
