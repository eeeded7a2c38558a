"""Noise corruptions: Gaussian noise, shot noise, impulse noise."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def apply_gaussian_noise(image: Tensor, scale: float, *, draws: Generator) -> Tensor:
    """Add normal noise of standard deviation ``scale``, as in low light."""
    return image + scale * torch.randn(image.shape, generator=draws)


def apply_shot_noise(image: Tensor, photons: float, *, draws: Generator) -> Tensor:
    """Apply Poisson noise, with a mean of ``photons`` for a white pixel."""
    return torch.poisson(image * photons, generator=draws) / photons


def apply_impulse_noise(image: Tensor, share: float, *, draws: Generator) -> Tensor:
    """Apply salt and pepper: this share of the values turns black or white, with even odds."""
    chance = torch.rand(image.shape, generator=draws)
    return image.masked_fill(chance < share, 1.0).masked_fill(chance < share / 2, 0.0)
