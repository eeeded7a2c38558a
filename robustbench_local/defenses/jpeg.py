"""JPEG: the image is compressed and read again before the classifier sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from robustbench_local.defenses.base import FixedWrapper, Surrogate
from robustbench_local.defenses.bpda import straight_through
from robustbench_local.errors import ConfigError, ModelError


@dataclass(frozen=True, kw_only=True)
class JPEG(FixedWrapper):
    """JPEG compression by the real codec, with the usual halved colour resolution.

    Gradients go back as if it were not there (BPDA with the identity): what it takes away is small, and its
    own gradient is zero almost everywhere.

    Args:
        quality: 1 to 100; lower takes more away.

    Raises:
        ConfigError: If the quality is out of range.

    Source: Dziugaite, Ghahramani & Roy 2016, arXiv:1608.00853; broken by Athalye et al. 2018,
    arXiv:1802.00420.
    """

    surrogate: ClassVar[Surrogate | None] = "bpda"

    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"JPEG's quality must be from 1 to 100, got {self.quality}")

    def transform(self, images: Tensor) -> Tensor:
        """The images as they look after compression, rounded to 8 bits on the way in."""
        if images.shape[1] not in (1, 3):
            raise ModelError(f"JPEG holds 1 or 3 channels, these images have {images.shape[1]}")
        return straight_through(self._compressed, images)

    def _compressed(self, images: Tensor) -> Tensor:
        levels = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        files = [encode_jpeg(each, quality=self.quality) for each in levels]
        read = torch.stack([decode_jpeg(file) for file in files])
        return (read.float() / 255).to(images.device, images.dtype)
