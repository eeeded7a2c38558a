"""Random resizing and padding: the image is shrunk at random and placed at random in a black frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.defenses.wrappers.base import GradientMode, RandomWrapper
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomNumbers


@dataclass(frozen=True, kw_only=True)
class ResizePad(RandomWrapper):
    """Shrinks the image to a random size and places it at a random position; the rest is black.

    The paper enlarges an image of 299 px to at most 331 px and pads it to that size. Here the input size of
    the classifier is unchanged, and the image shrinks in the same proportion. Sizes and positions are whole
    pixels, interpolation is bilinear, and gradients are exact for each draw.

    Args:
        smallest: Smallest height of the shrunk image as a fraction of its height, above 0 and at most 1.

    Raises:
        ConfigError: If the share is out of range.

    Source: Xie et al. 2018, arXiv:1711.01991, section 3; broken by Athalye et al. 2018, arXiv:1802.00420,
    section 5.4.
    """

    gradient_mode: ClassVar[GradientMode | None] = "exact"

    smallest: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise ConfigError(f"the smallest size must be above 0 and at most 1, got {self.smallest}")

    def transform_images(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """Return the images in their frames, in one draw."""
        frame = images.new_tensor(images.shape[-2:])
        size, corner = self._sample_placement(frame, numbers.sample_uniform((3,)).to(images.dtype))
        rows, columns = (
            _compute_source_positions(int(side), size[:, axis], corner[:, axis])
            for axis, side in enumerate(frame.tolist())
        )
        count, high, wide = len(images), rows.shape[1], columns.shape[1]
        grid = torch.stack(
            [columns[:, None, :].expand(count, high, wide), rows[:, :, None].expand(count, high, wide)], dim=3
        )
        # inside the image, its border is repeated for interpolation; the frame starts outside
        drawn = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        inside = (rows.abs() <= 1)[:, :, None] & (columns.abs() <= 1)[:, None, :]
        return drawn * inside[:, None]

    def _sample_placement(self, frame: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw height and width, and the upper left corner, of each image in whole pixels, both (N, 2)."""
        least = (self.smallest * frame[0]).ceil()
        height = least + _scale_to_integers(uniform[:, 0], frame[0] - least + 1)
        size = torch.stack([height, (height * frame[1] / frame[0]).round().clamp_min(1)], dim=1)
        return size, _scale_to_integers(uniform[:, 1:], frame - size + 1)


def _scale_to_integers(uniform: Tensor, limit: Tensor) -> Tensor:
    """Return whole numbers from 0 to ``limit`` - 1."""
    return torch.minimum((uniform * limit).floor(), limit - 1)


def _compute_source_positions(side: int, size: Tensor, corner: Tensor) -> Tensor:
    """Return source positions of a row's or column's pixels, (N, side), with edges at -1 and 1."""
    places = torch.arange(side, device=size.device, dtype=size.dtype) + 0.5
    return (places - corner[:, None]) * 2 / size[:, None] - 1
