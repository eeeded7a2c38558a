"""The fifteen common corruptions, each at five severities, reimplemented from the paper's definitions.

Each is a function of one image, its strength and its own generator. The published benchmarks are 8-bit
files, so the results here are on the 8-bit grid too.

Source: Hendrycks & Dietterich 2019, arXiv:1903.12261.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from robustbench_local.errors import DataError
from robustbench_local.randomness import RandomStream, derive_seed
from robustbench_local.threats.corruptions import blur, digital, noise, weather
from robustbench_local.threats.corruptions.severity_levels import (
    StrengthScale,
    select_scale,
    select_strengths,
)

CORRUPTION_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.apply_gaussian_noise,
    "shot_noise": noise.apply_shot_noise,
    "impulse_noise": noise.apply_impulse_noise,
    "defocus_blur": blur.apply_defocus_blur,
    "glass_blur": blur.apply_glass_blur,
    "motion_blur": blur.apply_motion_blur,
    "zoom_blur": blur.apply_zoom_blur,
    "snow": weather.apply_snow,
    "frost": weather.apply_frost,
    "fog": weather.apply_fog,
    "brightness": weather.apply_brightness,
    "contrast": digital.apply_contrast,
    "elastic_transform": digital.apply_elastic_transform,
    "pixelate": digital.apply_pixelate,
    "jpeg_compression": digital.apply_jpeg_compression,
}
"""Name -> function of an image (C, H, W) in [0, 1], the strengths and ``draws`` that returns (C, H, W)."""


def corrupt_images(
    images: Tensor, name: str, severity: int, stream: RandomStream, *, scale: StrengthScale | None = None
) -> Tensor:
    """Corrupt images, each with its own random numbers.

    Args:
        images: (N, C, H, W) in [0, 1], C = 1 or 3.
        name: One of ``threat_model.CORRUPTIONS``.
        severity: 1 to 5; 0 changes nothing.
        stream: The images' random numbers: the run's seed and the images' ids. All severities and classifiers
            use the same numbers.
        scale: Strengths of CIFAR-10-C (``"small"``) or ImageNet-C (``"large"``); None decides by the size.

    Returns:
        Same shape, device and dtype, on the 8-bit grid. An image's result does not depend on the others.

    Raises:
        DataError: If the images have neither one nor three channels.
    """
    if severity == 0 or not len(images):
        return images.clone()
    if images.shape[1] not in (1, 3):
        raise DataError(f"corruptions are for images of 1 or 3 channels, these have {images.shape[1]}")
    parameters = select_strengths(name, severity, scale or select_scale(*images.shape[-2:]))
    result, draws = torch.empty(images.shape), torch.Generator()
    for row, (identity, image) in enumerate(zip(stream.ids, images.detach().cpu().float(), strict=True)):
        draws.manual_seed(derive_seed(stream.seed, identity, name))
        result[row] = CORRUPTION_FUNCTIONS[name](image, *parameters, draws=draws)
    return ((result.clamp(0, 1) * 255).round() / 255).to(images)
