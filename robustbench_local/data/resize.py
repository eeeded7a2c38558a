"""Resizing of images to one declared size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn.functional import interpolate

from robustbench_local.data.decode import Pixels


def resize_and_crop(
    pixels: Pixels, size: tuple[int, int], resize: int | Literal["stretch"] | None = None
) -> Pixels:
    """Resize bilinearly with antialiasing, keep the aspect ratio, and crop the center.

    Args:
        pixels: (H, W, C), uint8 or float32 in [0, 1].
        size: Height and width of the result.
        resize: Length of the shorter side before the crop, as torchvision's evaluation presets do with 256
            for 224; None makes the image just cover ``size``; ``"stretch"`` ignores the aspect ratio instead
            of cropping.

    Returns:
        (*size, C), same dtype: 8-bit images stay on the 8-bit grid, so that the 8-bit check of an adversarial
        example is exact (trust invariant V4).
    """
    height, width = pixels.shape[:2]
    if resize == "stretch":
        target = size
    elif resize is not None:
        shorter = min(height, width)
        target = (height * resize // shorter, width * resize // shorter)
    elif size[0] * width >= size[1] * height:
        target = (size[0], width * size[0] // height)
    else:
        target = (height * size[1] // width, size[1])
    if target != (height, width):
        pixels = _interpolate_pixels(pixels, target)
    top, left = round((target[0] - size[0]) / 2), round((target[1] - size[1]) / 2)
    return pixels[top : top + size[0], left : left + size[1]]


def _interpolate_pixels(pixels: Pixels, target: tuple[int, int]) -> Pixels:
    images = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    resized = interpolate(images, size=target, mode="bilinear", antialias=True, align_corners=False)
    on_grid = resized.round() if pixels.dtype == np.uint8 else resized
    clipped = on_grid.clamp(0, 255 if pixels.dtype == np.uint8 else 1)
    return clipped[0].permute(1, 2, 0).numpy().astype(pixels.dtype)
