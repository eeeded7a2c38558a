"""Preprocessing from pixels in [0, 1] to a network's input, differentiable: the input contract in action."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.classifier.image_resize import crop_center, find_resized_size, resize_images
from robustbench_local.classifier.input_contract import InputContract


class Preprocessing:
    """Resizes, crops, orders, scales and normalizes images, and converts to the model's own dtype.

    Args:
        contract: How the model takes its images.
        device: Device of the images.
        dtype: Data type of the model's computation; everything before is computed in that of the images.
    """

    def __init__(self, contract: InputContract, device: torch.device, dtype: torch.dtype) -> None:
        self.contract, self._dtype = contract, dtype
        # Stored on the device: building them at every call would wait for a copy from the host.
        self._mean_and_std = [
            torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)
            for values in contract.normalization or ()
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the model's input for images (N, C, H, W) in [0, 1]; the images if nothing is to do."""
        images = scale_values(fit_size(images, self.contract), self.contract)
        if self._mean_and_std:
            mean, std = self._mean_and_std
            images = (images - mean) / std
        return images.to(self._dtype)


def fit_size(images: Tensor, contract: InputContract) -> Tensor:
    """Resize and crop images (N, C, H, W) to a model's input size; those that have it are not touched."""
    size = contract.input_size
    if size is None or images.shape[-2:] == size:
        return images
    # What the source does not say has been stretched ever since; covering would lose the borders.
    target = find_resized_size((images.shape[-2], images.shape[-1]), contract.resize or size, size)
    resized = resize_images(images, target, contract.interpolation, antialias=contract.antialias)
    return crop_center(resized, size, contract.crop_rounding)


def scale_values(images: Tensor, contract: InputContract) -> Tensor:
    """Bring channels and values of images (N, C, H, W) in [0, 1] to a model's order and range."""
    if contract.channel_order == "bgr":
        images = images.flip(1)
    return images if contract.value_scale == 1 else images * contract.value_scale
