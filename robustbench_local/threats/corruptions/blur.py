"""Blur corruptions: defocus, frosted glass, motion, zoom."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import conv2d

from robustbench_local.threats.corruptions.filters import (
    magnify_planes,
    mirror_indices,
    smear_streak,
    smooth_planes,
)


def apply_defocus_blur(image: Tensor, radius: float, softness: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Spread every point over a disc of ``radius`` pixels, softened by a Gaussian of ``softness``."""
    soft_reach = 1 if radius <= 8 else 2
    reach = math.ceil(radius) + soft_reach
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disc = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).float()
    kernel = smooth_planes((disc / disc.sum())[None], softness, truncate=soft_reach / softness)
    height, width = image.shape[-2:]
    rows = mirror_indices(torch.arange(-reach, height + reach), height)
    columns = mirror_indices(torch.arange(-reach, width + reach), width)
    return conv2d(image[:, rows][:, :, columns][:, None], kernel[None]).squeeze(1)


def apply_glass_blur(image: Tensor, sigma: float, reach: float, rounds: float, *, draws: Generator) -> Tensor:
    """Swap neighbouring pixels, ``rounds`` times, between two Gaussian smoothings of ``sigma``."""
    height, width = image.shape[-2:]
    max_offset = int(reach)
    order = list(range(height * width))
    rows, columns = range(height - max_offset, max_offset, -1), range(width - max_offset, max_offset, -1)
    offsets = torch.randint(
        -max_offset, max_offset, (int(rounds), len(rows) * len(columns), 2), generator=draws
    )
    moves = iter((offsets[..., 0] * width + offsets[..., 1]).flatten().tolist())
    for _ in range(int(rounds)):
        for row in rows:
            for source in range(row * width + columns.start, row * width + max_offset, -1):
                target = source + next(moves)
                order[source], order[target] = order[target], order[source]
    swapped = smooth_planes(image, sigma).flatten(1)[:, torch.tensor(order)].view_as(image)
    return smooth_planes(swapped, sigma)


def apply_motion_blur(image: Tensor, radius: float, sigma: float, *, draws: Generator) -> Tensor:
    """Smear along a streak within 45 degrees of the horizontal."""
    degrees = 90 * float(torch.rand((), generator=draws)) - 45
    return smear_streak(image, int(radius), sigma, degrees)


def apply_zoom_blur(image: Tensor, largest: float, step: float, *, draws: Generator) -> Tensor:  # noqa: ARG001
    """Average the image and its enlargements up to ``largest`` in steps of ``step``."""
    factors = 1 + step * torch.arange(round((largest - 1) / step) + 1)
    return (image + magnify_planes(image, factors).sum(dim=0)) / (len(factors) + 1)
