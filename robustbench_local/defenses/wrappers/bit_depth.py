"""Bit-depth reduction: colors are rounded to a few levels before classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_local.bpda import apply_straight_through
from robustbench_local.defenses.wrappers.base import FixedWrapper, GradientMode
from robustbench_local.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BitDepth(FixedWrapper):
    """Rounding of every channel of every pixel to the nearest of 2**bits evenly spaced levels.

    Gradients pass through unchanged (BPDA with the identity): the gradient of rounding is zero almost
    everywhere.

    Args:
        bits: Bits per channel, 1 to 8.

    Raises:
        ConfigError: If the number of bits is out of range.

    Source: Xu, Evans & Qi 2018, arXiv:1704.01155, section IV-A; broken by Athalye et al. 2018,
    arXiv:1802.00420, section 5.3.1.
    """

    gradient_mode: ClassVar[GradientMode | None] = "bpda"

    bits: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ConfigError(f"bit depth must be from 1 to 8 bits, got {self.bits}")

    def transform_images(self, images: Tensor) -> Tensor:
        """Return the images in fewer colors."""
        levels = 2**self.bits - 1
        return apply_straight_through(lambda pixels: (pixels * levels).round() / levels, images)
