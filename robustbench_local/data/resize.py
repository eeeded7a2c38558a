"""Preparation of images of many sizes: resized and cropped as the field prepares photographs for models."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from robustbench_local.classifier.image_resize import find_crop_start, find_resized_size, resize_images
from robustbench_local.classifier.input_contract import InputContract, format_size
from robustbench_local.classifier.literals import CropRounding, Interpolation
from robustbench_local.data.decode import Pixels

_FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def prepare_pixels(pixels: Pixels, contract: InputContract) -> Pixels:
    """Resize an image and crop its center, bit by bit as torchvision does it with images of PIL.

    Published models are evaluated on such images. Where the image is smaller than the crop, it is padded with
    black.

    Args:
        pixels: (H, W, C), uint8 or float32 in [0, 1].
        contract: The size, with how images are brought to it; without ``resize``, they are resized to just
            cover it. Values and channels of the contract do not matter here.

    Returns:
        (*contract.input_size, C), same dtype: 8-bit images stay on the 8-bit grid, so that the 8-bit check of
        an adversarial example is exact (trust invariant V4).
    """
    size, height, width = contract.input_size, *pixels.shape[:2]
    if size is None:
        return pixels
    target = find_resized_size((height, width), contract.resize, size)
    if target != (height, width):
        is_pils = pixels.dtype == np.uint8 and (contract.antialias or contract.interpolation == "lanczos")
        resize = _resize_as_pil if is_pils or contract.interpolation == "nearest" else _resize_tensor
        pixels = resize(pixels, target, contract)
    return _crop_center(pixels, size, contract.crop_rounding)


def format_preparation(contract: InputContract) -> str:
    """Return how photographs are brought to a contract's size: ``"shorter side 256, bicubic, ..."``."""
    if contract.resize is not None or contract.input_size is None:
        return contract.format_geometry()
    return (
        f"resized to cover {format_size(contract.input_size)}, {contract.interpolation}, and center-cropped"
    )


def describe_deviation(contract: InputContract, preparation: InputContract | None) -> str | None:
    """Return a note if photographs were prepared in another way than a model's own; None if not, or unknown.

    Args:
        contract: The model's contract.
        preparation: How the images of the data were resized; None if they were not.
    """
    size = contract.input_size
    is_stated = contract.resize is not None or contract.interpolation != "bilinear"
    if preparation is None or size is None or not is_stated or contract.geometry == preparation.geometry:
        return None
    again = "" if size == preparation.input_size else ", and resized again inside the model"
    return (
        f"its own preprocessing is {format_preparation(contract)}, but the images are prepared otherwise: "
        f"{format_preparation(preparation)}{again}; clean accuracy may be lower"
    )


def _resize_as_pil(pixels: Pixels, target: tuple[int, int], contract: InputContract) -> Pixels:
    channels = [
        np.asarray(Image.fromarray(channel).resize(target[::-1], _FILTERS[contract.interpolation]))
        for channel in np.moveaxis(pixels, 2, 0)
    ]
    return np.stack(channels, axis=2)


def _resize_tensor(pixels: Pixels, target: tuple[int, int], contract: InputContract) -> Pixels:
    """Resize what is not on the 8-bit grid, and what is shrunk without antialiasing, as torch does it."""
    white = 255 if pixels.dtype == np.uint8 else 1
    images = torch.tensor(pixels).permute(2, 0, 1)[None].float() / white
    resized = resize_images(images, target, contract.interpolation, antialias=contract.antialias)
    scaled = resized.clamp(0, 1) * white
    on_grid = scaled.round() if white == 255 else scaled
    return on_grid[0].permute(1, 2, 0).numpy().astype(pixels.dtype)


def _crop_center(pixels: Pixels, size: tuple[int, int], rounding: CropRounding) -> Pixels:
    """Crop the center, padded with black where the image is smaller."""
    top, left = (find_crop_start(pixels.shape[axis], size[axis], rounding) for axis in (0, 1))
    if top < 0 or left < 0:
        padding = [
            (max(0, -start), max(0, start + length - before))
            for start, length, before in zip((top, left), size, pixels.shape[:2], strict=True)
        ]
        pixels = np.pad(pixels, (*padding, (0, 0)))
        top, left = max(0, top), max(0, left)
    return pixels[top : top + size[0], left : left + size[1]]
