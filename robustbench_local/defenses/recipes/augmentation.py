"""Augmentations of a training image that never turn one sign into another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random augmentation of a batch; random numbers are drawn on the CPU, the same for every device.

    Attributes:
        shift: Largest shift in pixels, with the border repeated.
        brightness: The gain is drawn from 1 - brightness to 1 + brightness.
        contrast: The distance to the image's mean gray is scaled likewise.
        saturation: The distance to each pixel's gray is scaled likewise.
        rotation: Largest rotation in degrees, with the border repeated.
        zoom: The size is drawn from 1 - zoom to 1 + zoom.
        flip: Classes whose images are mirrored half the time.
    """

    shift: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    flip: frozenset[int] = frozenset()

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Augment each image independently.

        Args:
            images: (N, C, H, W) in [0, 1]; not changed.
            labels: (N,), on the CPU.
            generator: Random generator on the CPU.

        Returns:
            As ``images``.
        """
        images = _shift_images(images, self.shift, generator)
        gain = _sample_gains(images, self.brightness, generator)
        if self.flip:
            images = _mirror_images(images, labels, self.flip, generator)
        if self.rotation or self.zoom:
            images = _rotate_images(images, self.rotation, self.zoom, generator)
        if self.saturation:
            images = _stretch_contrast(
                images, _convert_to_grey(images), _sample_gains(images, self.saturation, generator)
            )
        if self.contrast:
            mean = _convert_to_grey(images).mean(dim=(1, 2, 3), keepdim=True)
            images = _stretch_contrast(images, mean, _sample_gains(images, self.contrast, generator))
        return (images * gain).clamp(0, 1)


def _shift_images(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    count, channels, height, width = images.shape
    padded = nn.functional.pad(images, (shift,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height)).view(count, 1, height, 1).to(images.device)
    columns = (left + torch.arange(width)).view(count, 1, 1, width).to(images.device)
    places, planes = torch.arange(count, device=images.device), torch.arange(channels, device=images.device)
    return padded[places.view(-1, 1, 1, 1), planes.view(-1, 1, 1), rows, columns]


def _sample_gains(images: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Draw one factor per image, from 1 - spread to 1 + spread."""
    drawn = 1 + spread * (2 * torch.rand((len(images), 1, 1, 1), generator=generator) - 1)
    return drawn.to(images.device)


def _mirror_images(
    images: Tensor, labels: Tensor, classes: frozenset[int], generator: torch.Generator
) -> Tensor:
    chosen = torch.rand(len(images), generator=generator) < 0.5
    chosen &= torch.isin(labels, torch.tensor(sorted(classes)))
    chosen = chosen.to(images.device)
    transforms = _import_transforms()
    return torch.where(chosen.view(-1, 1, 1, 1), transforms.horizontal_flip(images), images)


def _rotate_images(images: Tensor, rotation: float, zoom: float, generator: torch.Generator) -> Tensor:
    """Rotate and scale each image about its center."""
    angle, size = 2 * torch.rand((2, len(images)), generator=generator) - 1
    angle, size = angle * math.radians(rotation), 1 + zoom * size
    height, width = images.shape[2:]
    cosine, sine, zero = angle.cos() / size, angle.sin() / size, torch.zeros_like(angle)
    # The sampling grid spans -1 to 1 on both sides: rotating a non-square image mixes the two scales.
    rows = [cosine, -sine * height / width, zero, sine * width / height, cosine, zero]
    matrix = torch.stack(rows, dim=1).view(-1, 2, 3).to(images.device)
    grid = nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _convert_to_grey(images: Tensor) -> Tensor:
    return _import_transforms().rgb_to_grayscale(images) if images.shape[1] == 3 else images


def _import_transforms() -> Any:
    """Import torchvision's image functions on demand: the import takes seconds and few recipes need it."""
    return import_module("torchvision.transforms.v2.functional")


def _stretch_contrast(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """Move values away from the center, or towards it."""
    return (centre + factor * (images - centre)).clamp(0, 1)
