"""Gaussian noise: the image is classified under noise that is drawn anew each time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_local.defenses.wrappers.base import GradientMode, RandomWrapper
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomNumbers


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(RandomWrapper):
    """Normal noise on every channel of every pixel, not clipped at 0 and 1, so that gradients are exact.

    It certifies nothing; for certificates, see randomized smoothing.

    Args:
        sigma: Standard deviation in pixel units of [0, 1], above 0.

    Raises:
        ConfigError: If sigma is not positive and finite.

    Source: Li et al. 2019, arXiv:1809.03113 (additive noise at test time).
    """

    gradient_mode: ClassVar[GradientMode | None] = "exact"

    sigma: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(f"the noise's sigma must be above 0 and finite, got {self.sigma}")

    def transform_images(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """Return the images under noise, in one draw."""
        return images + self.sigma * numbers.sample_normal(tuple(images.shape[1:])).to(images.dtype)
