"""JPEG: the image is compressed and decompressed before classification."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from robustbench_local.bpda import apply_straight_through
from robustbench_local.defenses.wrappers.base import FixedWrapper, GradientMode
from robustbench_local.errors import ConfigError, ModelError

PixelLevels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class JPEG(FixedWrapper):
    """JPEG compression by Pillow's codec, with its default of halved color resolution.

    Gradients pass through unchanged (BPDA with the identity): the change to the image is small, and the
    gradient of compression is zero almost everywhere.

    Args:
        quality: 1 to 100; lower values remove more detail.

    Raises:
        ConfigError: If the quality is out of range.

    Source: Dziugaite, Ghahramani & Roy 2016, arXiv:1608.00853; broken by Athalye et al. 2018,
    arXiv:1802.00420.
    """

    gradient_mode: ClassVar[GradientMode | None] = "bpda"

    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"JPEG's quality must be from 1 to 100, got {self.quality}")

    def transform_images(self, images: Tensor) -> Tensor:
        """Return the images after compression; they are rounded to 8 bits before it."""
        if images.shape[1] not in (1, 3):
            raise ModelError(f"JPEG supports 1 or 3 channels, these images have {images.shape[1]}")
        return apply_straight_through(self._compress_images, images)

    def _compress_images(self, images: Tensor) -> Tensor:
        levels = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        pictures = levels.permute(0, 2, 3, 1).numpy()
        read = np.stack([self._recode_picture(picture) for picture in pictures])
        return (torch.from_numpy(read).permute(0, 3, 1, 2).float() / 255).to(images.device, images.dtype)

    def _recode_picture(self, picture: PixelLevels) -> PixelLevels:
        """Encode one picture, (H, W, C) of 8 bits, as JPEG and decode it again."""
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(
            file, "JPEG", quality=self.quality
        )
        return np.asarray(Image.open(file)).reshape(picture.shape)
