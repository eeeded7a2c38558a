"""Differentiable resizing and cropping of images, as PIL and torchvision do it before published models.

The filters are those of PIL with antialiasing, in float32 and without rounding to 8 bits, through which no
gradient passes: results differ from PIL's by half a gray level where one axis is resized, by one where both
are. Bicubic and Lanczos filters overshoot at edges; as 8-bit images cannot, results are clamped to [0, 1].
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.bpda import apply_straight_through
from robustbench_local.classifier.literals import CropRounding, Interpolation
from robustbench_local.errors import DataError

_LANCZOS_LOBES = 3
MAX_RESIZED_PIXELS = 2**28
"""Most pixels of a resized image before its center is cropped: 268 million, more than any camera gives."""
MAX_ROUNDING = 1e-5
"""Overshoot that may be rounding: there, the clamp lets gradients pass. In torch, a clamp's gradient is 0 at
the border itself, where all black areas are."""


def find_resized_size(
    before: tuple[int, int], resize: int | tuple[int, int] | None, crop: tuple[int, int]
) -> tuple[int, int]:
    """Return the size (H, W) that an image is resized to before its center is cropped.

    Args:
        before: (H, W) of the image.
        resize: Length of the shorter side, to which the other is rounded down as torchvision does; (H, W)
            regardless of the aspect ratio; None for the smallest size that covers ``crop``.
        crop: (H, W) of the crop.

    Raises:
        DataError: If the image is so narrow that it would not fit into memory.
    """
    height, width = before
    if isinstance(resize, tuple):
        return resize
    if resize is not None:
        shorter = min(before)
        size = max(1, height * resize // shorter), max(1, width * resize // shorter)
    elif crop[0] * width >= crop[1] * height:
        size = crop[0], width * crop[0] // height
    else:
        size = height * crop[1] // width, crop[1]
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise DataError(
            f"an image of {height}x{width} would be resized to {size[0]}x{size[1]} pixels",
            remedy="remove it, or stretch the images: resize: stretch",
        )
    return size


def find_crop_start(before: int, after: int, rounding: CropRounding = "nearest") -> int:
    """Return where a center crop begins along one axis; below 0: it is padded."""
    if before < after:
        return -((after - before) // 2)
    return (before - after) // 2 if rounding == "down" else round((before - after) / 2)


def crop_center(images: Tensor, size: tuple[int, int], rounding: CropRounding = "nearest") -> Tensor:
    """Crop the center of images (N, C, H, W); smaller ones are padded with black, as torchvision does."""
    top, left = (find_crop_start(images.shape[axis], size[axis], rounding) for axis in (-2, -1))
    if images.shape[-2:] == size:
        return images
    bottom, right = size[0] - images.shape[-2] + top, size[1] - images.shape[-1] + left
    return functional.pad(images, (-left, right, -top, bottom))


def resize_images(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation, *, antialias: bool = True
) -> Tensor:
    """Resize images (N, C, H, W) in [0, 1] to (H, W) differentiably; up to rounding, so is the result."""
    if images.shape[-2:] == size:
        return images
    if interpolation == "nearest":
        return functional.interpolate(images, size, mode="nearest-exact")  # PIL's choice of pixels
    if interpolation == "bilinear":
        return functional.interpolate(images, size, mode="bilinear", antialias=antialias)
    # PIL resizes rows first, and cuts off what overshoots before it resizes columns.
    rows_done = _resize_axis(images, size[1], interpolation, antialias=antialias)
    return _resize_axis(rows_done.mT, size[0], interpolation, antialias=antialias).mT


def _resize_axis(images: Tensor, length: int, interpolation: Interpolation, *, antialias: bool) -> Tensor:
    """Resize the last axis, and clamp to [0, 1]."""
    height, width = images.shape[-2:]
    if width == length:
        return images
    if interpolation == "bicubic":
        return _clamp_overshoot(
            functional.interpolate(images, (height, length), mode="bicubic", antialias=antialias)
        )
    return _clamp_overshoot(images @ _build_lanczos_weights(width, length).to(images).T)


@lru_cache(maxsize=16)
def _build_lanczos_weights(before: int, after: int) -> Tensor:
    """Return the weights of pixels in a resized row, (after, before), float64; rows sum to 1."""
    scale = before / after
    stretch = max(scale, 1.0)  # shrinking widens the filter: antialiasing
    centers = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    distances = (torch.arange(before, dtype=torch.float64) + 0.5 - centers[:, None]) / stretch
    weights = torch.sinc(distances) * torch.sinc(distances / _LANCZOS_LOBES)
    reach = _LANCZOS_LOBES * stretch
    # PIL takes the pixels whose rounded positions are within reach.
    first = (centers - reach + 0.5).floor().clamp_min(0)[:, None]
    last = (centers + reach + 0.5).floor()[:, None]
    positions = torch.arange(before, dtype=torch.float64)
    weights = weights * ((positions >= first) & (positions < last) & (distances.abs() < _LANCZOS_LOBES))
    return weights / weights.sum(dim=1, keepdim=True)


def _clamp_overshoot(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; the gradient is that of the clamp, except where only rounding is cut off."""
    clamped = apply_straight_through(lambda pixels: pixels.clamp(0, 1), images)
    is_inside = (images >= -MAX_ROUNDING) & (images <= 1 + MAX_ROUNDING)
    return torch.where(is_inside, clamped, clamped.detach())
