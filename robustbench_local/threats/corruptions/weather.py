"""Weather corruptions: snow, frost, fog, brightness."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from robustbench_local.threats.corruptions.filters import magnify_planes, sample_cloud, smear_streak
from robustbench_local.threats.warp import sample_bilinear

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""
_ICE_TINT = (-0.09, 0.0, 0.045)
"""Difference of ice from gray, in red, green and blue."""


def apply_snow(
    image: Tensor,
    mean: float,
    spread: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    keep: float,
    *,
    draws: Generator,
) -> Tensor:
    """Add bright streaks to a paler image.

    Args:
        image: (C, H, W).
        mean: Mean of the normal noise from which flakes are made.
        spread: Its standard deviation.
        zoom: Enlargement of the flakes.
        threshold: Noise below it is removed.
        radius: Half the length of the streaks in pixels.
        sigma: Width of the half Gaussian along which they fade.
        keep: Weight of the original image against its paler copy.
        draws: Random numbers.
    """
    noise = mean + spread * torch.randn(1, *image.shape[-2:], generator=draws)
    flakes = magnify_planes(noise, torch.tensor([zoom]))[0]
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    degrees = 90 * float(torch.rand((), generator=draws)) - 135
    flakes = smear_streak(flakes, int(radius), sigma, degrees)
    pale = torch.maximum(image, _compute_luma(image) * 1.5 + 0.5)
    return keep * image + (1 - keep) * pale + flakes + flakes.flip(-2, -1)


def apply_frost(image: Tensor, keep: float, share: float, *, draws: Generator) -> Tensor:
    """Add ``share`` of a sheet of ice to ``keep`` of the image.

    The paper overlays crops of six photographs of frosted glass. These cannot be shipped, so the ice is
    rendered: veils, ferns and needles, with the brightness, tint and variety of such photographs.
    """
    return keep * image + share * _sample_ice(image, draws)


def apply_fog(image: Tensor, density: float, decay: float, *, draws: Generator) -> Tensor:
    """Add a fractal cloud of this density, scaled so that the brightest value keeps its brightness."""
    height, width = image.shape[-2:]
    brightest = float(image.max())
    foggy = image + density * sample_cloud(height, width, decay, draws)
    return foggy * (brightest / (brightest + density))


def apply_brightness(image: Tensor, amount: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Raise the value of each pixel, as in hue, saturation, value, by ``amount``."""
    value = image.amax(dim=0, keepdim=True)
    lighter = (value + amount).clamp(max=1.0)
    return torch.where(value > 0, image * (lighter / value.clamp_min(1e-12)), lighter)


def _compute_luma(image: Tensor) -> Tensor:
    """Compute the luma, (1, H, W)."""
    if len(image) != 3:
        return image.mean(dim=0, keepdim=True)
    weighted: Tensor = image * image.new_tensor(_LUMA).view(3, 1, 1)
    return weighted.sum(dim=0, keepdim=True)


def _sample_ice(image: Tensor, draws: Generator) -> Tensor:
    """Sample a random sheet of ice of the size of the image, (C, H, W)."""
    height, width = image.shape[-2:]
    veil = sample_cloud(height, width, 1.6, draws)
    ferns = (1 - (2 * veil.flip(0) - 1).abs()) ** 6
    needles = _bend_plane(_sample_needles(height, width, draws), veil)
    pattern = _standardize_plane(veil) + 0.5 * _standardize_plane(ferns) + _standardize_plane(needles)
    level, spread = torch.rand(2, generator=draws).tolist()
    sheet: Tensor = 0.4 + 0.35 * level + (0.1 + 0.08 * spread) * _standardize_plane(pattern)
    tint = torch.tensor(_ICE_TINT if len(image) == 3 else (0.0,) * len(image)).view(-1, 1, 1)
    return (sheet + tint).clamp(0, 1)


def _sample_needles(height: int, width: int, draws: Generator) -> Tensor:
    """Extend sparse seeds along the three axes of ice, 60 degrees apart, each in either direction."""
    length = max(2, min(height, width) // 10)
    first = 60 * float(torch.rand((), generator=draws))
    seeds = (torch.rand(3, height, width, generator=draws) < 0.1 / length).float()
    sides = (torch.rand(3, generator=draws) < 0.5).tolist()
    drawn = torch.zeros(height, width)
    for axis, is_reversed in enumerate(sides):
        drawn += smear_streak(seeds[axis : axis + 1], length, length, first + 60 * axis + 180 * is_reversed)[
            0
        ]
    return drawn


def _bend_plane(plane: Tensor, hills: Tensor) -> Tensor:
    """Bend the straight lines of a plane along the hills."""
    height, width = plane.shape
    amount = min(height, width) / 3
    rows = torch.arange(height)[:, None] + amount * (hills - 0.5)
    columns = torch.arange(width) + amount * (hills.flip(1) - 0.5)
    return sample_bilinear(plane[None, None], rows[None], columns[None], outside="reflection")[0, 0]


def _standardize_plane(plane: Tensor) -> Tensor:
    """Standardize to mean 0 and standard deviation 1; a flat plane becomes 0."""
    return (plane - plane.mean()) / plane.std(correction=0).clamp_min(1e-6)
