"""Median blur: every pixel becomes the median of its neighborhood before classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from robustbench_local.defenses.wrappers.base import FixedWrapper, GradientMode
from robustbench_local.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class MedianBlur(FixedWrapper):
    """The median of a square window around each pixel, channel by channel, with the border repeated.

    Gradients are exact: the median is one of the pixels, and its gradient goes to that pixel.

    Args:
        size: Side of the window in pixels, odd, at least 3.

    Raises:
        ConfigError: If the side is even or too small.

    Source: Xu, Evans & Qi 2018, arXiv:1704.01155, section IV-B (local smoothing).
    """

    gradient_mode: ClassVar[GradientMode | None] = "exact"

    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 3 or self.size % 2 == 0:
            raise ConfigError(f"the median's window must have an odd side of at least 3, got {self.size}")

    def transform_images(self, images: Tensor) -> Tensor:
        """Return the blurred images."""
        count, channels, height, width = images.shape
        if min(height, width) < self.size:
            raise ModelError(
                f"a median over {self.size} x {self.size} pixels needs larger images than {height} x {width}"
            )
        around = functional.pad(images, [self.size // 2] * 4, mode="replicate")
        windows = functional.unfold(around, self.size).view(count, channels, self.size**2, -1)
        return windows.median(dim=2).values.view(count, channels, height, width)
